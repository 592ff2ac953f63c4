"""Other forms of the constraint, each in the place of the recommended one: does any gain more, or harm less?

    OMP_NUM_THREADS=1 python benchmarks/constraint_forms.py DATASET_DIR OUTPUT_DIR [--settings ...] [--forms ...]

Five members of the first draw, judged on training images that no member draws (`league.py screen`): no test image is
read. Prints what base_recipes.py prints. What is there is not trained again.

In the `hard` form a positive weighs min(lambda_j + mu r_j, 3), r_j its mean violation over the batch's negatives, and
lambda never falls (docs/method.md). The recommended form is `relaxed-0.1`. All have the same margin, mu and bound:

- `top-25`, `top-50`: r_j over the quarter or half of the negatives that violate most, the conditional value at risk
  in the band of FPR that matters;
- `trimmed`: the tenth of the training positives whose last r_j was greatest weighs nothing, a quantile as constraint;
- `relaxed-0.05` to `relaxed-1`: a constraint may be relaxed to r_j <= s at the price s^2 / 2p, p being the number in
  the name, so that lambda also falls: (lambda_j + mu r_j) / (1 + mu p);
- `signed-10`, `signed-25`: r_j is the mean of margin - (f_j - f_k) over the tenth or quarter of the negatives that
  stand highest, below 0 where the positive outranks them, so that lambda falls (Rockafellar's form for inequalities);
- `cross-fitted`: the bound of a positive is 3 times the share of its member's training negatives that it outranks in
  the eyes of the other members, which never trained on it, of the loss alone.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from league_training import (
    MEMBERS,
    SETTINGS,
    Entry,
    Recipe,
    Samples,
    all_training_images,
    base_loss,
    play,
    screen,
    share_outranked,
)
from torch import Tensor, nn

from prostate_alm.method.lagrangian import AugmentedLagrangian

MARGIN, MU, BOUND = 1.0, 3.0, 3.0
LOSSES = ("bce", "mbauc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument(
        "--settings", nargs="+", choices=SETTINGS, default=["4/7-1:9", "2/3-1:19"], metavar="PAIR-RATIO"
    )
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=["bce"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.forms:
        print(name, flush=True)
        form = FORMS[name]
        if name == "cross-fitted":
            form = partial(form, dataset_dir=options.dataset_dir, folder=options.output_dir / "all-images")
        screen(
            options.settings, options.losses, options.dataset_dir, options.output_dir / name, recipe=Recipe(loss=form)
        )


class Form(nn.Module):
    """F and a constraint in another form, in the shape that the league trains.

    The gradient is that of the augmented Lagrangian, the new multipliers times those of the violations; the value is
    not used. A positive keeps its multiplier and its last violation by its id.
    """

    def __init__(
        self,
        base: nn.Module,
        training: Samples,
        *,
        top: float = 1.0,
        trimmed: float = 0.0,
        price: float = 0.0,
        signed: bool = False,
        bounds: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.base, self.term = base, self
        self.top, self.trimmed, self.price, self.lowest = top, trimmed, price, -math.inf if signed else 0.0
        ids = [sample["sample_id"] for sample in training if sample["label"]]
        self.bounds = bounds or dict.fromkeys(ids, BOUND)
        self.multipliers, self.violations = dict.fromkeys(ids, 0.0), dict.fromkeys(ids, 0.0)
        # the schedule of mu is that of the recommended form
        self.schedule = AugmentedLagrangian(ids, mu=MU, multiplier_max=BOUND)
        self.pending: dict[str, float] = {}

    def forward(self, logits: Tensor, labels: Tensor, sample_ids: list[str]) -> Tensor:
        logits, is_positive = logits.flatten(), labels.flatten() == 1
        loss: Tensor = self.base(logits, labels)
        if not is_positive.any() or is_positive.all():
            return loss
        ids = [key for key, positive in zip(sample_ids, is_positive.tolist(), strict=True) if positive]
        r = self._violation(logits[is_positive], logits[~is_positive])
        old, bounds = (r.new_tensor([values[key] for key in ids]) for values in (self.multipliers, self.bounds))
        mu = self.schedule.mu
        new = torch.minimum(((old + mu * r.detach()) / (1 + mu * self.price)).clamp(min=0), bounds)
        self.violations.update(zip(ids, r.tolist(), strict=True))
        self.pending = dict(zip(ids, new.tolist(), strict=True))
        return loss + (new * self._kept(ids, like=r) * r).sum() / len(ids)

    def _violation(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return (P,), the mean over the share of the negatives that violate most."""
        pairs = (MARGIN - (positives[:, None] - negatives[None, :])).clamp(min=self.lowest)  # (P, N)
        return pairs.topk(max(1, round(self.top * pairs.shape[1])), dim=1).values.mean(1)

    def _kept(self, ids: list[str], *, like: Tensor) -> Tensor:
        if not self.trimmed:
            return torch.ones_like(like)
        limit = float(np.quantile(list(self.violations.values()), 1 - self.trimmed))
        return like.new_tensor([self.violations[key] <= limit for key in ids])

    def update_multipliers(self) -> None:
        self.multipliers.update(self.pending)
        self.pending = {}

    def observe_validation(self, validation_auc: float) -> None:
        self.schedule.observe_validation(validation_auc)


def in_form(entry: Entry, training: Samples, **form: Any) -> Form:
    return Form(base_loss(entry.method, training, ratio=SETTINGS[entry.setting].ratio), training, **form)


def cross_fitted(entry: Entry, training: Samples, *, dataset_dir: Path, folder: Path) -> Form:
    """Bound each positive by what the other members of the loss alone say of it."""
    others = [Entry(entry.setting, entry.method, entry.draw, member) for member in MEMBERS if member != entry.member]
    for other in others:
        play(other, dataset_dir, folder, judge=all_training_images)
    logits = np.mean([np.load(other.file(folder))["logits"] for other in others], axis=0)
    rows = {value: np.array([int(one["sample_id"]) for one in training if one["label"] == value]) for value in (0, 1)}
    outranked = share_outranked(logits, rows[1], rows[0])
    bounds = {str(row): BOUND * float(share) for row, share in zip(rows[1], outranked, strict=True)}
    return in_form(entry, training, bounds=bounds)


FORMS: dict[str, Callable[..., Form]] = {
    "hard": in_form,
    "top-25": partial(in_form, top=0.25),
    "top-50": partial(in_form, top=0.5),
    "trimmed": partial(in_form, trimmed=0.1),
    **{f"relaxed-{price}": partial(in_form, price=price) for price in (0.05, 0.1, 0.2, 0.5, 1)},
    "signed-10": partial(in_form, signed=True, top=0.1),
    "signed-25": partial(in_form, signed=True, top=0.25),
    "cross-fitted": cross_fitted,
}

if __name__ == "__main__":
    main()
