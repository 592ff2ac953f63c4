"""How good a ranking is where no positive may be missed. Ties are exact; every function takes labels and scores."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class TooFewPositivesWarning(UserWarning):
    """The TPR asked cannot be told from 100 %: one positive is a larger share than what may be missed."""


@dataclass(frozen=True)
class DeLongResult:
    """Two AUCs on the same samples and the two-sided test that they are equal."""

    auc_a: float
    auc_b: float
    z: float
    p_value: float


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the area under the ROC curve, P(positive > negative) + P(positive = negative) / 2 (Eq. 6 with ties).

    Args:
        labels: (n,), 0 or 1, at least one of each.
        scores: (n,), finite; higher means more positive.

    Returns:
        AUC in [0, 1].

    Raises:
        ValueError: a label, a score or a shape is wrong, or a class is absent.

    Reference:
        Hanley and McNeil 1982; Sangalli et al. 2021, Eq. 6.

    >>> auc([1, 0, 1, 0], [0.9, 0.1, 0.4, 0.4])
    0.875
    """
    positive, negative = _by_class(labels, scores)
    negative.sort()
    positive.sort()  # sorted keys make the search run through memory in order
    return float(_placements(positive, negative).mean())


def threshold_at_tpr(labels: ArrayLike, scores: ArrayLike, tpr: float) -> float:
    """Return the highest threshold t for which "score >= t" finds at least the share ``tpr`` of the positives.

    Args:
        labels: (n,), 0 or 1, at least one positive and one negative.
        scores: (n,), finite.
        tpr: true-positive rate asked, in (0, 1].

    Returns:
        The score of a positive.

    Raises:
        ValueError: a label, a score, a shape or ``tpr`` is wrong, or a class is absent.

    >>> threshold_at_tpr([1, 1, 0, 0], [0.8, 0.3, 0.5, 0.1], 1.0)
    0.3
    """
    positive, _ = _by_class(labels, scores)
    return _threshold(positive, positives_needed(len(positive), tpr))


def fpr_at_tpr(labels: ArrayLike, scores: ArrayLike, tpr: float) -> float:
    """Return the smallest FPR over all thresholds (score >= threshold) whose TPR is at least ``tpr``.

    Args:
        labels: (n,), 0 or 1, at least one of each.
        scores: (n,), finite.
        tpr: true-positive rate asked, in (0, 1].

    Returns:
        FPR in [0, 1].

    Raises:
        ValueError: a label, a score, a shape or ``tpr`` is wrong, or a class is absent.

    Warns:
        TooFewPositivesWarning: fewer than 1 / (1 - tpr) positives, so that the answer is that of TPR 100 %.

    >>> fpr_at_tpr([1, 1, 0, 0], [0.8, 0.3, 0.5, 0.1], 1.0)
    0.5
    """
    positive, negative = _by_class(labels, scores)
    needed = positives_needed(len(positive), tpr)
    if needed == len(positive) and tpr < 1:
        warnings.warn(
            f"positives must be at least {math.ceil(1 / (1 - tpr) - 1e-9)} for a TPR of {tpr:g}, got "
            f"{len(positive)} in fpr_at_tpr. The result is the FPR at a TPR of 1.",
            TooFewPositivesWarning,
            stacklevel=2,
        )
    return float(np.mean(negative >= _threshold(positive, needed)))


def fpr_at_false_negatives(labels: ArrayLike, scores: ArrayLike, false_negatives: int) -> float:
    """Return the smallest FPR over all thresholds (score >= threshold) that miss at most so many positives.

    Args:
        labels: (n,), 0 or 1, at least one of each.
        scores: (n,), finite.
        false_negatives: positives that may be missed, from 0 to one fewer than there are.

    Returns:
        FPR in [0, 1].

    Raises:
        ValueError: a label, a score, a shape or ``false_negatives`` is wrong, or a class is absent.

    >>> fpr_at_false_negatives([1, 1, 0, 0], [0.8, 0.3, 0.5, 0.1], 1)
    0.0
    """
    positive, negative = _by_class(labels, scores)
    if not 0 <= false_negatives < len(positive) or false_negatives != int(false_negatives):
        raise ValueError(
            f"false_negatives must be a whole number from 0 to {len(positive) - 1}, one fewer than the positives, "
            f"got {false_negatives!r} in fpr_at_false_negatives"
        )
    return float(np.mean(negative >= _threshold(positive, len(positive) - int(false_negatives))))


