import math
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from prostate_alm.method.bootstrap import bootstrap_interval, draw_counts, missed_at, rank, ranking_figures
from prostate_alm.method.metrics import Floats, TooFewPositivesWarning, auc, fpr_at_false_negatives, fpr_at_tpr

TPR_LEVELS = (1.0, 0.95, 0.9)
METRICS = (auc, *(lambda truth, scores, level=level: fpr_at_tpr(truth, scores, level) for level in TPR_LEVELS))

pytestmark = pytest.mark.filterwarnings("ignore::prostate_alm.method.metrics.TooFewPositivesWarning")


def repeated(scores: Floats, counts: Any) -> Floats:
    return np.repeat(scores, counts)


@pytest.fixture(params=["ties", "no ties", "two values"])
def scores(request: pytest.FixtureRequest) -> tuple[Floats, Floats]:
    random = np.random.default_rng(3)
    positive, negative = random.normal(0.8, 1, 83), random.normal(0, 1, 71)
    if request.param == "two values":
        return np.round(positive > 0) * 1.0, np.round(negative > 0) * 1.0
    digits = 1 if request.param == "ties" else 12
    return np.round(positive, digits), np.round(negative, digits)


def test_counts_give_what_the_metrics_give_for_the_resampled_scores(scores: tuple[Floats, Floats]) -> None:
    positive, negative = scores
    random = np.random.default_rng(0)
    drawn, among = draw_counts(random, 83, resamples=60), draw_counts(random, 71, resamples=60)
    found = ranking_figures(rank(positive, negative, negative_counts=among), drawn)
    for place in range(61):
        own, others = repeated(positive, drawn[:, place]), repeated(negative, among[:, place])
        labels, both = np.concatenate([np.ones(83), np.zeros(71)]), np.concatenate([own, others])
        expected = [metric(labels, both) for metric in METRICS]
        np.testing.assert_allclose(found[0, place], expected[0], rtol=1e-14)
        assert found[1:, place].tolist() == expected[1:]


def test_positives_that_are_not_drawn_count_for_nothing(scores: tuple[Floats, Floats]) -> None:
    positive, negative = scores
    among = draw_counts(np.random.default_rng(0), 71, resamples=5)
    some = draw_counts(np.random.default_rng(1), 30, resamples=5)
    padded = np.vstack([some, np.zeros((53, 6), np.int32)])
    alone = ranking_figures(rank(positive[:30], negative, negative_counts=among), some)
    np.testing.assert_array_equal(ranking_figures(rank(positive, negative, negative_counts=among), padded), alone)


def test_the_mean_over_draws_is_that_of_every_possible_draw() -> None:
    random = np.random.default_rng(5)
    positive, negative = np.round(random.normal(0.5, 1, 8), 1), np.round(random.normal(0, 1, 9), 1)
    drawn, among = draw_counts(random, 8, resamples=4), draw_counts(random, 9, resamples=4)
    for size in (1, 3, 8):
        found = ranking_figures(rank(positive, negative, negative_counts=among), drawn, size=size)
        for place in range(5):
            own, others = repeated(positive, drawn[:, place]), repeated(negative, among[:, place])
            labels = np.concatenate([np.ones(size), np.zeros(9)])
            all_draws = [np.concatenate([chosen, others]) for chosen in combinations(own, size)]
            expected = [fmean(metric(labels, one) for one in all_draws) for metric in METRICS]
            np.testing.assert_allclose(found[:, place], expected, rtol=1e-12)


@pytest.mark.parametrize("positives", [1, 9, 10, 19, 20, 53, 111, 1000])
@pytest.mark.parametrize("level", TPR_LEVELS)
def test_as_many_may_be_missed_as_the_level_allows(positives: int, level: float) -> None:
    percent = round(100 * level)
    assert missed_at(f"fpr_at_tpr{percent}", positives) == positives - -(
        -positives * percent // 100
    )  # in whole numbers


