"""The scores of an evaluation of maps: the cases', and those of their lesions against the background."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prostate_alm.method.lesion_candidates import lesion_candidates
from prostate_alm.method.lesion_metrics import (
    Detections,
    false_positives_at_sensitivity,
    lesion_average_precision,
    match_lesions,
)
from prostate_alm.method.lesions import TEMPERATURE_LOGIT, background, case_logits, lesion_auc, lesion_scores
from prostate_alm.training.scores import LESIONS, RankingMetrics

SENSITIVITY_LEVELS_PERCENT = (100, 95, 90)
"""Where false positives per case are reported."""


class LesionMetrics(RankingMetrics):
    """As `RankingMetrics` for the cases, whose logit is the soft maximum of their map, and the figures of lesions.

    `val_lesion_auc` is the mean over lesions of the share of background voxels that a lesion outranks (ties half).
    `val_score` orders states by the case AUC, ties broken by `val_lesion_auc`, which never outweighs a difference of
    the case AUC: with few cases their AUC is 1 long before the map is good.

    Args:
        counts: number of lesions of each sample by id, whether the crop shows them or not.
        temperature: T of the soft maxima, above 0, in logits.
        rim_voxels: how far from a lesion voxels are not background, as in the constraint.

    Attributes:
        counts: as given.
    """

    def __init__(
        self, counts: Mapping[str, int], *, temperature: float = TEMPERATURE_LOGIT, rim_voxels: int = 1
    ) -> None:
        self.counts = counts
        self._temperature, self._rim_voxels = temperature, rim_voxels
        super().__init__()

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        self._maps: list[Tensor] = []
        self._lesions: list[Tensor] = []

    def update(self, output: tuple[Tensor, Mapping[str, Any]]) -> None:
        """Take the maps (B, 1, X, Y, Z) and the targets, labels (B,), ids and lesions, of a batch."""
        maps, targets = output
        super().update((case_logits(maps.double(), temperature=self._temperature), targets))
        self._maps.append(maps.cpu())
        self._lesions.append(targets[LESIONS].cpu())

    @property
    def maps(self) -> Tensor:
        """Maps in the order of evaluation, (N, 1, X, Y, Z)."""
        return torch.cat(self._maps)

    @property
    def lesions(self) -> Tensor:
        """Lesions in the order of evaluation, of the shape of the maps."""
        return torch.cat(self._lesions)

    def detections(self) -> list[Detections]:
        """Return what the candidates of each case found; a lesion that the crop cut or left out was not found."""
        pairs = zip(self.maps[:, 0], self.lesions[:, 0], strict=True)
        return [
            detections_of(one.numpy(), lesions.numpy(), count=self.counts[key])
            for key, (one, lesions) in zip(self.sample_ids, pairs, strict=True)
        ]

    def lesion_figures(self) -> dict[str, float]:
        """Return the figures of lesions by name; none where there is none.

        `lesion_fp_per_case_at_sens95` and the like are absent where too many lesions were found by no candidate.
        """
        if not any(self.counts[key] for key in self.sample_ids):
            return {}
        cases = self.detections()
        at_levels = {
            f"lesion_fp_per_case_at_sens{level}": false_positives_at_sensitivity(cases, level / 100)
            for level in SENSITIVITY_LEVELS_PERCENT
        }
        return {
            **self._auc(),
            "lesion_ap": lesion_average_precision(cases),
            **{name: value for name, value in at_levels.items() if math.isfinite(value)},
            "lesions": sum(len(case.found) for case in cases),
        }

    def compute(self) -> dict[str, float]:
        """Return the metrics by name, each starting with `val_`; none where there is one class of cases only.

        Where the crops show no whole lesion they are those of `RankingMetrics`.
        """
        of_cases, of_lesions = super().compute(), self._auc()
        if not of_cases or not of_lesions:
            return of_cases
        positives = self.labels.sum()
        step = 0.5 / (positives * (len(self.labels) - positives))  # the smallest difference of two AUCs
        outranked = max(1 - of_lesions["lesion_auc"], 1e-9)
        score = of_cases["val_auc"] - step / 2 * (1 + math.log10(outranked) / 9)  # the logarithm is in [-9, 0]
        return of_cases | {"val_score": score} | {f"val_{name}": value for name, value in of_lesions.items()}

    def _auc(self) -> dict[str, float]:
        maps, lesions = self.maps, self.lesions
        scores, _ = lesion_scores(maps.double(), lesions, temperature=self._temperature)
        outside = maps[background(lesions, rim_voxels=self._rim_voxels)]
        return {"lesion_auc": lesion_auc(scores.tolist(), outside)} if len(scores) and len(outside) else {}


def detections_of(logits: np.ndarray, lesions: np.ndarray, *, count: int) -> Detections:
    """Return what the candidates of a map found among the lesions of its case.

    Args:
        logits: (X, Y, Z).
        lesions: same shape: 0 background, k >= 1 the k-th lesion, -1 of a lesion that the crop cut.
        count: number of lesions of the case; those of which no voxel has a number were not found.

    >>> detections_of(np.zeros((2, 2, 2)), np.full((2, 2, 2), -1), count=1).found
    array([-inf])
    """
    matched = match_lesions(lesion_candidates(logits), np.maximum(lesions, 0))
    lost = np.full(count - len(matched.found), -math.inf)
    return Detections(np.concatenate([matched.found, lost]), matched.false_positives)