def partial_auc_above_tpr(labels: ArrayLike, scores: ArrayLike, tpr: float) -> float:
    """Return the mean specificity over the true-positive rates from ``tpr`` to 1.

    It is (1 / (1 - t)) ∫_t^1 (1 - FPR(u)) du along the ROC curve, tied scores joined by straight lines: 1 for a
    perfect ranking, (1 - t) / 2 for a random one, the AUC for t = 0.

    Args:
        labels: (n,), 0 or 1, at least one of each.
        scores: (n,), finite.
        tpr: t, in [0, 1).

    Returns:
        A value in [0, 1].

    Raises:
        ValueError: a label, a score, a shape or ``tpr`` is wrong, or a class is absent.

    Reference:
        Jiang, Metz and Nishikawa 1996, Radiology 201, the partial area index.

    >>> partial_auc_above_tpr([1, 1, 0, 0], [0.8, 0.3, 0.5, 0.1], 0.5)
    0.5
    """
    if not 0 <= tpr < 1:
        raise ValueError(f"tpr must be in [0, 1), got {tpr!r} in partial_auc_above_tpr")
    positive, negative = _by_class(labels, scores)
    rate, specificity = _roc(positive, negative)
    inside = rate > tpr
    rates = np.concatenate([[tpr], rate[inside]])
    at_edge = np.interp(tpr, rate, specificity)  # where FPR grows at this very TPR: the end
    heights = np.concatenate([[at_edge], specificity[inside]])
    area = np.sum(np.diff(rates) * (heights[1:] + heights[:-1])) / 2
    return float(area / (1 - tpr))


