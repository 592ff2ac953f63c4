"""FROC and its figures against the PI-CAI challenge's own package, a double loop over thresholds, and by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import ndimage

from prostate_alm.method.bootstrap import interval_over_cases
from prostate_alm.method.lesion_candidates import Candidates, lesion_candidates
from prostate_alm.method.lesion_metrics import (
    Detections,
    false_positives_at_sensitivity,
    froc,
    lesion_average_precision,
    match_lesions,
)
from prostate_alm.method.metrics import auc

SHAPE = (24, 22, 10)
TOUCHING = np.ones((3, 3, 3))


def cohort(seed: int, cases: int = 30) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return maps of logits with lesions of which some are seen, some beside their place and some missed."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(cases):
        logits = ndimage.gaussian_filter(random.standard_normal(SHAPE), 2.0) * 20.0 - 6.0
        lesions = np.zeros(SHAPE, np.uint8)
        for lesion in range(1, 1 + number % 3):
            low = random.integers(0, (8, 8, 3)) + np.array([12, 11, 4]) * (
                (lesion - 1),
                random.integers(2),
                random.integers(2),
            )
            box = tuple(slice(a, b) for a, b in zip(low, low + random.integers(3, (7, 7, 5)), strict=True))
            lesions[box] = lesion
            seen = np.roll(lesions == lesion, random.integers(-2, 3), axis=0)
            logits += random.uniform(0, 12) * ndimage.gaussian_filter(seen.astype(float), 1.0)
        made.append((np.round(logits, 1), lesions))  # rounded: ties within and between cases
    return made


def evaluated(made: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Detections]:
    return [match_lesions(lesion_candidates(logits), lesions) for logits, lesions in made]


def probability(logit: float | np.ndarray) -> float | np.ndarray:
    return 1.0 / (1.0 + np.exp(-logit))


@pytest.mark.parametrize("seed", range(3))
def test_all_figures_are_those_of_picai_eval(seed: int) -> None:
    """The package knows no peaks: a candidate with its peak in a lesion is given to it as one of the least overlap."""
    picai_eval = pytest.importorskip("picai_eval", reason="a development dependency: pip install picai_eval")
    made = [(logits, (lesions > 0) * apart(lesions)) for logits, lesions in cohort(seed)]
    maps, places = [], {}
    for logits, _ in made:
        found = lesion_candidates(logits)
        confidences = np.concatenate([[0.0], probability(found.confidences)])
        maps.append(confidences[found.numbers].astype(np.float32))
        for number, peak in enumerate(found.peaks, start=1):
            places[(found.numbers == number).tobytes()] = tuple(peak)

    def overlap(candidate: np.ndarray, lesion: np.ndarray) -> float:
        iou = (candidate & lesion).sum() / (candidate | lesion).sum()
        return max(iou, 0.1) if lesion[places[candidate.tobytes()]] else iou

    theirs = picai_eval.evaluate(
        maps, [(labels > 0).astype(np.int32) for _, labels in made], overlap_func=overlap, num_parallel_calls=1
    )
    ours = evaluated(made)
    assert theirs.num_lesions == sum(len(case.found) for case in ours) > 20
    assert pytest.approx(lesion_average_precision(ours), abs=1e-12) == theirs.AP
    assert theirs.AP > 0.1
    labels = [bool(lesions.any()) for _, lesions in made]
    scores = [logits[lesion_candidates(logits).numbers > 0].max(initial=-99.0) for logits, _ in made]
    assert theirs.auroc == pytest.approx(auc(labels, scores), abs=1e-12)
    curve = froc(ours)
    last = len(curve.thresholds)  # their curve goes on to a threshold of 0, where they put an infinite rate
    np.testing.assert_allclose(theirs.lesion_FPR[:last], curve.false_positives_per_case, rtol=1e-6)
    np.testing.assert_allclose(theirs.lesion_TPR[:last], curve.sensitivity, rtol=1e-6)


def apart(lesions: np.ndarray) -> np.ndarray:
    """Return the map with lesions that touch made one, as the package sees them."""
    return ndimage.label(lesions, structure=TOUCHING)[0]


def test_two_lesions_and_two_candidates_are_paired_as_often_as_they_can_be() -> None:
    """A wide candidate overlaps both lesions, a narrow one the first alone: each finds one."""
    numbers, lesions = np.zeros((12, 1, 1), np.int32), np.zeros((12, 1, 1), np.uint8)
    numbers[0:2], numbers[3:9] = 2, 1
    lesions[1:5], lesions[6:9] = 1, 2
    candidates = Candidates(np.array([4.0, 1.0]), np.array([[3, 0, 0], [0, 0, 0]]), numbers)
    found = match_lesions(candidates, lesions)
    assert (found.found.tolist(), found.false_positives.tolist()) == ([1.0, 4.0], [])


def test_a_second_candidate_in_a_lesion_is_no_false_positive_and_one_beside_it_is() -> None:
    lesions = np.zeros((30, 1, 1), np.uint8)
    lesions[0:10] = 7
    numbers = np.zeros((30, 1, 1), np.int32)
    numbers[0:6], numbers[8:9], numbers[10:11] = 1, 2, 3
    candidates = Candidates(np.array([3.0, 2.0, 1.0]), np.array([[1, 0, 0], [8, 0, 0], [10, 0, 0]]), numbers)
    found = match_lesions(candidates, lesions)
    assert (found.found.tolist(), found.false_positives.tolist()) == ([3.0], [1.0])


def test_a_map_without_contrast_finds_nothing() -> None:
    lesions = np.zeros(SHAPE, np.uint8)
    lesions[4:8, 4:8, 4:8] = 1
    found = match_lesions(lesion_candidates(np.zeros(SHAPE)), lesions)
    assert (found.found.tolist(), found.false_positives.tolist()) == ([-math.inf], [0.0])


@pytest.mark.parametrize("sensitivity", [0.1, 0.5, 0.55, 0.9, 0.95, 1.0])
def test_false_positives_at_a_sensitivity_are_those_of_a_double_loop(sensitivity: float) -> None:
    random = np.random.default_rng(3)
    cases = []
    for _ in range(20):
        counts = random.integers(0, 4), random.integers(0, 6)
        cases.append(Detections(*(random.integers(0, 6, count).astype(float) for count in counts)))  # many ties
    lesions = [value for case in cases for value in case.found]
    allowed = []
    for threshold in sorted({*lesions, *(value for case in cases for value in case.false_positives)}):
        hits = sum(value >= threshold for value in lesions)
        if hits >= sensitivity * len(lesions) - 1e-9:
            allowed.append(sum(value >= threshold for case in cases for value in case.false_positives) / len(cases))
    assert false_positives_at_sensitivity(cases, sensitivity) == min(allowed)
    curve = froc(cases)
    reached = curve.sensitivity >= sensitivity - 1e-9
    assert curve.false_positives_per_case[reached][0] == min(allowed)


def test_a_lesion_without_a_candidate_makes_a_full_sensitivity_impossible() -> None:
    cases = [Detections(np.array([2.0, -math.inf]), np.array([1.0, 3.0])), Detections(np.array([]), np.array([]))]
    assert false_positives_at_sensitivity(cases, 0.5) == 0.5
    assert false_positives_at_sensitivity(cases, 1.0) == math.inf
    interval = interval_over_cases(
        cases, lambda drawn: false_positives_at_sensitivity(drawn, 1.0), positive=[True, False], resamples=20
    )
    assert (interval.low, interval.high) == (math.inf, math.inf)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Cases with one lesion each and Poisson false positives of known rate above the surest lesion."""
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        cases = [Detections(np.array([0.0]), np.full(random.poisson(2.0), 1.0)) for _ in range(40)]
        interval = interval_over_cases(
            cases,
            lambda drawn: false_positives_at_sensitivity(drawn, 1.0),
            positive=[True] * 40,
            resamples=200,
            seed=seed,
        )
        assert interval.low <= interval.estimate <= interval.high
        covered += interval.low <= 2.0 <= interval.high
    assert (
        50 <= covered <= 60
    )  # 95 % of 60 is 57, its standard deviation 1.7; a percentile interval covers a little less


