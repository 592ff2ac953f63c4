"""From a drawn mask to numbered lesions on the grid of T2."""

import numpy as np
import pytest

from prostate_alm.data.masks import in_order, lesions_on, numbered
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.volume import Volume


def flood(mask: np.ndarray) -> np.ndarray:
    """Return the parts of a mask, numbered in the order (k, j, i); neighbours in a triple loop."""
    found = np.zeros(mask.shape, int)
    for k, j, i in np.ndindex(mask.shape[::-1]):
        if not mask[i, j, k] or found[i, j, k]:
            continue
        number, pending = found.max() + 1, [(i, j, k)]
        found[i, j, k] = number
        while pending:
            place = pending.pop()
            for step in np.ndindex(3, 3, 3):
                near = tuple(np.add(place, step) - 1)
                if min(near) >= 0 and np.less(near, mask.shape).all() and mask[near] and not found[near]:
                    found[near] = number
                    pending.append(near)
    return found


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.4, 1.0])
def test_parts_of_a_binary_map_are_those_of_a_flood_fill(share: float) -> None:
    for seed in range(5):
        mask = (np.random.default_rng(seed).uniform(size=(7, 6, 5)) < share).astype(np.uint8)
        found = numbered(mask)
        np.testing.assert_array_equal(found, flood(mask))
        np.testing.assert_array_equal(numbered(found), found)
        np.testing.assert_array_equal(numbered(mask[:, :, :2]), flood(mask[:, :, :2]))


def test_a_map_with_numbers_keeps_them() -> None:
    labels = np.array([[[5, 0, 5, 2]]], np.uint8)
    np.testing.assert_array_equal(numbered(labels), labels)
    np.testing.assert_array_equal(in_order(labels), [[[1, 0, 1, 2]]])


def test_more_lesions_than_a_byte_holds_are_refused() -> None:
    mask = np.zeros((24, 24, 4), np.uint8)
    mask[::2, ::2, ::2] = 1  # 12 x 12 x 2 voxels that do not touch
    with pytest.raises(StudyRefused, match="at most 255 lesions, got 288"):
        numbered(mask)


def grid(*, shape: tuple[int, int, int], spacing_mm: float, start_mm: float = 0.0) -> Volume:
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = start_mm
    return Volume(np.zeros(shape, np.float32), affine)


def test_a_lesion_that_t2_does_not_show_is_refused() -> None:
    t2 = grid(shape=(8, 8, 8), spacing_mm=2.0)
    wide = grid(shape=(12, 12, 12), spacing_mm=2.0, start_mm=-4.0)  # two voxels more on each side
    wide.voxels[3, 3, 3] = 1
    wide.voxels[1:4, 6, 6] = 1
    with pytest.raises(StudyRefused, match=r"T2 must show each lesion, got 1 voxels outside of lesion 2 in adc\.mha"):
        lesions_on(t2, wide, name="adc.mha")
    fine = grid(shape=(80, 80, 80), spacing_mm=0.2)
    fine.voxels[5, 5, 5] = 1  # between the centres of the voxels of T2
    with pytest.raises(StudyRefused, match="got one too small for a voxel of T2 of lesion 1"):
        lesions_on(t2, fine, name="fine.mha")


def test_a_lesion_whose_outermost_voxel_lies_on_the_face_of_t2_is_within() -> None:
    coarse = grid(shape=(4, 4, 4), spacing_mm=4.0, start_mm=-1.0)  # the first centre is half a voxel of T2 before it
    coarse.voxels[0, 1, 1] = 1
    found = lesions_on(grid(shape=(8, 8, 8), spacing_mm=2.0), coarse, name="adc.mha")
    assert np.argwhere(found).tolist() == [[0, j, k] for j in (1, 2) for k in (1, 2)]