def roc_points(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return FPR and TPR of "score >= t" at each distinct score t, from (0, 0) to (1, 1), in the order of a drawing.

    Args:
        labels: (n,), 0 or 1, at least one of each.
        scores: (n,), finite.

    Returns:
        FPR and TPR, both (d + 1,) for d distinct scores, ascending.

    Raises:
        ValueError: a label, a score or a shape is wrong, or a class is absent.

    >>> [rates.tolist() for rates in roc_points([1, 0, 1, 0], [3.0, 2.0, 2.0, 1.0])]
    [[0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0]]
    """
    rate, specificity = _roc(*_by_class(labels, scores))
    return 1.0 - specificity, rate


def delong_test(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> DeLongResult:
    """Test whether two rankings of the same samples have the same AUC.

    z = (A - B) / sqrt(var(A - B)), the variance from the placement values of each sample: with a_j the share of
    negatives below positive j (ties half) and a_k that of positives above negative k, it is
    var_j(a_j - b_j) / P + var_k(a_k - b_k) / N.

    Args:
        labels: (n,), 0 or 1, at least two of each.
        scores_a: (n,), finite.
        scores_b: (n,), finite.

    Returns:
        Both AUCs, z and the two-sided p. Rankings without any difference give z = 0 and p = 1; a difference
        without variance gives an infinite z and p = 0.

    Raises:
        ValueError: a label, a score or a shape is wrong, or a class has fewer than two samples.

    Reference:
        DeLong et al. 1988, Biometrics 44; Sun and Xu 2014, IEEE Signal Processing Letters 21, for O(n log n).

    >>> result = delong_test([0, 0, 0, 1, 1, 1], [1, 2, 4, 3, 5, 6], [1, 5, 4, 3, 2, 6])
    >>> round(result.auc_a, 4), round(result.auc_b, 4), round(result.p_value, 4)
    (0.8889, 0.5556, 0.2207)
    """
    positive_a, negative_a = _by_class(labels, scores_a)
    positive_b, negative_b = _by_class(labels, scores_b)
    if min(len(positive_a), len(negative_a)) < 2:
        raise ValueError(
            f"each class must have at least 2 samples, got {len(positive_a)} positives and {len(negative_a)} "
            "negatives in delong_test"
        )
    above_a, above_b = (_placements_any(p, n) for p, n in ((positive_a, negative_a), (positive_b, negative_b)))
    below_a, below_b = (_placements_any(n, p) for p, n in ((positive_a, negative_a), (positive_b, negative_b)))
    auc_a, auc_b = float(above_a.mean()), float(above_b.mean())
    variance = np.var(above_a - above_b, ddof=1) / len(above_a) + np.var(below_a - below_b, ddof=1) / len(below_a)
    z = _z(auc_a - auc_b, float(variance))
    return DeLongResult(auc_a, auc_b, z, math.erfc(abs(z) / math.sqrt(2)))


def _array(values: ArrayLike) -> NDArray[Any]:
    detach = getattr(values, "detach", None)  # a torch tensor; numpy has no bfloat16
    return np.asarray(values if detach is None else detach().cpu().double().numpy())


def checked(labels: ArrayLike, scores: ArrayLike, *, columns: bool = False) -> tuple[NDArray[np.bool_], Floats]:
    """Return which samples are positive, and their scores; with `columns` those of several models, too.

    Raises:
        ValueError: a label, a score or a shape is wrong, or a class is absent.
    """
    truth, values = _array(labels), _array(scores)
    if truth.ndim != 1 or values.ndim != 1 + (columns and values.ndim == 2) or len(truth) != len(values):
        raise ValueError(
            f"labels and scores must be 1-D and of the same length, got shapes {truth.shape} and {values.shape} "
            "in metrics"
        )
    positive = truth == 1
    wrong = truth[~(positive | (truth == 0))]
    if len(wrong):
        raise ValueError(f"labels must be 0 or 1, got {wrong[0]!r} in metrics")
    if positive.all() or not positive.any():
        raise ValueError(
            f"labels must hold both classes, got {int(positive.sum())} positives of {len(truth)} in metrics"
        )
    values = values.astype(np.float64, copy=False)
    if not np.isfinite(values).all():
        where = int(np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))[0])
        raise ValueError(f"scores must be finite, got {values[where]} at index {where} in metrics")
    return positive, values


def _by_class(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Return copies of the scores of the positives and of the negatives."""
    positive, values = checked(labels, scores)
    return values[positive], values[~positive]


def positives_needed(positives: int, tpr: float) -> int:
    """Return the smallest number of positives whose share is at least ``tpr``.

    Args:
        positives: how many there are.
        tpr: share asked, in (0, 1].

    Raises:
        ValueError: ``tpr`` is out of range.

    >>> positives_needed(100, 0.55), positives_needed(3, 0.5)
    (55, 2)
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be in (0, 1], got {tpr!r} in metrics")
    needed = math.ceil(tpr * positives)
    return needed - 1 if (needed - 1) / positives >= tpr else needed  # 0.55 * 100 rounds to above 55


def _threshold(positive: Floats, needed: int) -> float:
    """Return the score of the positive at place ``needed`` from the top."""
    rank = len(positive) - needed
    return float(np.partition(positive, rank)[rank])


def _placements(scores: Floats, others: Floats) -> Floats:
    """Return for each score the share of the sorted others below it, ties counted half."""
    below = np.searchsorted(others, scores, side="left")
    not_above = np.searchsorted(others, scores, side="right")
    return (below + not_above) / (2.0 * len(others))


def _placements_any(scores: Floats, others: Floats) -> Floats:
    order = np.argsort(scores)
    placements = np.empty(len(scores))
    placements[order] = _placements(scores[order], np.sort(others))
    return placements


def _roc(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Return TPR ascending and the specificity there, one point for each distinct score and (0, 1)."""
    positive, negative = np.sort(positive), np.sort(negative)
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]
    rate = (len(positive) - np.searchsorted(positive, thresholds, side="left")) / len(positive)
    specificity = np.searchsorted(negative, thresholds, side="left") / len(negative)
    return np.concatenate([[0.0], rate]), np.concatenate([[1.0], specificity])


def _z(difference: float, variance: float) -> float:
    if variance > 0:
        return difference / math.sqrt(variance)
    return math.copysign(math.inf, difference) if difference else 0.0
