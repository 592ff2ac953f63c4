"""The scores of an evaluation of maps: the cases', and those of their lesions against the background."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prostate_alm.method.lesions import TEMPERATURE_LOGIT, background, case_logits, lesion_auc, lesion_scores
from prostate_alm.training.scores import LESIONS, RankingMetrics


class LesionMetrics(RankingMetrics):
    """As `RankingMetrics` for the cases, whose logit is the soft maximum of their map, and the figures of lesions.

    `val_lesion_auc` is the mean over lesions of the share of background voxels that a lesion outranks (ties half).
    `val_score` orders states by the case AUC, ties broken by `val_lesion_auc`, which never outweighs a difference of
    the case AUC: with few cases their AUC is 1 long before the map is good.

    Args:
        counts: number of lesions of each sample by id, whether the crop shows them or not.
        temperature: T of the soft maxima, above 0, in logits.
        rim_voxels: how far from a lesion voxels are not background, as in the constraint.
    """

    def __init__(
        self, counts: Mapping[str, int], *, temperature: float = TEMPERATURE_LOGIT, rim_voxels: int = 1
    ) -> None:
        self._counts = counts
        self._temperature, self._rim_voxels = temperature, rim_voxels
        super().__init__()

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        self._of_lesions: list[float] = []
        self._background: list[Tensor] = []

    def update(self, output: tuple[Tensor, Mapping[str, Any]]) -> None:
        """Take the maps (B, 1, X, Y, Z) and the targets, labels (B,), ids and lesions, of a batch."""
        maps, targets = output
        super().update((case_logits(maps.double(), temperature=self._temperature), targets))
        scores, _ = lesion_scores(maps.double(), targets[LESIONS], temperature=self._temperature)
        self._of_lesions += scores.tolist()
        self._background.append(maps[background(targets[LESIONS], rim_voxels=self._rim_voxels)].cpu())

    def lesion_figures(self) -> dict[str, float]:
        """Return the figures of lesions by name; none where there is none."""
        if not self._of_lesions:
            return {}
        return {"lesion_auc": lesion_auc(self._of_lesions, torch.cat(self._background))}

    def compute(self) -> dict[str, float]:
        """Return the metrics by name, each starting with `val_`; none where there is one class of cases only."""
        of_cases, of_lesions = super().compute(), self.lesion_figures()
        if not of_cases or not of_lesions:
            return {}
        positives = self.labels.sum()
        step = 0.5 / (positives * (len(self.labels) - positives))  # the smallest difference of two AUCs
        outranked = max(1 - of_lesions["lesion_auc"], 1e-9)
        score = of_cases["val_auc"] - step / 2 * (1 + math.log10(outranked) / 9)  # the logarithm is in [-9, 0]
        return of_cases | {"val_score": score} | {f"val_{name}": value for name, value in of_lesions.items()}
