"""The label: probabilities against scipy, the observer's AUC against a Monte Carlo, exact stratification."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from prostate_alm.phantom.anatomy import lesion_contrast
from prostate_alm.phantom.reader import (
    DEFAULT_DIFFICULTY,
    EQUIVOCAL_BAND,
    POPULATIONS,
    draw_verdict,
    equivocal_probability,
    label_of,
    observer_auc,
    reader_noise_sd,
)
from prostate_alm.phantom.study import plan_study, render_diffusion


@pytest.mark.parametrize("difficulty", [0.0, DEFAULT_DIFFICULTY, 1.0])
def test_probability_is_that_of_scipys_normal_distribution(difficulty: float) -> None:
    conspicuity = np.linspace(0, 1, 41)
    perceived = stats.norm(conspicuity, reader_noise_sd(difficulty))
    expected = perceived.cdf(EQUIVOCAL_BAND[1]) - perceived.cdf(EQUIVOCAL_BAND[0])
    np.testing.assert_allclose(equivocal_probability(conspicuity, difficulty), expected, atol=1e-12)


@pytest.mark.parametrize("lesions", ["separate", "graded"])
@pytest.mark.parametrize("difficulty", [0.1, DEFAULT_DIFFICULTY, 0.5, 1.0])
def test_observer_auc_is_what_scikit_learn_finds_in_a_large_draw(difficulty: float, lesions: str) -> None:
    rng = np.random.default_rng(1)
    number = 200_000
    kinds = POPULATIONS[lesions]
    population = rng.choice(len(kinds), size=number, p=[one.share for one in kinds])
    low, high = (np.array([getattr(one, f"conspicuity_{end}") for one in kinds]) for end in ("low", "high"))
    conspicuity = rng.uniform(low[population], high[population])
    perceived = conspicuity + rng.normal(0, reader_noise_sd(difficulty), number)
    label = (perceived > EQUIVOCAL_BAND[0]) & (perceived < EQUIVOCAL_BAND[1])
    drawn = roc_auc_score(label, equivocal_probability(conspicuity, difficulty).round(12))
    four_standard_errors = 0.004
    assert observer_auc(difficulty, lesions=lesions) == pytest.approx(drawn, abs=four_standard_errors)


def test_verdicts_given_the_label_have_the_observers_auc() -> None:
    rng = np.random.default_rng(2)
    labels = [0, 1] * 1500
    conspicuity = np.array([draw_verdict(label, rng, difficulty=0.5).conspicuity for label in labels])
    drawn = roc_auc_score(labels, equivocal_probability(conspicuity, 0.5).round(12))
    assert drawn == pytest.approx(observer_auc(0.5), abs=0.02)


def test_images_may_be_harder_than_the_reader_who_labels_them() -> None:
    """Labels follow the difficulty of the reader, whose observer scikit-learn finds; lesions fade with the images'."""
    plans = [plan_study(index, seed=3, difficulty=2.0, reader_difficulty=0.2) for index in range(1, 601)]
    labels, conspicuity = zip(*((plan.label, plan.verdict.conspicuity) for plan in plans), strict=True)
    drawn = roc_auc_score(labels, equivocal_probability(np.array(conspicuity), 0.2).round(12))
    assert drawn == pytest.approx(observer_auc(0.2), abs=0.01)  # 0.995
    lesions = [plan for plan in plans if plan.anatomy.lesion is not None and plan.verdict.conspicuity < 1]
    for plan in lesions[:20]:
        assert plan.anatomy.lesion.contrast == lesion_contrast(plan.verdict.conspicuity, difficulty=2.0)


def test_reader_of_the_images_difficulty_gives_the_same_study() -> None:
    alone, both = plan_study(4, difficulty=0.5), plan_study(4, difficulty=0.5, reader_difficulty=0.5)
    assert alone.verdict == both.verdict
    np.testing.assert_array_equal(render_diffusion(alone).adc.pixels, render_diffusion(both).adc.pixels)
    assert alone.uid_key != both.uid_key


def test_graded_lesions_fill_the_range_and_cross_both_edges_of_the_band() -> None:
    """Labels follow the reader, whose observer scikit-learn finds."""
    settings = {"seed": 3, "difficulty": 0.5, "reader_difficulty": 0.05, "lesions": "graded"}
    plans = [plan_study(index, **settings) for index in range(1, 601)]
    labels = np.array([plan.label for plan in plans])
    conspicuity = np.array([plan.verdict.conspicuity for plan in plans])
    drawn = roc_auc_score(labels, equivocal_probability(conspicuity, 0.05).round(12))
    assert drawn == pytest.approx(observer_auc(0.05, lesions="graded"), abs=0.01)  # 0.988
    assert np.histogram(conspicuity, bins=10, range=(0, 1))[0].min() > 15
    low, high = EQUIVOCAL_BAND
    clear = np.abs(conspicuity[:, None] - [low, high]).min(axis=1) > 4 * reader_noise_sd(0.05)
    np.testing.assert_array_equal(labels[clear], ((low < conspicuity) & (conspicuity < high))[clear])
    radii_mm = [plan.anatomy.lesion.radius_mm for plan in plans if plan.anatomy.lesion is not None]
    assert len(radii_mm) == np.count_nonzero(conspicuity)
    assert 6 <= min(radii_mm) < 6.2 < 10.8 < max(radii_mm) <= 11


def test_observer_at_the_default_difficulty_is_good_and_imperfect() -> None:
    assert 0.98 < observer_auc(DEFAULT_DIFFICULTY) < 0.995
    assert observer_auc(0.45) == pytest.approx(0.93, abs=0.005)  # the paper's AUC on its own cohort


def test_observer_never_gains_from_difficulty() -> None:
    aucs = [observer_auc(difficulty) for difficulty in np.linspace(0, 1, 21)]
    assert all(harder <= easier for easier, harder in pairwise(aucs))


@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.1, 1 / 9, 0.3, 0.5, 0.85]), blocks=st.integers(1, 12))
def test_whole_blocks_of_ten_hold_the_share_exactly(seed: int, share: float, blocks: int) -> None:
    labels = [label_of(index, seed=seed, positive_share=share) for index in range(1, 10 * blocks + 1)]
    assert sum(labels) == round(10 * blocks * share)


def test_labels_differ_between_seeds_and_blocks() -> None:
    patterns = {
        tuple(label_of(10 * block + place, seed=seed, positive_share=0.3) for place in range(1, 11))
        for seed in range(5)
        for block in range(5)
    }
    assert len(patterns) > 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": 0}, "index must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
        ({"positive_share": 0.0}, "positive_share must be strictly between 0 and 1"),
        ({"positive_share": float("nan")}, "positive_share must be strictly between 0 and 1"),
    ],
)
def test_parameters_out_of_range_are_named(change: dict[str, float], message: str) -> None:
    parameters = {"index": 1, "seed": 0, "positive_share": 0.3} | change
    with pytest.raises(ValueError, match=message):
        label_of(parameters.pop("index"), **parameters)


@pytest.mark.parametrize("difficulty", [-0.01, 1.01, float("nan")])
def test_difficulty_outside_its_range_is_refused(difficulty: float) -> None:
    with pytest.raises(ValueError, match="difficulty must be within"):
        observer_auc(difficulty)


def test_label_and_nodes_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="label must be 0 or 1, got 2"):
        draw_verdict(2, np.random.default_rng(0), difficulty=0.1)
    with pytest.raises(ValueError, match="nodes must be >= 1, got 0"):
        observer_auc(0.1, nodes=0)
