"""Other answers to imbalance, and losses for the ROC curve, against BCE with the constraint, on easy and hard pairs.

    python -m pip install --no-deps --target .rivals libauc imbalanced-losses
    OMP_NUM_THREADS=1 python benchmarks/rivals.py train DATASET_DIR OUTPUT_DIR .rivals [--settings ...] [--draws 0 1 2]
    python benchmarks/rivals.py table OUTPUT_DIR TABLE.csv

The packages are no dependencies: they are read from a folder of their own. Images, batches, first weights, number of
steps and the mean of the weights are the league's (`league.py`), whose members of BCE, MBAUC and BCE
with the constraint `train` trains, too, in the same folder. No rival has the recipe's penalty on the logits, and
`mbauc-alone` is MBAUC without it, `smoothed` BCE with 0.05 of each label given to the other class. A rival's rates are
the defaults of its package, nothing was searched for any; of the loss with a budget the band of FPR ends at 0.3, and no
queue holds scores of older weights.
`table` writes each rival's figures, those of BCE with the constraint, and their difference with its 95 % interval.

RankReg (Mohammadi et al., CVPR 2023) and the bound on precision at fixed recall (Eban et al., AISTATS 2017) have no
package here. RankReg is BCE and the squared normalised rank of each positive among the batch and the negatives before
it; the rank is the true one, differentiated as a black box (Rolínek et al., CVPR 2020). Precision at 95 % recall is a
hinge on the negatives, with a hinge on the positives held below 5 % of their number by a multiplier, and a threshold.
"""

import argparse
import sys
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from base_recipes import Smoothed, VectorScaling, as_drawn, sharpness_aware
from league import DEFAULT_METHODS, compare_complete, table_rows, write_rows
from league_training import (
    DRAWS,
    EPOCHS,
    MEMBERS,
    SETTINGS,
    Entry,
    Recipe,
    Samples,
    class_counts,
    play,
)
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.method.losses import make_loss

PLAYED = ("4/7-1:9", "3/5-1:19", "0/1-1:9")
RECOMMENDED = "bce+alm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("train")
    trains.add_argument("dataset_dir", type=Path)
    trains.add_argument("output_dir", type=Path)
    trains.add_argument("packages", type=Path)
    trains.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), metavar="NAME")
    trains.add_argument("--settings", nargs="+", choices=SETTINGS, default=PLAYED, metavar="PAIR-RATIO")
    trains.add_argument("--draws", nargs="+", type=int, default=list(DRAWS))
    prints = commands.add_parser("table")
    prints.add_argument("output_dir", type=Path)
    prints.add_argument("csv_file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "table":
        write_table(options.output_dir, options.csv_file)
        return
    sys.path.append(str(options.packages))
    methods = [*options.rivals, *DEFAULT_METHODS[:3]]
    for draw, setting, member, method in product(options.draws, options.settings, MEMBERS, methods):
        recipe = RIVALS.get(method, Recipe())
        play(Entry(setting, method, draw, member), options.dataset_dir, options.output_dir, recipe=recipe)


def write_table(folder: Path, csv_file: Path) -> None:
    """Write what BCE with the constraint changes against each rival that is complete, over the draws that both have."""
    rows = []
    for setting, rival in product(SETTINGS, [*RIVALS, "bce", "mbauc"]):
        if effect := compare_complete(folder, setting, rival, RECOMMENDED):
            rows += table_rows(setting, rival, [effect])
    write_rows(rows, csv_file)


# --- losses that are written here ---------------------------------------------------------------------------------


class Deferred(nn.Module):
    """LDAM: margins n^(-1/4), the rarer class has 0.5; weighed in the last fifth of the steps (Cao et al. 2019)."""

    def __init__(self, training: Samples, *, steps: int) -> None:
        super().__init__()
        counts = torch.tensor(class_counts(training), dtype=torch.float32)
        self.margins = 0.5 * (counts / counts.min()) ** -0.25
        effective = (1 - 0.9999) / (1 - 0.9999**counts)
        self.weights = effective / effective.mean()
        self.deferred, self.calls = int(0.8 * steps), 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        rows = labels.long()
        shifted = logits - (2 * rows - 1) * self.margins[rows]
        weights = self.weights[rows] if self.calls > self.deferred else None
        return binary_cross_entropy_with_logits(shifted, rows.to(shifted.dtype), weight=weights)


class LogitAdjusted(nn.Module):
    """BCE of f + log(n_+ / n_-) (Menon et al. 2021)."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.prior = torch.tensor(1 / ratio).log()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits + self.prior, labels.to(logits.dtype))


class BlackBoxRank(torch.autograd.Function):
    """Ranks of scores, 0 for the greatest, divided by their number; the gradient is a finite difference.

    With g the gradient by the ranks, that by the scores is (rank(s + step g) - rank(s)) / step (Rolínek et al. 2020).
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, step: float) -> Tensor:
        ranks = _ranks(scores)
        ctx.save_for_backward(scores, ranks)
        ctx.step = step
        return ranks

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        scores, ranks = ctx.saved_tensors
        return (_ranks(scores + ctx.step * gradient) - ranks) / ctx.step, None


