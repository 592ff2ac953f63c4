"""The scores of an evaluation, and the metrics by which states of a network are compared."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.metrics import Metric

from prostate_alm.method.class_metrics import (
    balanced_accuracy,
    confusion_table,
    critical_scores,
    decide,
    mean_rest_accuracy,
    require_critical,
    rest_error_of_columns,
    rivals_of,
    suffix_of,
)
from prostate_alm.method.metrics import TooFewPositivesWarning, auc, fpr_at_tpr, threshold_at_tpr

REST_TPR_PERCENT = (80, 90, 95, 98)
"""Where the figures of a critical class among many are reported."""

Figure = Callable[[Any, Any], float]


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Class numbers and logits of N samples, and which classes are critical.

    Attributes:
        classes: (N,), 0..K-1.
        logits: (N, K).
        critical: the gravest first.
        ordered: whether its order is one of gravity: the rivals of each are those that are less grave.
    """

    classes: np.ndarray
    logits: np.ndarray
    critical: tuple[int, ...]
    ordered: bool

    def of(self, critical: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what the figures of a critical class are made of, without samples of graver classes.

        Returns:
            Labels (n,), 1 for the class; columns (n, 4): log-odds; whether its class is found among the others; whether
            the arg-max of all logits finds it; its class.
        """
        rivals = rivals_of(self.critical, classes=self.logits.shape[1], ordered=self.ordered)[critical]
        rows = np.isin(self.classes, [critical, *rivals])
        classes, logits = self.classes[rows], self.logits[rows]
        rest = np.array(rivals)[logits[:, list(rivals)].argmax(axis=1)]
        columns = [critical_scores(logits, critical, rivals=rivals), rest == classes, logits.argmax(1) == classes]
        return (classes == critical).astype(float), np.column_stack([*columns, classes]).astype(float)

    def figures(self) -> dict[str, float]:
        """Return the figures of each critical class but AUC and FPR of the first, which two classes have, too."""
        figures: dict[str, float] = {}
        for critical in self.critical:
            figures |= {name: metric(*self.of(critical)) for name, metric in self.metrics_of(critical).items()}
        return figures

    def metric_names(self) -> list[str]:
        """Return the names of `figures`."""
        return [name for critical in self.critical for name in self.metrics_of(critical)]

    def metrics_of(self, critical: int) -> dict[str, Figure]:
        """Return the figures of a critical class by name, as functions of what `of` returns."""
        if critical == self.critical[0]:
            return {**METRICS, "balanced_accuracy": _balanced}
        return {f"{name}{suffix_of(critical, self.critical)}": metric for name, metric in (_OF_TWO | METRICS).items()}

    def confusion(self, *, tpr_percent: int) -> np.ndarray:
        """Return how many samples of each class (rows) are called which (columns), each critical one at its TPR."""
        cascade = ClassScores(self.classes, self.logits, self.critical, True)
        reduced = {c: cascade.of(c) for c in self.critical}
        thresholds = {c: threshold_at_tpr(y, columns[:, 0], tpr_percent / 100) for c, (y, columns) in reduced.items()}
        called = decide(self.logits, thresholds)
        return confusion_table(self.classes, called, classes=self.logits.shape[1])


def _of_score(metric: Figure) -> Figure:
    return partial(_first_column, metric)


def _first_column(metric: Figure, labels: np.ndarray, columns: np.ndarray) -> float:
    return metric(labels, columns[:, 0])


def _rest_error(labels: np.ndarray, columns: np.ndarray, *, tpr: float) -> float:
    return rest_error_of_columns(labels, columns, tpr=tpr)


def _balanced(labels: np.ndarray, columns: np.ndarray) -> float:
    classes = columns[:, 3]
    return float(np.mean([columns[classes == one, 2].mean() for one in np.unique(classes)]))


METRICS: dict[str, Figure] = {
    **{f"rest_error_at_tpr{t}": partial(_rest_error, tpr=t / 100) for t in REST_TPR_PERCENT},
    **{f"fpr_at_tpr{t}": _of_score(partial(fpr_at_tpr, tpr=t / 100)) for t in REST_TPR_PERCENT},
}
_OF_TWO: dict[str, Figure] = {"auc": _of_score(auc)}  # what the first critical class has as one of two


LABELS, SAMPLE_IDS, LESIONS = "label", "sample_id", "lesions"
"""Keys of a batch's targets; the last where the network makes maps."""

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

    @property
    def class_scores(self) -> ClassScores | None:
        """Scores of several classes; None where there are two."""
        return None

    def lesion_figures(self) -> dict[str, float]:
        """Return the figures of lesions by name; none where the network makes no maps."""
        return {}

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


class ClassMetrics(RankingMetrics):
    """As `RankingMetrics` for the gravest critical class among K, and the figures of all critical ones.

    `val_auc` is the mean AUC over the critical classes; where there are several, `val_auc_class3` and so on are those
    of each, by which its μ moves. `val_loss` is the cross-entropy of K classes. `val_score` orders states by the mean
    over the critical classes of `mean_rest_accuracy`: by the AUC alone the other classes would pay unseen.

    Args:
        classes: K.
        critical: numbers of the critical classes, the gravest first.
        ordered: whether their order is one of gravity.

    Attributes:
        labels: (N,) float64, 1 for samples of the first critical class.
        logits: (N,) float64, its log-odds against all others.
    """

    def __init__(self, *, classes: int, critical: Sequence[int], ordered: bool = False) -> None:
        self._count, self._critical, self._ordered = classes, require_critical(critical, classes=classes), ordered
        super().__init__()

    def update(self, output: tuple[torch.Tensor, Mapping[str, Any]]) -> None:
        """Take the logits (B, K) and the targets, class numbers (B,) and ids, of a batch."""
        logits, targets = output
        if logits.shape[1] != self._count:
            raise ValueError(
                f"logits must have shape (B, {self._count}), got {tuple(logits.shape)} in ClassMetrics. "
                "Give network_def as many outputs as there are classes."
            )
        self.sample_ids.extend(targets[SAMPLE_IDS])
        self._labels.append(targets[LABELS].flatten().double().cpu().numpy())
        self._logits.append(logits.double().cpu().numpy())

    @property
    def class_scores(self) -> ClassScores:
        """What was seen."""
        classes = np.concatenate(self._labels).astype(np.int64)
        return ClassScores(classes, np.concatenate(self._logits), self._critical, self._ordered)

    @property
    def labels(self) -> np.ndarray:
        """1 for samples of the first critical class, (N,)."""
        return np.asarray(self.class_scores.classes == self._critical[0], dtype=np.float64)

    @property
    def logits(self) -> np.ndarray:
        """Log-odds of the first critical class, (N,)."""
        return critical_scores(self.class_scores.logits, self._critical[0])

    def compute(self) -> dict[str, float]:
        """Return the metrics by name, each starting with `val_`; none where a critical class or the others lack."""
        scores = self.class_scores
        reduced = {c: scores.of(c) for c in self._critical}
        if any(len(np.unique(labels)) < 2 for labels, _ in reduced.values()):
            return {}
        areas = {c: auc(labels, columns[:, 0]) for c, (labels, columns) in reduced.items()}
        accuracy = float(np.mean([mean_rest_accuracy(labels, columns) for labels, columns in reduced.values()]))
        own = scores.logits[np.arange(len(scores.classes)), scores.classes]
        cross_entropy = float(np.mean(np.logaddexp.reduce(scores.logits, axis=1) - own))
        step = min(0.5 / (y.sum() * (len(y) - y.sum())) for y, _ in reduced.values()) / len(areas)
        return {
            "val_auc": float(np.mean(list(areas.values()))),
            "val_loss": cross_entropy,
            "val_score": accuracy - step * math.tanh(cross_entropy) / 2,
            **{f"val_{name}": value for name, value in fpr_at_high_tpr(self.labels, self.logits).items()},
            "val_balanced_accuracy": balanced_accuracy(
                scores.classes, scores.logits.argmax(axis=1), classes=self._count
            ),
            **{f"val_auc{suffix_of(c, self._critical)}": value for c, value in areas.items()},
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
