from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from prostate_alm.experiments.bootstrap import (
    Floats,
    figures,
    may_be_missed,
    mean_figures_of_draws,
    rank,
    resample,
)
from prostate_alm.method.metrics import auc, fpr_at_tpr

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
    drawn, among = resample(random, 83, resamples=60), resample(random, 71, resamples=60)
    found = figures(rank(positive, negative, negative_counts=among), drawn)
    for place in range(61):
        own, others = repeated(positive, drawn[:, place]), repeated(negative, among[:, place])
        labels, both = np.concatenate([np.ones(83), np.zeros(71)]), np.concatenate([own, others])
        expected = [metric(labels, both) for metric in METRICS]
        np.testing.assert_allclose(found[0, place], expected[0], rtol=1e-14)
        assert found[1:, place].tolist() == expected[1:]


def test_positives_that_are_not_drawn_count_for_nothing(scores: tuple[Floats, Floats]) -> None:
    positive, negative = scores
    among = resample(np.random.default_rng(0), 71, resamples=5)
    some = resample(np.random.default_rng(1), 30, resamples=5)
    padded = np.vstack([some, np.zeros((53, 6), np.int32)])
    alone = figures(rank(positive[:30], negative, negative_counts=among), some)
    np.testing.assert_array_equal(figures(rank(positive, negative, negative_counts=among), padded), alone)


def test_the_mean_over_draws_is_that_of_every_possible_draw() -> None:
    random = np.random.default_rng(5)
    positive, negative = np.round(random.normal(0.5, 1, 8), 1), np.round(random.normal(0, 1, 9), 1)
    drawn, among = resample(random, 8, resamples=4), resample(random, 9, resamples=4)
    for size in (1, 3, 8):
        found = mean_figures_of_draws(rank(positive, negative, negative_counts=among), drawn, size=size)
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
    assert may_be_missed(positives, level) == positives - -(-positives * percent // 100)  # in whole numbers


@pytest.mark.parametrize("counts", [np.array([[1, 2], [1, 1]]), np.array([[0], [0]])])
def test_resamples_of_several_sizes_or_of_nothing_are_refused(counts: Any) -> None:
    ranking = rank(np.array([0.1, 0.4]), np.array([0.2, 0.3]), negative_counts=np.ones((2, 1), np.int32))
    with pytest.raises(ValueError, match=r"^resamples must be of one size of at least 1, got sizes \[.*\] in"):
        figures(ranking, counts)


@pytest.mark.parametrize("size", [0, 3])
def test_a_draw_of_nothing_or_of_too_many_is_refused(size: int) -> None:
    ones = np.ones((2, 1), np.int32)
    ranking = rank(np.array([0.1, 0.4]), np.array([0.2, 0.3]), negative_counts=ones)
    with pytest.raises(ValueError, match=rf"^size of a draw must be from 1 to the 2 positives, got {size} in"):
        mean_figures_of_draws(ranking, ones, size=size)