def _ranks(scores: Tensor) -> Tensor:
    return scores.argsort(descending=True).argsort().to(scores.dtype) / len(scores)


class RankReg(nn.Module):
    """BCE and the mean squared rank of the positives among the batch and the negatives before it."""

    def __init__(self, *, weight: float = 1.0, step: float = 1.0, memory: int = 256) -> None:
        super().__init__()
        self.weight, self.step, self.memory = weight, step, memory
        self.recent = torch.empty(0)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        positive = labels == 1
        everyone = torch.cat([logits[positive], logits[~positive], self.recent])
        self.recent = everyone[positive.sum() :].detach()[: self.memory]
        base = binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        ranks = BlackBoxRank.apply(everyone, self.step)[: positive.sum()]  # type: ignore[no-untyped-call]
        return base + self.weight * ranks.square().sum() / max(1, int(positive.sum()))


class PrecisionAtRecall(nn.Module):
    """Few negatives above a threshold of which recall is at least as asked, in hinges, by a multiplier that ascends.

    Σ_negatives max(0, 1 + f - b) + λ (Σ_positives max(0, 1 - f + b) - (1 - recall) n_+), over the batch's size.
    """

    def __init__(self, training: Samples, *, recall: float = 0.95) -> None:
        super().__init__()
        negatives, positives = class_counts(training)
        self.recall = recall
        self.threshold = nn.Parameter(torch.tensor(0.0))
        self.multiplier = nn.Parameter(torch.tensor(negatives / positives))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        positive = labels == 1
        above = (1 + logits - self.threshold)[~positive].clamp(min=0).sum()
        missed = (1 - logits + self.threshold)[positive].clamp(min=0).sum()
        slack = missed - (1 - self.recall) * positive.sum()
        return (above + self.multiplier.clamp(min=0) * slack) / len(logits)


def up_and_down(network: nn.Module, loss: ConstrainedLoss) -> torch.optim.Optimizer:
    """Descend in the network and the threshold, ascend in the multiplier."""
    rates: dict[str, Any] = {"lr": 0.002, "weight_decay": 1e-4}
    multiplier = {"params": [loss.base.multiplier], "maximize": True, "lr": 0.02, "weight_decay": 0.0}
    return torch.optim.AdamW([{"params": [*network.parameters(), loss.base.threshold]}, multiplier], **rates)


class Flat(nn.Module):
    """A loss of a package that takes scores (B, 1) of its own scale and labels."""

    def __init__(self, loss: nn.Module, *, probabilities: bool) -> None:
        super().__init__()
        self.loss, self.probabilities = loss, probabilities

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        scores = logits.sigmoid() if self.probabilities else logits
        labels = labels.view(-1, 1) if self.probabilities else labels.long()
        value: Tensor = self.loss(scores.view(-1, 1), labels)
        return value


