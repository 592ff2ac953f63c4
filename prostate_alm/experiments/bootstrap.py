"""AUC and FPR at high TPR on many resamples at once: how often each image was drawn stands for the resampled scores.

A resample is a column of counts. Scores are sorted once for each ranking; cumulative sums of the counts then give for
all resamples what `method.metrics` gives for the scores repeated as often as they were drawn, ties included.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prostate_alm.experiments.paper_tables import RATE_COLUMNS
from prostate_alm.method.metrics import threshold_at_tpr

CONFIDENCE = 0.95

Floats = NDArray[np.float64]
Counts = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Ranking:
    """A ranking of P positives among N negatives, of which B resamples were drawn.

    Attributes:
        order: (P,), the positives from the lowest score to the highest.
        below: (P, B), for each positive in that order, how many drawn negatives score lower.
        not_above: (P, B), how many score lower or the same.
        negatives: how many negatives each resample has.
    """

    order: NDArray[np.intp]
    below: Counts
    not_above: Counts
    negatives: int


def rank(positive: Floats, negative: Floats, *, negative_counts: Counts) -> Ranking:
    """Sort the scores and count the drawn negatives below each positive.

    Args:
        positive: (P,), finite scores.
        negative: (N,), finite scores.
        negative_counts: (N, B), how often each negative is in each resample; each column has the same sum.

    Raises:
        ValueError: resamples are of different sizes or empty.
    """
    order, negatives_in_order = np.argsort(positive, kind="stable"), np.argsort(negative, kind="stable")
    ordered, among = positive[order], negative[negatives_in_order]
    drawn = np.zeros((len(negative) + 1, negative_counts.shape[1]), np.int32)
    np.cumsum(negative_counts[negatives_in_order], axis=0, out=drawn[1:])
    below, not_above = (np.searchsorted(among, ordered, side=side) for side in ("left", "right"))
    return Ranking(order, drawn[below], drawn[not_above], size_of(negative_counts))


def figures(ranking: Ranking, positive_counts: Counts, *, columns: Sequence[str] = RATE_COLUMNS) -> Floats:
    """Return AUC and rates on each resample.

    Args:
        ranking: from `rank`, of B resamples of the negatives, or of one for all.
        positive_counts: (P, B), how often each positive is in each resample; each column has the same sum.
        columns: see `paper_tables.rate_columns`; the AUC comes first.

    Returns:
        (C, B), in [0, 1], in the order of `columns`.

    Raises:
        ValueError: resamples are of different sizes or empty.

    Reference:
        Sangalli et al. 2021, Eq. 6, and `method.metrics.auc` and `fpr_at_tpr`.

    >>> ones = np.ones((2, 1), np.int32)
    >>> ranking = rank(np.array([0.3, 0.8]), np.array([0.5, 0.1]), negative_counts=ones)
    >>> figures(ranking, ones).ravel().tolist()
    [0.75, 0.5, 0.5, 0.5]
    """
    positives = size_of(positive_counts)
    drawn = positive_counts[ranking.order]
    so_far = np.cumsum(drawn, axis=0)  # (P, B)
    below = np.broadcast_to(ranking.below, drawn.shape)
    places = np.arange(drawn.shape[1])
    rates = [_auc(ranking, drawn, positives)]
    for column in columns[1:]:
        threshold = (so_far <= missed_at(column, positives)).sum(axis=0)  # (B,), place of the lowest found positive
        rates.append((ranking.negatives - below[threshold, places]) / ranking.negatives)
    return np.stack(rates)


def mean_figures_of_draws(
    ranking: Ranking, positive_counts: Counts, *, size: int, columns: Sequence[str] = RATE_COLUMNS
) -> Floats:
    """Return the mean of AUC and FPR over all ways to draw some of the positives of each resample.

    The positives are drawn without replacement, as test sets at a class ratio are. With T positives in the resample,
    sorted, the threshold is the one at place j with probability C(j, r) C(T-1-j, n-1-r) / C(T, n), where r of the n
    drawn may be missed. This is what the mean over many random draws tends to.

    Args:
        ranking: from `rank`.
        positive_counts: (P, B), as in `figures`.
        size: n, from 1 to the size of a resample.
        columns: as in `figures`.

    Returns:
        (C, B), in [0, 1], in the order of `columns`; the mean AUC is the AUC of the resample.

    Raises:
        ValueError: resamples are of different sizes or empty, or `size` is out of range.

    >>> ones = np.ones((2, 1), np.int32)
    >>> ranking = rank(np.array([0.3, 0.8]), np.array([0.5, 0.1]), negative_counts=ones)
    >>> mean_figures_of_draws(ranking, ones, size=1).ravel().tolist()  # FPR 0.5 or 0
    [0.75, 0.25, 0.25, 0.25]
    """
    positives = size_of(positive_counts)
    if not 1 <= size <= positives:
        raise ValueError(
            f"size of a draw must be from 1 to the {positives} positives, got {size} in mean_figures_of_draws. "
            "Draw fewer."
        )
    drawn = positive_counts[ranking.order]
    so_far = np.cumsum(drawn, axis=0)
    share_above = (ranking.negatives - ranking.below) / ranking.negatives  # (P, B), FPR of each threshold
    rates = [_auc(ranking, drawn, positives)]
    for column in columns[1:]:
        reached = _reached(positives, size, missed_at(column, size))
        probability = reached[so_far] - reached[so_far - drawn]  # (P, B)
        rates.append(np.einsum("pb,pb->b", probability, np.broadcast_to(share_above, drawn.shape)))
    return np.stack(rates)


def resample(random: np.random.Generator, images: int, *, resamples: int) -> Counts:
    """Return how often each image is in each resample, the first of which is the images as they are.

    Args:
        random: source of chance.
        images: how many there are and are drawn with replacement.
        resamples: B.

    Returns:
        (images, 1 + B), each column sums to `images`.

    >>> counts = resample(np.random.default_rng(0), 3, resamples=2)
    >>> counts[:, 0].tolist(), counts.sum(axis=0).tolist()
    ([1, 1, 1], [3, 3, 3])
    """
    drawn = random.multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.vstack([np.ones(images), drawn]).T.astype(np.int32, order="C")


def percentile_interval(values: Floats) -> tuple[Floats, Floats]:
    """Return both ends of the percentile interval at `CONFIDENCE` over the last axis.

    >>> low, high = percentile_interval(np.linspace(0, 100, 1001))
    >>> round(float(low), 6), round(float(high), 6)
    (2.5, 97.5)
    """
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=-1)
    return low, high


def size_of(counts: NDArray[Any]) -> int:
    """Return how many images each resample has.

    Raises:
        ValueError: resamples are of different sizes or empty.
    """
    sizes = np.unique(counts.sum(axis=0))
    if len(sizes) != 1 or sizes[0] < 1:
        raise ValueError(
            f"resamples must be of one size of at least 1, got sizes {sizes.tolist()} in their counts. "
            "Draw as many images for each."
        )
    return int(sizes[0])


def missed_at(column: str, positives: int) -> int:
    """Return how many of the positives are missed at a rate: at a TPR as many as it allows, at N FN these.

    Of fewer positives than that the last is found all the same.

    >>> missed_at("fpr_at_tpr95", 53), missed_at("fpr_at_fn1", 53), missed_at("fpr_at_fn1", 1)
    (2, 1, 0)
    """
    if column.startswith("fpr_at_tpr"):
        return may_be_missed(positives, int(column.removeprefix("fpr_at_tpr")) / 100)
    return min(int(column.removeprefix("fpr_at_fn")), positives - 1)


@lru_cache
def may_be_missed(positives: int, tpr: float) -> int:
    """Return how many of the positives may be missed at a TPR, by the rule of `method.metrics`.

    >>> may_be_missed(53, 0.95), may_be_missed(10, 1.0)
    (2, 0)
    """
    places = np.arange(positives + 1.0)  # positives score 1, 2, ..., so that the threshold is a place
    return int(threshold_at_tpr(places > 0, places, tpr)) - 1


def _auc(ranking: Ranking, drawn: Counts, positives: int) -> Floats:
    halves = np.broadcast_to(ranking.below + ranking.not_above, drawn.shape)
    total = np.einsum("pb,pb->b", drawn, halves, dtype=np.float64)  # whole numbers, exact
    auc: Floats = total / (2.0 * positives * ranking.negatives)
    return auc


@lru_cache
def _reached(positives: int, size: int, missed: int) -> Floats:
    """Return for c = 0, 1, ... the probability that the threshold is among the c lowest positives."""
    ways = [math.comb(j, missed) * math.comb(positives - 1 - j, size - 1 - missed) for j in range(positives)]
    total = math.comb(positives, size)
    return np.concatenate([[0.0], np.cumsum([way / total for way in ways])])
