"""The constraint against other losses for imbalance and for the ROC curve, same splits, same number of steps.

    python -m pip install --no-deps --target .libauc libauc
    OMP_NUM_THREADS=1 python benchmarks/cifar10_rivals.py DATASET_DIR OUTPUT_DIR .libauc [--members 0 1 2 ...]

LibAUC is no dependency: it is read from a folder of its own. All rows share images, batches, first weights, number of
steps and selection of the best state by validation AUC (bundles/cifar10/train.json). Where the optimizer of a rival is
a matter of its own there are two, and the one with the greater mean AUC on the members' own validation images is shown.
The logits of each member are kept in OUTPUT_DIR and not trained again; several processes may share the members. Prints,
in percent, the ensemble's figures with all 1000 test positives, and as the mean of 100 draws of the positives at the
class ratio.

RankReg (Mohammadi et al., CVPR 2023) has no public code: the row is our reading of it, the squared rank of each
positive among the negatives of the batch and the 256 before, with a sigmoid in place of their differentiable sorting.
"""

import argparse
import copy
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.losses import AUCMLoss
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.method.metrics import auc
from prostate_alm.training.engines import Training
from prostate_alm.training.handlers import Checkpoint
from prostate_alm.training.results import summarise, summarise_extra

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "cifar10" / "train.json"
RATIOS = (9, 19)
ALL_MEMBERS = range(10)

Labels = Sequence[int]
Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Rival = Callable[[Labels, float], tuple[nn.Module, Optimizer | None]]
"""Training labels and class ratio -> F, and its optimizer where it is not the bundle's."""


class Formula(nn.Module):
    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.formula(logits.flatten(), labels.flatten().to(logits.dtype))


class Ldam(nn.Module):
    """Label-distribution-aware margins n^(-1/4), the rarer class's 0.5; re-weighted in the last fifth of the steps."""

    def __init__(self, labels: Labels, *, steps: int) -> None:
        super().__init__()
        positives = sum(labels)
        counts = torch.tensor([len(labels) - positives, positives], dtype=torch.float32)
        self.margins = 0.5 * (counts / counts.min()) ** -0.25
        effective = (1 - 0.9999) / (1 - 0.9999**counts)
        self.weights = effective / effective.mean()
        self.deferred = int(0.8 * steps)
        self.calls = 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.calls += 1
        rows = labels.flatten().long()
        shifted = logits.flatten() - (2 * rows - 1) * self.margins[rows]
        weights = self.weights[rows] if self.calls > self.deferred else None
        return bce(shifted, rows.to(shifted.dtype), weight=weights)


class RankReg(nn.Module):
    """BCE and the mean squared soft rank, in [0, 1], of the positives among recent negatives."""

    def __init__(self, *, weight: float = 1.0, memory: int = 256) -> None:
        super().__init__()
        self.weight, self.memory = weight, memory
        self.recent = torch.empty(0)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        flat, positive = logits.flatten(), labels.flatten() == 1
        negatives = torch.cat([flat[~positive], self.recent])
        self.recent = negatives.detach()[: self.memory]
        base = bce(flat, labels.flatten().to(flat.dtype))
        if not positive.any() or not len(negatives):
            return base
        ranks = torch.sigmoid(negatives[None, :] - flat[positive][:, None]).mean(1)  # (P,)
        return base + self.weight * ranks.square().mean()


class WithIndex(ConstrainedLoss):
    """A base that also takes the number of each sample, positives first, as LibAUC's pAUC losses do."""

    def __init__(self, base: nn.Module, ids: Sequence[str], labels: Labels) -> None:
        super().__init__(base)
        order = sorted(range(len(ids)), key=lambda row: -labels[row])
        self.number = {ids[row]: number for number, row in enumerate(order)}

    def forward(self, logits: Tensor, labels: Tensor, sample_ids: Sequence[str]) -> Tensor:
        index = torch.tensor([self.number[key] for key in sample_ids])
        return self.base(torch.sigmoid(logits.view(-1, 1)), labels.view(-1, 1), index)


def monai_aucm(
    labels: Labels, ratio: float, *, optimizer: Callable[..., torch.optim.Optimizer]
) -> tuple[nn.Module, Optimizer | None]:
    """Descend in the network, a and b, ascend in alpha: what the min-max problem asks of a plain optimizer."""
    loss = AUCMLoss(version="v2")
    base = Formula(lambda f, y: loss(torch.sigmoid(f).view(-1, 1), y.view(-1, 1)))
    base.aucm = loss
    return base, lambda parameters: optimizer(
        [{"params": [*parameters, loss.a, loss.b]}, {"params": [loss.alpha], "maximize": True}]
    )


def libauc_aucm(labels: Labels, ratio: float, *, rate: float) -> tuple[nn.Module, Optimizer | None]:
    from libauc.losses import AUCMLoss as LibAucm
    from libauc.optimizers import PESG

    loss = LibAucm(version="v2", device="cpu")
    base = Formula(lambda f, y: loss(torch.sigmoid(f).view(-1, 1), y.view(-1, 1)))
    base.aucm = loss
    return base, lambda parameters: PESG(list(parameters), loss_fn=loss, lr=rate, verbose=False, device="cpu")


