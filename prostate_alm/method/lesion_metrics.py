"""How well candidates find lesions: FROC, false positives per case at a sensitivity, precision; ties are exact."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from prostate_alm.method.lesion_candidates import Candidates
from prostate_alm.method.metrics import Floats, positives_needed

LEAST_OVERLAP = 0.1


@dataclass(frozen=True, eq=False)
class Detections:
    """What the candidates of one case found.

    `found` (L,) holds for each lesion the confidence of the candidate that found it, -inf where none did;
    `false_positives` (F,) the confidences of the candidates that found nothing.
    """

    found: Floats
    false_positives: Floats


@dataclass(frozen=True, eq=False)
class Froc:
    """One point for each distinct confidence, falling, of all candidates at or above it."""

    thresholds: Floats
    false_positives_per_case: Floats
    sensitivity: Floats


def match_lesions(candidates: Candidates, lesions: ArrayLike, *, least_overlap: float = LEAST_OVERLAP) -> Detections:
    """Say which candidate found which lesion.

    A candidate finds a lesion where its peak lies in it, or where the two overlap by ``IoU = |C ∩ L| / |C ∪ L|`` >=
    `least_overlap`. One candidate finds one lesion and is found by one: as many pairs as there can be, and of these the
    largest sum of IoU. A further candidate that would find a lesion is neither a hit nor a false positive.

    Args:
        candidates: of one case.
        lesions: 0 and the numbers of the lesions, of the shape of the map; all 0 in a case without.
        least_overlap: smallest IoU, in (0, 1].

    Raises:
        ValueError: the shapes differ, or `least_overlap` is out of range.

    Reference:
        Saha et al. 2022, the rule of the PI-CAI challenge, which does not know peaks.

    >>> from prostate_alm.method.lesion_candidates import lesion_candidates
    >>> line = np.array([-1.0, 2.0, 1.9, 2.1, -3.0, -1.0]).reshape(6, 1, 1)
    >>> lesions = np.array([0, 0, 0, 1, 0, 0]).reshape(6, 1, 1)
    >>> match_lesions(lesion_candidates(line), lesions)
    Detections(found=array([2.1]), false_positives=array([-1.]))
    """
    labels = np.asarray(lesions).astype(np.int64)
    if labels.shape != candidates.numbers.shape:
        raise ValueError(
            f"lesions must have the map's shape, got {labels.shape} and {candidates.numbers.shape} in match_lesions"
        )
    if not 0 < least_overlap <= 1:
        raise ValueError(f"least_overlap must be in (0, 1], got {least_overlap!r} in match_lesions")
    numbers = np.unique(labels[labels > 0])
    weight = _pairs(candidates, labels, numbers, least_overlap)  # (L, C)
    rows, columns = linear_sum_assignment(weight, maximize=True)
    hit = weight[rows, columns] > 0
    found = np.full(len(numbers), -math.inf)
    found[rows[hit]] = candidates.confidences[columns[hit]]
    return Detections(found, candidates.confidences[~(weight > 0).any(axis=0)])


def _pairs(
    candidates: Candidates, labels: NDArray[np.int64], numbers: NDArray[np.int64], least_overlap: float
) -> Floats:
    """Return 1 + IoU where a candidate (column) would find a lesion (row), else 0: a pair counts more than overlap."""
    count = len(candidates.confidences)
    row = np.searchsorted(numbers, labels)  # of background any; the next line leaves it out
    both = np.where(labels > 0, row * (count + 1) + candidates.numbers, -1)
    shared = np.bincount(both[both >= 0], minlength=len(numbers) * (count + 1)).reshape(len(numbers), count + 1)
    sizes = np.bincount(candidates.numbers.ravel(), minlength=count + 1)
    overlap = shared / (shared.sum(axis=1, keepdims=True) + sizes - shared)  # no lesion is without a voxel
    at_peak = labels[tuple(candidates.peaks.T)] == numbers[:, None]  # (L, C)
    hits = (overlap[:, 1:] >= least_overlap) | at_peak
    return np.where(hits, 1.0 + overlap[:, 1:], 0.0)


def froc(cases: Sequence[Detections]) -> Froc:
    """Return the free-response curve: sensitivity per lesion against false positives per case.

    Args:
        cases: at least one, with at least one lesion among them.

    Returns:
        The points in the order of falling thresholds; empty where there are no candidates. Lesions that no candidate
        found keep the last sensitivity below 1.

    Raises:
        ValueError: there is no case or no lesion.

    Reference:
        Bunch et al. 1977; Chakraborty 1989, the FROC curve.

    >>> one = Detections(np.array([3.0, -math.inf]), np.array([2.0, 3.0]))
    >>> curve = froc([one, Detections(np.array([]), np.array([1.0]))])
    >>> curve.false_positives_per_case.tolist(), curve.sensitivity.tolist()
    ([0.5, 1.0, 1.5], [0.5, 0.5, 0.5])
    """
    found, false_positives = _pooled(cases)
    finite = found[np.isfinite(found)]
    thresholds = np.unique(np.concatenate([finite, false_positives]))[::-1]
    return Froc(
        thresholds,
        _at_least(false_positives, thresholds) / len(cases),
        _at_least(finite, thresholds) / len(found),
    )


def false_positives_at_sensitivity(cases: Sequence[Detections], sensitivity: float) -> float:
    """Return the false positives per case at the highest threshold that finds at least that share of the lesions.

    Args:
        cases: at least one, with at least one lesion among them.
        sensitivity: per lesion, in (0, 1].

    Returns:
        A number >= 0; infinite where too many lesions were not found by any candidate: no threshold is low enough.

    Raises:
        ValueError: there is no case or no lesion, or `sensitivity` is out of range.

    >>> one = Detections(np.array([3.0, 1.0]), np.array([2.0, 0.5]))
    >>> [false_positives_at_sensitivity([one], share) for share in (0.5, 1.0)]
    [0.0, 1.0]
    """
    found, false_positives = _pooled(cases)
    needed = positives_needed(len(found), sensitivity)
    threshold = np.sort(found)[len(found) - needed]
    if threshold == -math.inf:
        return math.inf
    return int(np.count_nonzero(false_positives >= threshold)) / len(cases)


def lesion_average_precision(cases: Sequence[Detections]) -> float:
    """Return the average precision over lesions: Σ (R_n - R_(n-1)) P_n over falling thresholds.

    Lesions that were not found are part of the recall's denominator; the recall that they would bring has precision 0.

    Args:
        cases: at least one, with at least one lesion among them.

    Returns:
        A value in [0, 1].

    Raises:
        ValueError: there is no case or no lesion.

    Reference:
        Saha et al. 2022, the AP of the PI-CAI challenge.

    >>> lesion_average_precision([Detections(np.array([3.0, -math.inf]), np.array([2.0]))])
    0.5
    """
    found, false_positives = _pooled(cases)
    thresholds = np.unique(found[np.isfinite(found)])[::-1]
    hits = _at_least(found, thresholds)
    precision = hits / (hits + _at_least(false_positives, thresholds))
    return float(np.sum(np.diff(hits, prepend=0) * precision) / len(found))


def _pooled(cases: Sequence[Detections]) -> tuple[Floats, Floats]:
    """Return the confidences of all lesions and of all false positives."""
    found = np.concatenate([case.found for case in cases]) if cases else np.empty(0)
    if not len(found):
        raise ValueError(f"cases must hold a lesion, got none in {len(cases)} in lesion_metrics")
    return found, np.concatenate([case.false_positives for case in cases])


def _at_least(values: Floats, thresholds: Floats) -> NDArray[np.intp]:
    """Return how many values are at or above each threshold."""
    return len(values) - np.searchsorted(np.sort(values), thresholds, side="left")