def test_pairs_of_detections_give_the_interval_of_a_difference() -> None:
    cases = evaluated(cohort(5))
    flags = [len(case.found) > 0 for case in cases]

    def difference(pairs: Sequence[tuple[Detections, Detections]]) -> float:
        return lesion_average_precision([a for a, _ in pairs]) - lesion_average_precision([b for _, b in pairs])

    same = interval_over_cases(list(zip(cases, cases, strict=True)), difference, positive=flags, resamples=30)
    assert (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)
    worse = [Detections(case.found - 2.0, case.false_positives) for case in cases]
    better = interval_over_cases(list(zip(cases, worse, strict=True)), difference, positive=flags, resamples=100)
    assert 0.0 < better.low <= better.estimate <= better.high


def test_order_of_cases_does_not_count() -> None:
    cases = evaluated(cohort(6, cases=12))
    turned = cases[::-1]
    assert lesion_average_precision(cases) == lesion_average_precision(turned)
    np.testing.assert_array_equal(froc(cases).sensitivity, froc(turned).sensitivity)


def test_what_cannot_be_measured_is_refused() -> None:
    empty = Detections(np.array([]), np.array([1.0]))
    for measure in (froc, lesion_average_precision, lambda cases: false_positives_at_sensitivity(cases, 0.9)):
        for cases in ([], [empty]):
            with pytest.raises(ValueError, match=rf"must hold a lesion, got none in {len(cases)}"):
                measure(cases)
    one = Detections(np.array([1.0]), np.array([]))
    with pytest.raises(ValueError, match=r"tpr must be in \(0, 1\], got 0"):
        false_positives_at_sensitivity([one], 0)
    with pytest.raises(ValueError, match=r"map's shape, got \(2, 2, 2\)"):
        match_lesions(lesion_candidates(np.zeros(SHAPE)), np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match=r"least_overlap must be in \(0, 1\], got 0"):
        match_lesions(lesion_candidates(np.zeros(SHAPE)), np.zeros(SHAPE), least_overlap=0)
    with pytest.raises(ValueError, match="one flag per case"):
        interval_over_cases([one], lesion_average_precision, positive=[False])
    for wrong in ({"confidence": 1.0}, {"confidence": 0.0}, {"resamples": 0}):
        with pytest.raises(ValueError, match=rf"{next(iter(wrong))} must be (in \(0, 1\)|at least 1), got"):
            interval_over_cases([one], lesion_average_precision, positive=[True], **wrong)
    assert interval_over_cases([one], lesion_average_precision, positive=[True], resamples=1).estimate == 1.0
    with pytest.raises(ValueError, match="a value in every resample"):
        interval_over_cases([one], lambda _: math.nan, positive=[True], resamples=3)
