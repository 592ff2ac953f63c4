"""Other ways to train both arms: does the constraint still help, and does a better baseline make it needless?

    OMP_NUM_THREADS=1 python benchmarks/base_recipes.py DATASET_DIR OUTPUT_DIR [--settings 4/7-1:9 ...] [--recipes ...]

Each recipe is given to BCE alone and to BCE with the constraint, five members of the first draw, judged on training
images that no member draws (`league.py screen`): no test image is read. Prints, in percent, AUC and FPR at 100, 98, 95
and 90 % TPR of the ensemble, the mean AUC of a member, and the correlation of the members' scores of negatives. What is
there is not trained again; several processes may share the work.

The recipes: sharpness-aware minimisation (Foret et al. 2021), its ascent along F of all samples or of the positives
alone, and farther (after Shwartz-Ziv et al. 2023, arXiv:2312.02517); labels of the negatives smoothed; labels of both
smoothed in place of the penalty on the logits, and other weights of that penalty; positives mixed with positives (after
Zhang et al. 2018); a larger weight decay; the VS loss for F (Kini et al. 2021), also with SAM.
What the recipe is made of: 50 epochs after a whitening first layer (after Page 2018), the other layers with first
weights of greater variance (He et al. 2015). So also 100 epochs of it; Muon (Jordan et al. 2024), its momentum made
orthogonal; and either optimiser without the whitening (`he`), and with the weights that torch draws (`as-drawn`).
"""

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from league_training import (
    AS_IT_IS,
    SETTINGS,
    Recipe,
    Samples,
    adam_w,
    cascade,
    loss_of,
    outputs,
    plain_gradients,
    screen,
)
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from prostate_alm.method.lagrangian import ConstrainedLoss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["4/7-1:9"], metavar="PAIR-RATIO")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.recipes:
        print(name, flush=True)
        arms = ("bce", "bce+alm")
        screen(options.settings, arms, options.dataset_dir, options.output_dir / name, recipe=RECIPES[name])


def sharpness_aware(
    network: nn.Module, loss: ConstrainedLoss, batch: Any, *, radius: float, of_positives: bool = False
) -> None:
    """Leave the gradients at the place where F is worst within a radius of the weights."""
    chosen = batch["label"].flatten() == 1 if of_positives else torch.ones(len(batch["label"]), dtype=torch.bool)
    weights = list(network.parameters())
    base = loss.base(outputs(network, batch["image"][chosen]), batch["label"][chosen])
    ascent = torch.autograd.grad(base, weights)
    norm = torch.stack([one.norm() for one in ascent]).norm() + 1e-12
    _move(weights, ascent, radius / norm)
    plain_gradients(network, loss, batch)
    _move(weights, ascent, -radius / norm)


@torch.no_grad()
def _move(weights: list[nn.Parameter], along: tuple[Tensor, ...], scale: Tensor) -> None:
    for weight, direction in zip(weights, along, strict=True):
        weight.add_(direction * scale)


def mixed_positives(network: nn.Module, loss: ConstrainedLoss, batch: Any) -> None:
    """Leave the gradients for a batch in which each positive is mixed with another: at least half of it is its own."""
    rows = (batch["label"].flatten() == 1).nonzero().flatten()
    images = batch["image"].clone()
    share = 0.5 + 0.5 * torch.rand(len(rows), 1, 1, 1)
    images[rows] = share * images[rows] + (1 - share) * images[rows[torch.randperm(len(rows))]]
    plain_gradients(network, loss, batch | {"image": images})


class Smoothed(nn.Module):
    """BCE in which a negative is 0.05 positive, and a positive as much negative as is said."""

    def __init__(self, of_positives: float) -> None:
        super().__init__()
        self.highest = 1 - of_positives

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype).clamp(0.05, self.highest))


class VectorScaling(nn.Module):
    """log(1 + exp(ι_y - Δ_y y f)), y = ±1, ι_y = y log(n_- / n_+), Δ_y = (n_y / n_max)^0.2 (Kini et al. 2021)."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.scale, self.offset = torch.tensor([1.0, ratio**-0.2]), torch.tensor([1 / ratio, ratio]).log()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        sign, which = 2 * labels.to(logits.dtype) - 1, labels.long()
        return softplus(self.offset[which] - self.scale[which] * sign * logits).mean()


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose matrix, a row for each output, is replaced by the nearest orthogonal one; SGD for biases.

    The orthogonal factor is approximated by five steps of Newton and Schulz (Jordan et al. 2024); its rows have length
    1, and the step is scaled by sqrt(max(1, rows / columns)), so that the rate means the same for all shapes.
    """

    def __init__(self, weights: Iterable[nn.Parameter], *, rate: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("mean", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])
                if weight.ndim > 1:
                    rows = ahead.flatten(1)
                    scale = max(1, rows.shape[0] / rows.shape[1]) ** 0.5
                    weight.add_(_orthogonal(rows).view_as(ahead), alpha=-group["lr"] * scale)
                else:
                    weight.add_(ahead, alpha=-group["lr"])


def muon(network: nn.Module, _: ConstrainedLoss, *, rate: float = 0.02) -> Muon:
    return Muon(network.parameters(), rate=rate)


def _orthogonal(rows: Tensor) -> Tensor:
    wide = rows if rows.shape[0] <= rows.shape[1] else rows.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.7750 * gram + 2.0315 * gram @ gram) @ wide
    return wide if rows.shape[0] <= rows.shape[1] else wide.T


def as_drawn(_: Samples) -> nn.Module:
    """Return the network with the weights that torch draws."""
    return cascade(initial_scale=1.0)


def of_greater_variance(_: Samples) -> nn.Module:
    """Return it with He's variance, six times that of torch."""
    return cascade()


RECIPES = {
    "as-it-is": AS_IT_IS,
    "sam": Recipe(gradients=partial(sharpness_aware, radius=0.05)),
    "sam-positives": Recipe(gradients=partial(sharpness_aware, radius=0.2, of_positives=True)),
    "smoothed": Recipe(partial(loss_of, base=Smoothed(0.0))),
    "mixed": Recipe(gradients=mixed_positives),
    "smoothed-both": Recipe(partial(loss_of, base=Smoothed(0.05), penalty=0.0)),
    "no-penalty": Recipe(partial(loss_of, penalty=0.0)),
    "penalty-0.03": Recipe(partial(loss_of, penalty=0.03)),
    "penalty-0.3": Recipe(partial(loss_of, penalty=0.3)),
    "weight-decay": Recipe(optimizer=partial(adam_w, weight_decay=0.05)),
    "vs": Recipe(partial(loss_of, base=VectorScaling(9))),
    "vs-sam": Recipe(partial(loss_of, base=VectorScaling(9)), gradients=partial(sharpness_aware, radius=0.05)),
    "he": Recipe(network=of_greater_variance),
    "muon": Recipe(optimizer=muon),
    "he-muon": Recipe(network=of_greater_variance, optimizer=muon),
    "as-drawn": Recipe(network=as_drawn),
    "as-drawn-muon": Recipe(network=as_drawn, optimizer=muon),
    "as-drawn-100": Recipe(network=as_drawn, epochs=100),
    "100": Recipe(epochs=100),
}

if __name__ == "__main__":
    main()
