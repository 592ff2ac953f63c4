"""The scores of an evaluation, and the metrics by which states of a network are compared."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric

from prostate_alm.method.metrics import TooFewPositivesWarning, auc, fpr_at_tpr

LABELS, SAMPLE_IDS = "label", "sample_id"
"""Keys of a batch's targets."""

TPR_LEVELS_PERCENT = (100, 95, 90)
"""Where the paper's Table 2 reports the FPR."""


class RankingMetrics(Metric):
    """AUC, FPR at high TPR and the cross-entropy of all logits of a run, each by the functions of `method.metrics`.

    `val_score` orders states of a network: the AUC, ties broken by the cross-entropy, which never outweighs a
    difference of the AUC. Ties are common: with 3 positives and 10 negatives the AUC has 61 values.

    Attributes:
        sample_ids: ids in the order of evaluation.
        labels: (N,) float64.
        logits: (N,) float64.
    """

    def __init__(self) -> None:
        super().__init__(output_transform=lambda output: (output["pred"], output["label"]))

    def reset(self) -> None:
        """Forget everything seen."""
        self.sample_ids: list[str] = []
        self._labels: list[np.ndarray] = []
        self._logits: list[np.ndarray] = []

    def update(self, output: tuple[torch.Tensor, Mapping[str, Any]]) -> None:
        """Take the logits (B, 1) and the targets, labels (B,) and ids, of a batch."""
        logits, targets = output
        self.sample_ids.extend(targets[SAMPLE_IDS])
        self._labels.append(targets[LABELS].flatten().double().cpu().numpy())
        self._logits.append(logits.flatten().double().cpu().numpy())

    @property
    def labels(self) -> np.ndarray:
        """Labels in the order of evaluation, (N,)."""
        return np.concatenate(self._labels)

    @property
    def logits(self) -> np.ndarray:
        """Logits in the order of evaluation, (N,)."""
        return np.concatenate(self._logits)

    def completed(self, engine: Engine, name: str) -> None:
        """Put the metrics into the state of an engine, each by its own name; `name` is the one that MONAI compares."""
        engine.state.metrics |= self.compute()

    def compute(self) -> dict[str, float]:
        """Return the metrics by name, each starting with `val_`; none where there is one class only."""
        labels, logits = self.labels, self.logits
        if len(np.unique(labels)) < 2:
            return {}
        area = auc(labels, logits)
        cross_entropy = float(np.mean(np.logaddexp(0.0, logits) - labels * logits))
        positives = labels.sum()
        step = 0.5 / (positives * (len(labels) - positives))  # the smallest difference of two AUCs
        return {
            "val_auc": area,
            "val_loss": cross_entropy,
            "val_score": area - step * math.tanh(cross_entropy) / 2,
            **{f"val_{name}": value for name, value in fpr_at_high_tpr(labels, logits).items()},
        }


def fpr_at_high_tpr(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return the FPR at 100, 95 and 90 % TPR by name, e.g. `fpr_at_tpr95`.

    No warning about too few positives for a TPR: it would come after each epoch, and results state their number.

    Args:
        labels: (N,), 0 or 1.
        logits: (N,), larger for positives.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewPositivesWarning)
        return {f"fpr_at_tpr{level}": fpr_at_tpr(labels, logits, level / 100) for level in TPR_LEVELS_PERCENT}
