"""Percentile bootstrap: samples are drawn with replacement, those of each class by themselves.

`resampled` takes any figure of the rows that were drawn. Of AUC and FPR at high TPR there are thousands at once: a
resample is then a column of counts. Scores are sorted once for each ranking; cumulative sums of the counts give for all
resamples what `method.metrics` gives for the scores repeated as often as they were drawn, ties included.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prostate_alm.method.metrics import Floats, Interval, TooFewPositivesWarning, checked, positives_needed

CONFIDENCE = 0.95
RESAMPLES = 2000
RATES = ("fpr_at_tpr100", "fpr_at_tpr95", "fpr_at_tpr90")

Drawn = TypeVar("Drawn")
Counts = NDArray[np.int32]
Rows = NDArray[np.intp]


def draw_rows(random: np.random.Generator, groups: Sequence[Rows]) -> Rows:
    """Return as many rows of each group as it has, drawn with replacement.

    >>> draw_rows(np.random.default_rng(0), [np.array([7]), np.array([2])]).tolist()
    [7, 2]
    """
    return np.concatenate([random.choice(rows, len(rows)) for rows in groups])


def resampled(figure: Callable[[Rows], float], groups: Sequence[Rows], *, resamples: int, seed: int) -> Floats:
    """Return a figure of each resample, (resamples,).

    Args:
        figure: of the rows that were drawn.
        groups: rows that are drawn by themselves, such as the positives and the negatives.
        resamples: B, at least 1.
        seed: the same seed draws the same rows.

    Raises:
        ValueError: `resamples` is out of range.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples!r} in bootstrap. Draw some.")
    random = np.random.default_rng(seed)
    return np.array([figure(draw_rows(random, groups)) for _ in range(resamples)], dtype=np.float64)