@pytest.mark.parametrize("counts", [np.array([[1, 2], [1, 1]]), np.array([[0], [0]])])
def test_resamples_of_several_sizes_or_of_nothing_are_refused(counts: Any) -> None:
    ranking = rank(np.array([0.1, 0.4]), np.array([0.2, 0.3]), negative_counts=np.ones((2, 1), np.int32))
    with pytest.raises(ValueError, match=r"^resamples must be of one size of at least 1, got sizes \[.*\] in"):
        ranking_figures(ranking, counts)


@pytest.mark.parametrize("size", [0, 3])
def test_a_draw_of_nothing_or_of_too_many_is_refused(size: int) -> None:
    ones = np.ones((2, 1), np.int32)
    ranking = rank(np.array([0.1, 0.4]), np.array([0.2, 0.3]), negative_counts=ones)
    with pytest.raises(ValueError, match=rf"^size of a draw must be from 1 to the 2 positives, got {size} in"):
        ranking_figures(ranking, ones, size=size)


def test_resampled_rates_at_false_negatives_are_those_of_the_metrics() -> None:
    random = np.random.default_rng(3)
    positive, negative = np.round(random.normal(1, 1, 9), 1), np.round(random.normal(0, 1, 20), 1)
    drawn, among = draw_counts(random, 9, resamples=20), draw_counts(random, 20, resamples=20)
    rates = ("fpr_at_fn0", "fpr_at_fn1")
    ranking = rank(positive, negative, negative_counts=among)
    found = ranking_figures(ranking, drawn, rates=rates)
    labels = np.repeat([1, 0], [9, 20])
    for place in range(21):
        scores = np.concatenate([repeated(positive, drawn[:, place]), repeated(negative, among[:, place])])
        expected = [auc(labels, scores), *(fpr_at_false_negatives(labels, scores, count) for count in (0, 1))]
        np.testing.assert_allclose(found[:, place], expected, rtol=1e-14)
    np.testing.assert_array_equal(ranking_figures(ranking, drawn, size=9, rates=rates), found)
    assert [missed_at("fpr_at_fn1", positives) for positives in (1, 2, 30)] == [0, 1, 1]


def sample(size: int, seed: int) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    labels = (random.random(size) < 0.3).astype(float)
    labels[:4] = [0, 0, 1, 1]
    return labels, random.normal(size=size) + labels


def test_bootstrap_interval_agrees_with_the_delong_variance() -> None:
    labels, scores = sample(400, 11)
    found = bootstrap_interval(labels, scores, metric=auc, resamples=500)
    positive, negative = scores[labels == 1], scores[labels == 0]
    psi = (positive[:, None] > negative).astype(float)
    deviation = math.sqrt(psi.mean(1).var(ddof=1) / len(positive) + psi.mean(0).var(ddof=1) / len(negative))
    assert found.estimate == auc(labels, scores)
    assert found.low < found.estimate < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert bootstrap_interval(labels, scores, metric=auc, resamples=50) == bootstrap_interval(
        labels, scores, metric=auc, resamples=50
    )
    narrow = bootstrap_interval(labels, scores, metric=auc, resamples=500, confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_bootstrap_pairs_the_columns_of_two_models() -> None:
    labels, scores = sample(200, 12)
    both = np.stack([scores, scores + 1e-9], axis=1)  # the same ranking, so the paired difference is 0
    found = bootstrap_interval(labels, both, metric=lambda y, s: auc(y, s[:, 0]) - auc(y, s[:, 1]), resamples=30)
    assert (found.low, found.high) == (0.0, 0.0)


def test_bootstrap_says_only_once_that_positives_are_few() -> None:
    labels, scores = sample(60, 13)
    with pytest.warns(TooFewPositivesWarning) as caught:
        bootstrap_interval(labels, scores, metric=lambda y, s: fpr_at_tpr(y, s, 0.99), resamples=10)
    assert len(caught) == 1


def test_bootstrap_parameters_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"confidence must be in \(0, 1\), got 1.0"):
        bootstrap_interval([0, 1], [0, 1], metric=auc, confidence=1.0)
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        bootstrap_interval([0, 1], [0, 1], metric=auc, resamples=0)
