"""Class numbers and logits of several classes as figures of each critical one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from prostate_alm.method.class_metrics import (
    confusion_table,
    critical_scores,
    decide,
    rest_error_of_columns,
    rivals_of,
    suffix_of,
)
from prostate_alm.method.metrics import auc, fpr_at_tpr, threshold_at_tpr

REST_TPR_PERCENT = (80, 90, 95, 98)
"""Where the figures of a critical class among many are reported."""

Metric = Callable[[Any, Any], float]


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

    def metrics_of(self, critical: int) -> dict[str, Metric]:
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


def _of_score(metric: Metric) -> Metric:
    return partial(_first_column, metric)


def _first_column(metric: Metric, labels: np.ndarray, columns: np.ndarray) -> float:
    return metric(labels, columns[:, 0])


def _rest_error(labels: np.ndarray, columns: np.ndarray, *, tpr: float) -> float:
    return rest_error_of_columns(labels, columns, tpr=tpr)


def _balanced(labels: np.ndarray, columns: np.ndarray) -> float:
    classes = columns[:, 3]
    return float(np.mean([columns[classes == one, 2].mean() for one in np.unique(classes)]))


METRICS: dict[str, Metric] = {
    **{f"rest_error_at_tpr{t}": partial(_rest_error, tpr=t / 100) for t in REST_TPR_PERCENT},
    **{f"fpr_at_tpr{t}": _of_score(partial(fpr_at_tpr, tpr=t / 100)) for t in REST_TPR_PERCENT},
}
_OF_TWO: dict[str, Metric] = {"auc": _of_score(auc)}  # what the first critical class has as one of two
