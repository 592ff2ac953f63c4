"""Other ways to train both arms: does the constraint still help, and does a better baseline make it needless?

    OMP_NUM_THREADS=1 python benchmarks/base_recipes.py DATASET_DIR OUTPUT_DIR [--settings 4/7-1:9 ...] [--recipes ...]

Each recipe is given to BCE alone and to BCE with the constraint, five members of the first draw, judged on training
images that no member draws (`league.py screen`): no test image is read. Prints, in percent, AUC and FPR at 98, 95 and
90 % TPR of the ensemble. What is there is not trained again; several processes may share the work.

The recipes: sharpness-aware minimisation (Foret et al. 2021), its ascent along F of all samples or of the positives
alone, and farther (after Shwartz-Ziv et al. 2023, arXiv:2312.02517); labels of the negatives smoothed; positives mixed
with positives (after Zhang et al. 2018); a larger weight decay; the VS loss for F (Kini et al. 2021), also with SAM.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from league import AS_IT_IS, SETTINGS, Recipe, outputs, plain_gradients, screen
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
        folder = options.output_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        print(name, flush=True)
        screen(options.settings, ("bce", "bce+alm"), options.dataset_dir, folder, recipe=RECIPES[name])


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


class SmoothedNegatives(nn.Module):
    """BCE in which a negative is 0.05 positive."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, labels.to(logits.dtype).clamp(min=0.05))


class VectorScaling(nn.Module):
    """log(1 + exp(ι_y - Δ_y y f)), y = ±1, ι_y = y log(n_- / n_+), Δ_y = (n_y / n_max)^0.2 (Kini et al. 2021)."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.scale, self.offset = torch.tensor([1.0, ratio**-0.2]), torch.tensor([1 / ratio, ratio]).log()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        sign, which = 2 * labels.to(logits.dtype) - 1, labels.long()
        return softplus(self.offset[which] - self.scale[which] * sign * logits).mean()


def with_base(network: nn.Module, loss: ConstrainedLoss, batch: Any, *, base: nn.Module, radius: float = 0.0) -> None:
    """Leave the gradients of another F."""
    loss.base = base
    if radius:
        sharpness_aware(network, loss, batch, radius=radius)
    else:
        plain_gradients(network, loss, batch)


RECIPES = {
    "as-it-is": AS_IT_IS,
    "sam": Recipe(partial(sharpness_aware, radius=0.05)),
    "sam-positives": Recipe(partial(sharpness_aware, radius=0.2, of_positives=True)),
    "smoothed": Recipe(partial(with_base, base=SmoothedNegatives())),
    "mixed": Recipe(mixed_positives),
    "weight-decay": Recipe(weight_decay=0.05),
    "vs": Recipe(partial(with_base, base=VectorScaling(9))),
    "vs-sam": Recipe(partial(with_base, base=VectorScaling(9), radius=0.05)),
}

if __name__ == "__main__":
    main()