def percentile_interval(
    values: Floats, *, confidence: float = CONFIDENCE, method: Literal["linear", "inverted_cdf"] = "linear"
) -> tuple[Floats, Floats]:
    """Return both ends of the percentile interval over the last axis.

    Args:
        values: (..., B), of the resamples.
        confidence: coverage asked, in (0, 1).
        method: of `numpy.quantile`; the second takes values of resamples only, which may be infinite.

    Raises:
        ValueError: `confidence` is out of range.

    Reference:
        Efron and Tibshirani 1993, section 13.3.

    >>> low, high = percentile_interval(np.linspace(0, 100, 1001))
    >>> round(float(low), 6), round(float(high), 6)
    (2.5, 97.5)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r} in bootstrap. Ask for 0.95.")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], axis=-1, method=method)
    return low, high


def bootstrap_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    metric: Callable[[Any, Any], float],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a metric with its percentile bootstrap interval; each class is resampled by itself.

    For the difference of two models give both scores as columns and a metric that subtracts, which pairs the
    samples: ``metric=lambda y, s: auc(y, s[:, 0]) - auc(y, s[:, 1])``.

    Args:
        labels: (n,), 0 or 1, at least one of each.
        scores: (n,) or (n, models), finite.
        metric: called as ``metric(labels, scores)``.
        confidence: coverage asked, in (0, 1).
        resamples: number of resamples, at least 1.
        seed: the same seed gives the same interval.

    Returns:
        The metric of all samples and the bounds.

    Raises:
        ValueError: an argument is wrong, or a class is absent.

    >>> from prostate_alm.method.metrics import auc
    >>> bootstrap_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], metric=auc, resamples=20)
    Interval(estimate=1.0, low=1.0, high=1.0)
    """
    truth, values = checked(labels, scores, columns=True)
    estimate = float(metric(truth, values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewPositivesWarning)  # said once, by the estimate
        drawn = resampled(
            lambda rows: metric(truth[rows], values[rows]), _groups(truth), resamples=resamples, seed=seed
        )
    low, high = percentile_interval(drawn, confidence=confidence)
    return Interval(estimate, float(low), float(high))


def interval_over_cases(
    cases: Sequence[Drawn],
    metric: Callable[[Sequence[Drawn]], float],
    *,
    positive: Sequence[bool],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a metric with its percentile bootstrap interval over cases; those with and without lesions by themselves.

    For the difference of two models give pairs of their detections as cases and a metric that subtracts.

    Args:
        cases: whatever `metric` takes a sequence of.
        metric: such as `lambda drawn: false_positives_at_sensitivity(drawn, 0.95)`.
        positive: for each case whether it has a lesion; at least one has.
        confidence: coverage asked, in (0, 1).
        resamples: number of resamples, at least 1.
        seed: the same seed gives the same interval.

    Returns:
        The metric of all cases and the bounds, which are values of resamples: an infinite one stays infinite.

    Raises:
        ValueError: an argument is out of range, or a resample has no value.

    >>> interval_over_cases([0.5, 0.0], sum, positive=[True, False], resamples=9)
    Interval(estimate=0.5, low=0.5, high=0.5)
    """
    if len(positive) != len(cases) or not any(positive):
        raise ValueError(
            f"positive must be one flag per case, one of them true, got {len(positive)} flags of {len(cases)} cases in "
            "interval_over_cases"
        )
    drawn = resampled(
        lambda rows: metric([cases[row] for row in rows]),
        _groups(np.asarray(positive, dtype=bool)),
        resamples=resamples,
        seed=seed,
    )
    if np.isnan(drawn).any():
        raise ValueError(
            "a metric must have a value in every resample, got none in "
            f"{int(np.isnan(drawn).sum())} of {resamples} in interval_over_cases. Is it a difference of infinite ones?"
        )
    low, high = percentile_interval(drawn, confidence=confidence, method="inverted_cdf")
    return Interval(float(metric(cases)), float(low), float(high))


def _groups(positive: NDArray[np.bool_]) -> list[Rows]:
    return [rows for rows in (np.flatnonzero(positive), np.flatnonzero(~positive)) if len(rows)]


def draw_counts(random: np.random.Generator, images: int, *, resamples: int) -> Counts:
    """Return how often each image is in each resample, the first of which is the images as they are.

    Args:
        random: source of chance.
        images: how many there are and are drawn with replacement.
        resamples: B.

    Returns:
        (images, 1 + B), each column sums to `images`.

    >>> counts = draw_counts(np.random.default_rng(0), 3, resamples=2)
    >>> counts[:, 0].tolist(), counts.sum(axis=0).tolist()
    ([1, 1, 1], [3, 3, 3])
    """
    drawn = random.multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.vstack([np.ones(images), drawn]).T.astype(np.int32, order="C")


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


def ranking_figures(
    ranking: Ranking, positive_counts: Counts, *, size: int | None = None, rates: Sequence[str] = RATES
) -> Floats:
    """Return AUC and rates on each resample, or their mean over all ways to draw some of its positives.

    The positives are drawn without replacement, as test sets at a class ratio are. With T positives in the resample,
    sorted, the threshold is the one at place j with probability C(j, r) C(T-1-j, n-1-r) / C(T, n), where r of the n
    drawn may be missed. This is what the mean over many random draws tends to.

    Args:
        ranking: from `rank`, of B resamples of the negatives, or of one for all.
        positive_counts: (P, B), how often each positive is in each resample; each column has the same sum.
        size: n, from 1 to the size of a resample; None for all of them.
        rates: names such as `fpr_at_tpr95` and `fpr_at_fn1`.

    Returns:
        (1 + R, B), in [0, 1]: the AUC, and the R rates; the mean AUC over draws is the AUC of the resample.

    Raises:
        ValueError: resamples are of different sizes or empty, or `size` is out of range.

    Reference:
        Sangalli et al. 2021, Eq. 6, and `method.metrics.auc` and `fpr_at_tpr`.

    >>> ones = np.ones((2, 1), np.int32)
    >>> ranking = rank(np.array([0.3, 0.8]), np.array([0.5, 0.1]), negative_counts=ones)
    >>> ranking_figures(ranking, ones).ravel().tolist()
    [0.75, 0.5, 0.5, 0.5]
    >>> ranking_figures(ranking, ones, size=1).ravel().tolist()  # FPR 0.5 or 0
    [0.75, 0.25, 0.25, 0.25]
    """
    positives = size_of(positive_counts)
    drawn = positive_counts[ranking.order]
    size = positives if size is None else size
    if not 1 <= size <= positives:
        raise ValueError(
            f"size of a draw must be from 1 to the {positives} positives, got {size} in ranking_figures. Draw fewer."
        )
    halves = np.broadcast_to(ranking.below + ranking.not_above, drawn.shape)
    total = np.einsum("pb,pb->b", drawn, halves, dtype=np.float64)  # whole numbers, exact
    found = [total / (2.0 * positives * ranking.negatives)]
    so_far = np.cumsum(drawn, axis=0)
    share_above = (ranking.negatives - ranking.below) / ranking.negatives  # (P, B), FPR of each threshold
    for rate in rates:
        reached = _reached(positives, size, missed_at(rate, size))
        probability = reached[so_far] - reached[so_far - drawn]  # (P, B)
        found.append(np.einsum("pb,pb->b", probability, np.broadcast_to(share_above, drawn.shape)))
    return np.stack(found)


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


def missed_at(rate: str, positives: int) -> int:
    """Return how many of the positives are missed at a rate: at a TPR as many as it allows, at N FN these.

    Of fewer positives than that the last is found all the same.

    >>> missed_at("fpr_at_tpr95", 53), missed_at("fpr_at_fn1", 53), missed_at("fpr_at_fn1", 1)
    (2, 1, 0)
    """
    if rate.startswith("fpr_at_tpr"):
        return positives - positives_needed(positives, int(rate.removeprefix("fpr_at_tpr")) / 100)
    return min(int(rate.removeprefix("fpr_at_fn")), positives - 1)


@lru_cache
def _reached(positives: int, size: int, missed: int) -> Floats:
    """Return for c = 0, 1, ... the probability that the threshold is among the c lowest positives."""
    ways = [math.comb(j, missed) * math.comb(positives - 1 - j, size - 1 - missed) for j in range(positives)]
    total = math.comb(positives, size)
    return np.concatenate([[0.0], np.cumsum([way / total for way in ways])])
