"""Where to cut: the threshold that finds a wanted share of the positives, and how far it can be trusted.

Nothing here assumes a distribution of the scores: every interval comes from the binomial distribution of a count.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, bdtrc, betaincinv

from prostate_alm.method.metrics import Floats, Interval, threshold_at_tpr


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold t (score >= t is positive), its rates with their intervals, and what they rest on.

    `threshold_low` and `threshold_high` hold the threshold of all positives there are; None where the sample is too
    small to bound it on that side. `threshold_guaranteed` is the greatest threshold whose TPR is at least the target
    with the given confidence; None where there are too few positives for any.
    """

    target_tpr: float
    threshold: float
    threshold_low: float | None
    threshold_high: float | None
    threshold_guaranteed: float | None
    tpr: Interval
    fpr: Interval
    positives: int
    negatives: int


def choose_operating_point(
    labels: ArrayLike, scores: ArrayLike, *, target_tpr: float, confidence: float = 0.95
) -> OperatingPoint:
    """Return the greatest threshold whose TPR on these samples is at least the target, with its intervals.

    t = max{t : #{positives with score >= t} >= target_tpr · #positives}

    The intervals of TPR and FPR are those of a threshold fixed beforehand. This one was chosen on the same samples, so
    its TPR is never below the target and the interval says how many samples it rests on, not what new samples will
    show. A new positive of the same population reaches the k-th greatest of n with a chance of k / (n + 1), whatever
    the distribution; `threshold_guaranteed` keeps the target with the given confidence.

    Args:
        labels: (n,), 0 or 1, at least one of each.
        scores: (n,), finite; higher means more positive. Samples must be independent: one score a sample.
        target_tpr: in (0, 1].
        confidence: of all intervals, in (0, 1).

    Raises:
        ValueError: a label, a score, a shape, the target or the confidence is wrong, or a class is absent.

    >>> point = choose_operating_point([1, 1, 1, 0, 0], [0.9, 0.6, 0.6, 0.7, 0.1], target_tpr=0.5)
    >>> point.threshold, point.tpr.estimate, point.fpr.estimate
    (0.6, 1.0, 0.5)
    """
    threshold = threshold_at_tpr(labels, scores, target_tpr)  # checks what it is given
    truth, values = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    positive, negative = values[truth == 1], values[truth == 0]
    low, high = threshold_interval(positive, target_tpr=target_tpr, confidence=confidence)
    return OperatingPoint(
        target_tpr=target_tpr,
        threshold=threshold,
        threshold_low=low,
        threshold_high=high,
        threshold_guaranteed=guaranteed_threshold(positive, target_tpr=target_tpr, confidence=confidence),
        tpr=binomial_interval(int((positive >= threshold).sum()), len(positive), confidence=confidence),
        fpr=binomial_interval(int((negative >= threshold).sum()), len(negative), confidence=confidence),
        positives=len(positive),
        negatives=len(negative),
    )


def binomial_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Return the share of successes with the exact interval of Clopper and Pearson.

    The interval holds every share p for which neither tail P(X <= successes), P(X >= successes) of X ~ Bin(trials, p)
    is below (1 - confidence) / 2, so that it covers the truth at least as often as its confidence says.

    Args:
        successes: from 0 to `trials`.
        trials: at least 1.
        confidence: in (0, 1).

    Returns:
        Estimate and interval within [0, 1].

    Raises:
        ValueError: a number is out of its range.

    Reference:
        Clopper and Pearson, Biometrika 26 (1934).

    >>> interval = binomial_interval(10, 10)
    >>> f"{interval.low:.4f} to {interval.high:.4f}"
    '0.6915 to 1.0000'
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"successes must be from 0 to the trials, at least 1, got {successes} of {trials}.")
    tail = _tail(confidence) / 2
    low = float(betaincinv(successes, trials - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 1 - tail)) if successes < trials else 1.0
    return Interval(successes / trials, low, high)


