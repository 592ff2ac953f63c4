"""Thresholds at a target TPR: against loops, scipy's tests of binomial counts, and known populations."""

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from prostate_alm.method.operating_point import (
    binomial_interval,
    choose_operating_point,
    guaranteed_threshold,
    positives_for_guarantee,
    threshold_interval,
)


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and scores with many ties."""
    random = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], random.integers(0, 2, random.integers(3, 60))])
    return labels, np.round(random.normal(labels, 1.0), int(random.integers(0, 3)))


@pytest.mark.parametrize("target", [0.5, 0.55, 0.9, 0.95, 1.0])
def test_the_threshold_is_the_greatest_of_all_that_reach_the_target(target: float) -> None:
    for seed in range(40):
        labels, scores = draw(seed)
        positive, negative = scores[labels == 1].tolist(), scores[labels == 0].tolist()
        best = -math.inf
        for candidate in scores.tolist():
            found = 0
            for score in positive:
                found += score >= candidate
            if found >= target * len(positive) - 1e-9:
                best = max(best, candidate)
        point = choose_operating_point(labels, scores, target_tpr=target)
        assert point.threshold == best
        assert point.tpr.estimate == sum(score >= best for score in positive) / len(positive)
        assert point.fpr.estimate == sum(score >= best for score in negative) / len(negative)
        assert (point.positives, point.negatives) == (len(positive), len(negative))


@pytest.mark.parametrize("trials", [1, 2, 7, 40])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_rates_have_the_exact_interval(trials: int, confidence: float) -> None:
    for successes in range(trials + 1):
        ours = binomial_interval(successes, trials, confidence=confidence)
        theirs = binomtest(successes, trials).proportion_ci(confidence, method="exact")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
        assert ours.low <= ours.estimate <= ours.high


def test_intervals_are_of_95_percent_unless_another_confidence_is_asked() -> None:
    ours, theirs = binomial_interval(3, 40), binomtest(3, 40).proportion_ci(0.95, method="exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    scores = np.arange(200.0)
    assert threshold_interval(scores, target_tpr=0.9) == threshold_interval(scores, target_tpr=0.9, confidence=0.95)
    point = choose_operating_point([1] * 40 + [0] * 40, [1.0] * 37 + [0.0] * 43, target_tpr=0.9)
    theirs = binomtest(37, 40).proportion_ci(0.95, method="exact")
    assert (point.tpr.low, point.tpr.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("count", [1, 5, 12, 58, 59, 72, 200])
@pytest.mark.parametrize("target", [0.8, 0.95])
def test_the_guaranteed_threshold_is_where_the_one_sided_exact_bound_reaches_the_target(
    count: int, target: float
) -> None:
    scores = np.random.default_rng(count).permutation(np.arange(count, dtype=float))  # no ties
    reached = [
        score
        for score in scores
        if binomtest(int((scores >= score).sum()), count, alternative="greater").proportion_ci(0.95, "exact").low
        >= target
    ]
    assert guaranteed_threshold(scores, target_tpr=target) == max(reached, default=None)
    needed = positives_for_guarantee(target)
    assert (count >= needed) == bool(reached)


@pytest.mark.parametrize(("count", "target"), [(10, 0.8), (40, 0.9), (100, 0.95)])
def test_the_interval_of_the_threshold_leaves_out_no_more_than_its_tails(count: int, target: float) -> None:
    """Ranks, added up by hand over the number of positives below the threshold of the population."""
    low, high = threshold_interval(np.arange(count), target_tpr=target)
    chance = [binom.pmf(below, count, 1 - target) for below in range(count + 1)]

    def missed_low(rank: int) -> float:  # the population's threshold lies below the rank-th lowest score
        return sum(chance[:rank])

    def missed_high(rank: int) -> float:  # ... above it
        return sum(chance[rank:])

    if low is None:
        assert missed_low(1) > 0.025
    else:
        assert missed_low(int(low) + 1) <= 0.025 < missed_low(int(low) + 2)
    assert high is not None
    assert missed_high(int(high) + 1) <= 0.025 < missed_high(int(high))


def test_the_interval_holds_the_true_threshold_as_often_as_it_says() -> None:
    """Normal positives, 4000 samples of 100: the standard error of the coverage is 0.4 %."""
    random = np.random.default_rng(0)
    truth = -1.6448536269514722  # 5 % quantile of the standard normal distribution
    samples = random.normal(size=(4000, 100))
    intervals = [threshold_interval(sample, target_tpr=0.95) for sample in samples]
    below = sum(low is not None and low > truth for low, _ in intervals) / len(intervals)
    above = sum(high is not None and high < truth for _, high in intervals) / len(intervals)
    assert 0.002 < below <= 0.025 + 0.008
    assert 0.002 < above <= 0.025 + 0.008
    kept = [guaranteed_threshold(sample, target_tpr=0.95) for sample in samples]
    assert sum(value is not None and value <= truth for value in kept) / len(kept) >= 0.95 - 0.01


def test_a_new_positive_reaches_the_threshold_with_a_chance_of_its_rank() -> None:
    """With k / (n + 1): 20 positives at a target of 0.9 keep 18; a uniform score reaches t with a chance of 1 - t."""
    random = np.random.default_rng(2)
    samples = random.random((2000, 20))
    chances = [
        1 - choose_operating_point([1] * 20 + [0], [*sample, 0.0], target_tpr=0.9).threshold for sample in samples
    ]
    assert np.mean(chances) == pytest.approx(18 / 21, abs=4 * 0.075 / math.sqrt(2000))  # deviation of Beta(18, 3)


def test_rounded_scores_are_covered_at_least_as_often() -> None:
    """Ties: geometric positives, P(S >= s) = 0.9^s; the greatest s with at least 0.8 is 2."""
    random = np.random.default_rng(1)
    samples = random.geometric(0.1, size=(2000, 60)) - 1
    intervals = [threshold_interval(sample, target_tpr=0.8) for sample in samples]
    missed = sum((low is not None and low > 2) or (high is not None and high < 2) for low, high in intervals)
    assert missed / len(intervals) <= 0.05 + 0.015


def test_what_grows_with_the_score_moves_with_it() -> None:
    labels, scores = draw(3)
    point = choose_operating_point(labels, scores, target_tpr=0.9)
    moved = choose_operating_point(labels, np.exp(scores) * 7 - 3, target_tpr=0.9)

    def image(value: float | None) -> float | None:
        return None if value is None else math.exp(value) * 7 - 3

    for name in ("threshold", "threshold_low", "threshold_high", "threshold_guaranteed"):
        assert getattr(moved, name) == pytest.approx(image(getattr(point, name)))
    assert (moved.tpr, moved.fpr) == (point.tpr, point.fpr)
    order = np.random.default_rng(0).permutation(len(labels))
    assert choose_operating_point(labels[order], scores[order], target_tpr=0.9) == point


def test_small_samples_bound_nothing() -> None:
    point = choose_operating_point([1, 1, 1, 0], [3.0, 2.0, 1.0, 0.0], target_tpr=0.95)
    assert (point.threshold, point.threshold_low, point.threshold_guaranteed) == (1.0, None, None)
    assert point.threshold_high == 2.0  # P(at least 2 of 3 below the 5 % quantile) = 0.7 %
    assert threshold_interval([1.0], target_tpr=0.5) == (None, None)
    assert threshold_interval([3.0, 1.0], target_tpr=1.0) == (None, 1.0)
    assert positives_for_guarantee(0.95, confidence=0.975) == 72


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose_operating_point([1, 0], [1.0, 0.0], target_tpr=0.0), "tpr must be in"),
        (lambda: choose_operating_point([1, 0], [1.0, 0.0], target_tpr=0.9, confidence=1.0), "confidence must be in"),
        (lambda: choose_operating_point([1, 1], [1.0, 0.0], target_tpr=0.9), "both classes"),
        (lambda: threshold_interval([], target_tpr=0.9), "positive_scores must be one or more finite"),
        (lambda: threshold_interval([math.nan], target_tpr=0.9), "positive_scores must be one or more finite"),
        (lambda: guaranteed_threshold([1.0], target_tpr=1.1), r"target_tpr must be in \(0, 1\], got 1.1"),
        (lambda: binomial_interval(3, 2), "successes must be from 0 to the trials"),
        (lambda: binomial_interval(0, 0), "successes must be from 0 to the trials"),
    ],
)
def test_wrong_input_is_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
