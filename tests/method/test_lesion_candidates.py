"""Candidates of lesions: against their definition on a sorted list of voxels, under shifts, turns and noise."""

import numpy as np
import pytest
from scipy import ndimage

from prostate_alm.method.lesion_candidates import Candidates, lesion_candidates

SHAPE = (9, 8, 7)


def bumps(seed: int, shape: tuple[int, int, int] = SHAPE, smooth: float = 1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(shape)
    return 4.0 * ndimage.gaussian_filter(noise, smooth) / ndimage.gaussian_filter(noise, smooth).std()


def flooded(logits: np.ndarray, ratio: float) -> list[tuple[float, frozenset[tuple[int, ...]]]]:
    """Return confidence and voxels of every voxel that satisfies the definition, by a flood fill from each."""
    found, probability = [], 1 / (1 + np.exp(-logits))
    for peak in np.ndindex(logits.shape):
        seed = np.zeros(logits.shape, bool)
        seed[peak] = True
        part = ndimage.binary_propagation(seed, np.ones((3, 3, 3)), probability >= probability[peak] / ratio)
        if logits[part].max() <= logits[peak]:
            found.append((float(logits[peak]), frozenset(map(tuple, np.argwhere(part).tolist()))))
    return found


def parts_of(candidates: Candidates) -> list[tuple[float, frozenset[tuple[int, ...]]]]:
    return [
        (float(confidence), frozenset(map(tuple, np.argwhere(candidates.numbers == number).tolist())))
        for number, confidence in enumerate(candidates.confidences, start=1)
    ]


@pytest.mark.parametrize("ratio", [1.1, 2.0, 8.0])
def test_candidates_are_all_voxels_that_satisfy_the_definition(ratio: float) -> None:
    several = 0
    for seed in range(4):
        logits = bumps(seed, (10, 8, 6), smooth=0.7) - 2.0
        wanted = flooded(logits, ratio)
        found = lesion_candidates(logits, peak_over_edge=ratio, most=1000)
        assert sorted(parts_of(found), key=lambda one: -one[0]) == sorted(wanted, key=lambda one: -one[0])
        several += len(wanted)
    assert several > 4  # one a map is its highest voxel, whatever the rule


def test_parts_that_are_large_and_reach_the_border_are_whole() -> None:
    """A ridge through the whole map is one candidate: the window in which it is sought has to grow."""
    logits = np.full((40, 30, 20), -3.0)
    logits[:, 15, 10] = 1.0
    logits[39, 15, 10] = 1.4
    found = lesion_candidates(logits)
    assert found.peaks.tolist() == [[39, 15, 10]]
    assert np.count_nonzero(found.numbers) == 40
    np.testing.assert_array_equal(found.numbers > 0, logits > 0)


def test_a_factor_common_to_low_probabilities_moves_the_confidences_alone() -> None:
    logits = np.round(bumps(1, smooth=0.7), 2) - 40.0
    one, other = lesion_candidates(logits), lesion_candidates(logits - 8.0)
    assert len(one.confidences) > 2
    np.testing.assert_array_equal(one.numbers, other.numbers)
    np.testing.assert_allclose(one.confidences - 8.0, other.confidences)


def test_a_sure_peak_reaches_as_far_as_half_its_probability() -> None:
    ramp = np.linspace(6.0, -6.0, 25).reshape(25, 1, 1)  # half of 0.9975 is a logit of -0.005
    assert np.count_nonzero(lesion_candidates(ramp).numbers) == 13
    assert np.count_nonzero(lesion_candidates(ramp - 20.0).numbers) == 2  # ln 2 below the peak


def test_a_turned_map_has_turned_candidates() -> None:
    for seed in range(5):
        logits = bumps(seed)
        found = lesion_candidates(logits, least_voxels=2)
        for turn in (lambda a: a[::-1, :, ::-1], lambda a: a.transpose(2, 0, 1), lambda a: np.rot90(a, axes=(0, 1))):
            np.testing.assert_array_equal(lesion_candidates(turn(logits), least_voxels=2).numbers, turn(found.numbers))


def test_candidates_never_touch_and_fall_in_confidence() -> None:
    for seed in range(5):
        logits = bumps(seed, (20, 20, 10))
        found = lesion_candidates(logits, peak_over_edge=1.1, most=500)
        assert len(found.confidences) > 3
        assert (np.diff(found.confidences) <= 0).all()
        _, parts = ndimage.label(found.numbers > 0, structure=np.ones((3, 3, 3)))
        assert parts == len(found.confidences)
        np.testing.assert_array_equal(found.numbers[tuple(found.peaks.T)], np.arange(1, parts + 1))
        np.testing.assert_array_equal(logits[tuple(found.peaks.T)], found.confidences)


def test_small_low_and_many_candidates_are_left_out() -> None:
    logits = np.full((30, 5, 5), -4.0)
    logits[2, 2, 2], logits[8:10, 1:4, 1:4], logits[15:19, 1:4, 1:4], logits[25:28] = 3.0, 2.0, 1.0, -2.0
    assert lesion_candidates(logits).confidences.tolist() == [3.0, 2.0, 1.0, -2.0]
    assert lesion_candidates(logits, least_voxels=2).confidences.tolist() == [2.0, 1.0, -2.0]
    assert lesion_candidates(logits, floor_logit=0.0).confidences.tolist() == [3.0, 2.0, 1.0]
    assert lesion_candidates(logits, least_voxels=19).confidences.tolist() == [1.0, -2.0]
    assert lesion_candidates(logits, most=1).confidences.tolist() == [3.0]


def test_where_nobody_looks_there_is_no_candidate() -> None:
    logits = bumps(3)
    logits[:4] = -np.inf
    assert not lesion_candidates(logits).numbers[:4].any()
    nothing = lesion_candidates(np.full(SHAPE, -np.inf))
    assert (nothing.confidences.shape, nothing.peaks.shape) == ((0,), (0, 3))


def test_a_flat_map_is_one_candidate() -> None:
    """A network that says the same everywhere has not found anything: one part of all voxels, whose IoU is small."""
    found = lesion_candidates(np.zeros(SHAPE))
    assert found.confidences.tolist() == [0.0]
    assert (found.numbers == 1).all()


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (np.zeros((3, 3)), {}, r"three axes.*got the shape \(3, 3\)"),
        (np.full(SHAPE, np.nan), {}, "with 504 others"),
        (np.full(SHAPE, np.inf), {}, "with 504 others"),
        (np.zeros(SHAPE), {"peak_over_edge": 1.0}, "must be above 1"),
        (np.zeros(SHAPE), {"least_voxels": 0}, "at least 1, got"),
        (np.zeros(SHAPE), {"most": 0}, "at least 1, got"),
    ],
)
def test_what_is_no_map_is_refused(logits: np.ndarray, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lesion_candidates(logits, **options)