def threshold_interval(
    positive_scores: ArrayLike, *, target_tpr: float, confidence: float = 0.95
) -> tuple[float | None, float | None]:
    """Return scores between which the threshold for the target lies in the population of the positives.

    With the positives in ascending order x_1, ..., x_n and K ~ Bin(n, 1 - target_tpr) the number below the threshold
    of the population, x_l and x_u with

        l = max{l : P(K <= l - 1) <= (1 - confidence) / 2},  u = min{u : P(K >= u) <= (1 - confidence) / 2}

    hold it between them with at least the confidence, whatever the distribution; ties only widen what is covered.

    Args:
        positive_scores: (n,), finite, at least one.
        target_tpr: in (0, 1].
        confidence: in (0, 1).

    Returns:
        Lower and upper bound. None below where even the lowest score may lie above the threshold, which needs
        log((1 - confidence) / 2) / log(target_tpr) positives to exclude: 72 for 0.95 and 95 %. None above where even
        the highest score may lie below it.

    Raises:
        ValueError: a score, the target or the confidence is wrong.

    Reference:
        David and Nagaraja, Order Statistics (2003), section 7.1.

    >>> threshold_interval(range(72), target_tpr=0.95), threshold_interval(range(71), target_tpr=0.95)
    ((0.0, 8.0), (None, 8.0))
    """
    ordered, tail = _ordered(positive_scores, target_tpr), _tail(confidence) / 2
    count = len(ordered)
    below = bdtr(np.arange(count), count, 1 - target_tpr)  # below[j] = P(K <= j)
    above = bdtrc(np.arange(count), count, 1 - target_tpr)  # above[j] = P(K >= j + 1)
    rank_low, upper = int((below <= tail).sum()), np.flatnonzero(above <= tail)
    low = float(ordered[rank_low - 1]) if rank_low > 0 else None
    return low, float(ordered[upper[0]]) if len(upper) else None


def guaranteed_threshold(positive_scores: ArrayLike, *, target_tpr: float, confidence: float = 0.95) -> float | None:
    """Return the greatest observed threshold whose TPR in the population is at least the target, with confidence.

    x_r with r = max{r : P(K <= r - 1) <= 1 - confidence}, K ~ Bin(n, 1 - target_tpr), x ascending: a one-sided
    tolerance limit. The threshold's one-sided exact lower bound of the TPR is then at least the target.

    Args:
        positive_scores: (n,), finite, at least one; independent of each other.
        target_tpr: in (0, 1].
        confidence: in (0, 1).

    Returns:
        A score of a positive; None with fewer than log(1 - confidence) / log(target_tpr) positives (59 for 0.95 and
        95 %, 299 for 0.99), and always for a target of 1, which no sample can guarantee.

    Raises:
        ValueError: a score, the target or the confidence is wrong.

    Reference:
        Wilks, Annals of Mathematical Statistics 12 (1941).

    >>> guaranteed_threshold(range(59), target_tpr=0.95), guaranteed_threshold(range(58), target_tpr=0.95)
    (0.0, None)
    """
    ordered, tail = _ordered(positive_scores, target_tpr), _tail(confidence)
    below = bdtr(np.arange(len(ordered)), len(ordered), 1 - target_tpr)
    rank = int((below <= tail).sum())
    return float(ordered[rank - 1]) if rank > 0 else None


def positives_for_guarantee(target_tpr: float, *, confidence: float = 0.95) -> int | None:
    """Return how many positives `guaranteed_threshold` needs: the least n with target_tpr^n <= 1 - confidence.

    Args:
        target_tpr: in (0, 1].
        confidence: in (0, 1).

    Returns:
        The number; None for a target of 1.

    >>> [positives_for_guarantee(target) for target in (0.9, 0.95, 0.99, 1.0)]
    [29, 59, 299, None]
    """
    _require_target(target_tpr)
    tail = _tail(confidence)
    return None if target_tpr == 1 else math.ceil(math.log(tail) / math.log(target_tpr))


def _ordered(positive_scores: ArrayLike, target_tpr: float) -> Floats:
    _require_target(target_tpr)
    scores = np.asarray(positive_scores, dtype=np.float64)
    if scores.ndim != 1 or not len(scores) or not np.isfinite(scores).all():
        raise ValueError(f"positive_scores must be one or more finite numbers, got an array of shape {scores.shape}.")
    return np.sort(scores)


def _require_target(target_tpr: float) -> None:
    if not 0 < target_tpr <= 1:
        raise ValueError(f"target_tpr must be in (0, 1], got {target_tpr!r}.")


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}.")
    return 1 - confidence