class Numbered(ConstrainedLoss):
    """A loss of LibAUC that remembers each sample by its number, positives first."""

    def __init__(self, loss: nn.Module, training: Samples) -> None:
        super().__init__(loss)
        ordered = sorted(training, key=lambda sample: -sample["label"])
        self.number = {sample["sample_id"]: number for number, sample in enumerate(ordered)}

    def forward(self, logits: Tensor, labels: Tensor, sample_ids: Iterable[Any]) -> Tensor:
        index = torch.tensor([self.number[key] for key in sample_ids])
        value: Tensor = self.base(logits.sigmoid().view(-1, 1), labels.view(-1, 1), index)
        return value


# --- losses and optimizers of packages ----------------------------------------------------------------------------


def auc_margin(_: Entry, training: Samples) -> ConstrainedLoss:
    from libauc.losses import AUCMLoss

    return ConstrainedLoss(Flat(AUCMLoss(version="v2", device="cpu"), probabilities=True))


def pesg(network: nn.Module, loss: ConstrainedLoss) -> torch.optim.Optimizer:
    from libauc.optimizers import PESG

    return PESG(list(network.parameters()), loss_fn=loss.base.loss, lr=0.1, verbose=False, device="cpu")


def one_way(_: Entry, training: Samples) -> ConstrainedLoss:
    from libauc.losses import pAUC_CVaR_Loss

    positives = class_counts(training)[1]
    return Numbered(pAUC_CVaR_Loss(data_len=len(training), pos_len=positives, device="cpu"), training)


def sopa(network: nn.Module, _: ConstrainedLoss) -> torch.optim.Optimizer:
    from libauc.optimizers import SOPA

    return SOPA(list(network.parameters()), device="cpu")


def two_way(_: Entry, training: Samples) -> ConstrainedLoss:
    from libauc.losses import tpAUC_KL_Loss

    return Numbered(tpAUC_KL_Loss(data_len=len(training), device="cpu"), training)


def sota(network: nn.Module, loss: ConstrainedLoss) -> torch.optim.Optimizer:
    from libauc.optimizers import SOTAs

    return SOTAs(list(network.parameters()), loss_fn=loss.base, mode="adam", device="cpu")


def of_package(_: Entry, training: Samples, *, name: str, **given: Any) -> ConstrainedLoss:
    import imbalanced_losses

    return ConstrainedLoss(Flat(getattr(imbalanced_losses, name)(num_classes=1, **given), probabilities=False))


# --- who plays ----------------------------------------------------------------------------------------------------


def own(make: Callable[[Entry, Samples], nn.Module]) -> Callable[[Entry, Samples], ConstrainedLoss]:
    return lambda entry, training: ConstrainedLoss(make(entry, training))


def ratio_of(entry: Entry) -> int:
    return SETTINGS[entry.setting].ratio


RIVALS: dict[str, Recipe] = {
    "ldam-deferred": Recipe(own(lambda _, training: Deferred(training, steps=EPOCHS * -(-len(training) // 64)))),
    "logit-adjustment": Recipe(own(lambda entry, _: LogitAdjusted(ratio_of(entry)))),
    "vs-sam": Recipe(
        own(lambda entry, _: VectorScaling(ratio_of(entry))), gradients=partial(sharpness_aware, radius=0.05)
    ),
    "mbauc-alone": Recipe(own(lambda *_: make_loss("mbauc"))),
    "smoothed": Recipe(own(lambda *_: Smoothed(0.05))),
    "rankreg": Recipe(own(lambda *_: RankReg())),
    "recall-95": Recipe(own(lambda _, training: PrecisionAtRecall(training)), optimizer=up_and_down),
    "aucm": Recipe(auc_margin, optimizer=pesg, network=as_drawn),  # at its rate of 0.1 others do not train
    "one-way-pauc": Recipe(one_way, optimizer=sopa),
    "two-way-pauc": Recipe(two_way, optimizer=sota),
    "pauc-budget": Recipe(partial(of_package, name="PAUCAtBudgetLoss", beta=0.3, surrogate="pairwise", queue_size=0)),
    "smooth-ap": Recipe(partial(of_package, name="SmoothAPLoss", queue_size=0)),
}

if __name__ == "__main__":
    main()