def libauc_pauc(labels: Labels, ratio: float, *, rate: float) -> tuple[nn.Module, Optimizer | None]:
    from libauc.losses import pAUC_CVaR_Loss
    from libauc.optimizers import SOPA

    loss = pAUC_CVaR_Loss(data_len=len(labels), pos_len=sum(labels), device="cpu")
    return loss, lambda parameters: SOPA(list(parameters), lr=rate, device="cpu")


def logit_adjusted(labels: Labels, ratio: float) -> tuple[nn.Module, Optimizer | None]:
    prior = torch.log(torch.tensor(1 / ratio))
    return Formula(lambda f, y: bce(f + prior, y)), None


RIVALS: dict[str, list[Rival]] = {
    "BCE": [lambda labels, ratio: (Formula(bce), None)],
    "LDAM with deferred weights": [lambda labels, ratio: (Ldam(labels, steps=100 * -(-len(labels) // 64)), None)],
    "logit adjustment": [logit_adjusted],
    "RankReg": [lambda labels, ratio: (RankReg(), None)],
    "AUCM, MONAI": [
        partial(monai_aucm, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9)),
        partial(monai_aucm, optimizer=partial(torch.optim.AdamW, lr=0.002, weight_decay=1e-4)),
    ],
    "AUCM with PESG, LibAUC": [partial(libauc_aucm, rate=0.1), partial(libauc_aucm, rate=0.02)],
    "one-way pAUC with SOPA, LibAUC": [partial(libauc_pauc, rate=0.001), partial(libauc_pauc, rate=0.003)],
}
WITH_ALM = ("BCE", "LDAM with deferred weights", "logit adjustment", "RankReg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("libauc_dir", type=Path)
    parser.add_argument("--members", type=int, nargs="+", default=list(ALL_MEMBERS))
    parser.add_argument("--ratios", type=int, nargs="+", default=list(RATIOS))
    options = parser.parse_args()
    sys.path.append(str(options.libauc_dir))
    logging.disable(logging.INFO)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    rows = [(name, False) for name in RIVALS] + [(name, True) for name in WITH_ALM]
    for ratio in options.ratios:
        for member in options.members:
            for name, alm in rows:
                for candidate, rival in enumerate(RIVALS[name]):
                    file = member_file(options.output_dir, ratio, name, alm, candidate, member)
                    if not file.exists():
                        np.savez(file, **train(rival, ratio, alm=alm, member=member, dataset_dir=options.dataset_dir))
        print(f"\n1:{ratio}" + 38 * " " + "all positives: AUC, FPR@100, FPR@95, FPR@90 | draws at the ratio: the same")
        for name, alm in rows:
            print(line(options.output_dir, ratio, name, alm), flush=True)


def member_file(folder: Path, ratio: int, name: str, alm: bool, candidate: int, member: int) -> Path:
    text = f"{name}{' and ALM' if alm else ''}".replace(" ", "-").replace(",", "").lower()
    return folder / f"1-{ratio}-{text}-{candidate}-{member}.npz"


def train(rival: Rival, ratio: int, *, alm: bool, member: int, dataset_dir: Path) -> dict[str, Any]:
    """Return labels, logits of the test images (those at the ratio first), how many those are, own validation AUC."""
    config = ConfigParser(copy.deepcopy(ConfigParser.load_config_file(CONFIG)))
    with tempfile.TemporaryDirectory() as folder:
        config.update({"dataset_dir": str(dataset_dir), "output_dir": f"{folder}/out", "tracking_uri": "none"})
        config.update({"ratio": ratio, "member": member, "alm": alm})
        prepared = config.get_parsed_content("prepared")
        training: Training = config.get_parsed_content("member_training")
        base, optimizer = rival(prepared.train_labels, ratio)
        if "pAUC" in type(base).__name__:
            training.trainer.loss_function.whole = WithIndex(base, prepared.train_ids, prepared.train_labels)
        else:
            training.trainer.loss_function.whole.base = base
        if optimizer is not None:
            training.trainer.optimizer = optimizer(training.network.parameters())
        # optimizers of LibAUC hold what no checkpoint can
        training.trainer.remove_event_handler(training.handler(Checkpoint), Events.EPOCH_COMPLETED)
        training.run()
    validation, test, extra = training.scores().values()
    return {
        "labels": np.concatenate([test.labels, extra.labels]),
        "logits": np.concatenate([test.logits, extra.logits]),
        "at_ratio": len(test.labels),
        "validation_auc": auc(validation.labels, validation.logits),
    }


def line(folder: Path, ratio: int, name: str, alm: bool) -> str:
    candidates = []
    for candidate in range(len(RIVALS[name])):
        files = [member_file(folder, ratio, name, alm, candidate, member) for member in ALL_MEMBERS]
        candidates.append([np.load(file) for file in files if file.exists()])
    members = max(candidates, key=lambda each: np.mean([member["validation_auc"] for member in each]))
    labels, logits = members[0]["labels"], np.mean([member["logits"] for member in members], axis=0)
    cut = int(members[0]["at_ratio"])
    figures = summarise_extra(labels[:cut], logits[:cut], extra_logits=logits[cut:])
    summary = (summarise(labels, logits), figures["test_draws"])
    cells = [
        " ".join(f"{100 * one[key]:5.1f}" for key in ("auc", "fpr_at_tpr100", "fpr_at_tpr95", "fpr_at_tpr90"))
        for one in summary
    ]
    return f"{name + (' and ALM' if alm else ''):38} {len(members):2d} members  {cells[0]}  | {cells[1]}"


if __name__ == "__main__":
    main()
