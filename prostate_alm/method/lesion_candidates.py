"""From a map of logits to candidates of lesions: the peaks that stand out, by one rule without a fixed threshold."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

PEAK_OVER_EDGE = 2.0
MOST_CANDIDATES = 20
_TOUCHING = np.ones((3, 3, 3))
_HALF_WINDOW = 4  # voxels; grows where a part is larger


@dataclass(frozen=True, eq=False)
class Candidates:
    """The C candidates of one map, the surest first.

    `confidences` (C,) are the logits of their peaks, `peaks` (C, 3) the indices of these voxels, and `numbers` has the
    map's shape: c + 1 where candidate c lies, 0 elsewhere.
    """

    confidences: NDArray[np.float64]
    peaks: NDArray[np.intp]
    numbers: NDArray[np.int32]


def lesion_candidates(
    logits: ArrayLike,
    *,
    peak_over_edge: float = PEAK_OVER_EDGE,
    least_voxels: int = 1,
    most: int = MOST_CANDIDATES,
    floor_logit: float = -math.inf,
) -> Candidates:
    """Return the peaks of a map from which every way to a surer one falls below half of their probability.

    The candidate of a voxel p is the connected part of {v : σ(f(v)) >= σ(f(p)) / r} that holds p, where that part holds
    nothing higher than f(p). Neighbours are the 26 voxels around, σ is the logistic function, r is `peak_over_edge`.

    No threshold is fixed: a faint map has candidates, too, and where probabilities are low a factor common to all of
    them changes nothing. Candidates never touch one another, and a map that is turned has them turned.

    Args:
        logits: f, (I, J, K), higher where a lesion is more likely; -inf where nobody looks, else finite.
        peak_over_edge: r, > 1.
        least_voxels: smaller ones are left out, >= 1.
        most: the surest so many are returned, >= 1.
        floor_logit: peaks below are left out.

    Returns:
        The candidates by falling confidence; of equal ones, also within a part, the first voxel in memory's order
        counts. None where no voxel is above the floor.

    Raises:
        ValueError: the map is not of three axes or holds NaN or +inf, or a number is out of range.

    Reference:
        Soille 2004, Morphological Image Analysis, section 6.3 (h-maxima, dynamics of a peak).

    >>> line = np.array([-1.0, 2.0, 1.9, 2.1, -3.0, -1.0]).reshape(6, 1, 1)
    >>> found = lesion_candidates(line)
    >>> found.confidences.tolist(), found.numbers.ravel().tolist()
    ([2.1, -1.0], [0, 1, 1, 1, 0, 2])
    """
    scores = _checked(logits, peak_over_edge=peak_over_edge, least_voxels=least_voxels, most=most)
    numbers = np.zeros(scores.shape, np.int32)
    peaks: list[NDArray[np.intp]] = []
    for peak in _local_maxima(scores, floor_logit):
        if numbers[tuple(peak)]:
            continue  # a lower or equal top of a part that is found
        found = _part(scores, peak, _edge_logit(float(scores[tuple(peak)]), peak_over_edge))
        if found is None or np.count_nonzero(found[1]) < least_voxels:
            continue
        window, part = found
        peaks.append(peak)
        numbers[window][part] = len(peaks)
        if len(peaks) == most:
            break
    places = np.array(peaks, dtype=np.intp).reshape(-1, 3)
    return Candidates(scores[tuple(places.T)], places, numbers)


def _edge_logit(peak_logit: float, peak_over_edge: float) -> float:
    """Return f with σ(f) = σ(f_peak) / r: -ln(r - 1 + r exp(-f_peak))."""
    return -float(np.logaddexp(math.log(peak_over_edge - 1.0), math.log(peak_over_edge) - peak_logit))


def _checked(logits: ArrayLike, *, peak_over_edge: float, least_voxels: int, most: int) -> NDArray[np.float64]:
    scores = np.asarray(logits, dtype=np.float64)
    if scores.ndim != 3 or np.isnan(scores).any() or np.isposinf(scores).any():
        raise ValueError(
            f"logits must have three axes and be numbers or -inf, got the shape {scores.shape} with "
            f"{int((np.isnan(scores) | np.isposinf(scores)).sum())} others in lesion_candidates"
        )
    if not (1 < peak_over_edge < math.inf and least_voxels >= 1 and most >= 1):
        raise ValueError(
            "peak_over_edge must be above 1, least_voxels and most at least 1, got "
            f"{peak_over_edge}, {least_voxels}, {most} in lesion_candidates"
        )
    return scores


def _local_maxima(scores: NDArray[np.float64], floor_logit: float) -> NDArray[np.intp]:
    """Return the first voxel of each plateau that no neighbour exceeds (N, 3), the highest first, then as in memory."""
    highest = ndimage.maximum_filter(scores, footprint=_TOUCHING, mode="nearest")
    tops, _ = ndimage.label((scores == highest) & (scores >= floor_logit) & np.isfinite(scores), structure=_TOUCHING)
    values, first = np.unique(tops, return_index=True)
    index = np.column_stack(np.unravel_index(np.sort(first[values > 0]), scores.shape))
    return index[np.argsort(-scores[tuple(index.T)], kind="stable")]


def _part(
    scores: NDArray[np.float64], peak: NDArray[np.intp], edge_logit: float
) -> tuple[tuple[slice, ...], NDArray[np.bool_]] | None:
    """Return the window that holds the part around a peak, and the part within; None where it holds a higher voxel."""
    top, half = scores[tuple(peak)], _HALF_WINDOW
    size = np.array(scores.shape)
    while True:
        low, high = np.maximum(peak - half, 0), np.minimum(peak + half + 1, size)
        window = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        seen = scores[window]
        parts, _ = ndimage.label(seen >= edge_logit, structure=_TOUCHING)
        part = parts == parts[tuple(peak - low)]
        if seen[part].max() > top:
            return None
        if not _goes_on(part, low > 0, high < size):
            return window, part
        half *= 2


def _goes_on(part: NDArray[np.bool_], more_below: NDArray[np.bool_], more_above: NDArray[np.bool_]) -> bool:
    """Return whether a part reaches a face of its window behind which the map goes on."""
    return any(
        (more_below[axis] and part.take(0, axis).any()) or (more_above[axis] and part.take(-1, axis).any())
        for axis in range(3)
    )
