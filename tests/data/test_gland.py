"""The place of a gland is that of the ellipsoid that was drawn, whatever the axes of the image; doubt has a code."""

import numpy as np
import pytest

from prostate_alm.data.gland import (
    AT_BORDER,
    NOT_FOUND,
    TWO,
    GlandLocation,
    coarse_image,
    crop_slice,
    locate_gland,
    on_coarse_grid,
    place_of,
)
from prostate_alm.imaging.geometry import LPS_TO_RAS
from prostate_alm.imaging.volume import Volume

RADII_MM = np.array([22.0, 18.0, 20.0])
SHAPE, SPACING_MM = (150, 140, 26), (0.9, 1.1, 3.0)
GRID = {"spacing_mm": 4.0, "size": (48, 48, 24)}


def affine_ras_mm(seed: int) -> np.ndarray:
    """Return a slightly oblique affine, its axes in any order and direction."""
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(np.eye(3) + random.normal(0, 0.1, (3, 3)))[0]
    affine = np.eye(4)
    affine[:3, :3] = rotation[:, random.permutation(3)] * random.choice([-1, 1], 3) * SPACING_MM
    affine[:3, 3] = random.normal(0, 50, 3)
    return affine


def ellipsoid(affine: np.ndarray, *, off_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[Volume, np.ndarray]:
    """Return a mask, and its centre in the patient's frame: so far along the axes from the image's middle."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    centre = (affine @ np.append((np.array(SHAPE) - 1) / 2, 1))[:3] + axes @ off_mm
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    places = index @ affine[:3, :3].T + affine[:3, 3]
    inside = (((places - centre) / RADII_MM) ** 2).sum(axis=-1) <= 1
    return Volume(inside.astype(np.float32), affine), (LPS_TO_RAS[:3, :3] @ centre)


@pytest.mark.parametrize("seed", range(4))
def test_the_place_is_that_of_the_ellipsoid_on_its_own_grid_and_on_the_coarse_one(seed: int) -> None:
    affine = affine_ras_mm(seed)
    mask, centre_mm = ellipsoid(affine, off_mm=(15.0, -10.0, 4.0))
    coarse = locate_gland(on_coarse_grid(mask, mask, **GRID), seen=coarse_image(mask, **GRID).seen)
    for found in (place_of(mask.voxels > 0, affine), coarse):
        assert isinstance(found, GlandLocation)
        np.testing.assert_allclose(found.centre_mm, centre_mm, atol=0.5)
        np.testing.assert_allclose(found.high_mm, centre_mm + RADII_MM, atol=4)
        np.testing.assert_allclose(found.low_mm, centre_mm - RADII_MM, atol=4)
        assert found.volume_ml == pytest.approx(4 / 3 * np.pi * RADII_MM.prod() / 1000, rel=0.05)


def test_the_coarse_image_shows_what_lies_to_the_left_of_the_patient_at_high_x() -> None:
    affine = affine_ras_mm(5)
    mask, _ = ellipsoid(affine)
    left = np.linalg.inv(affine[:3, :3]) @ [-20.0, 0.0, 0.0]  # of RAS
    axis = int(np.abs(left).argmax())
    voxels = np.zeros(SHAPE, np.float32)
    half = SHAPE[axis] // 2
    part: list[slice] = [slice(None)] * 3
    part[axis] = slice(half, None) if left[axis] > 0 else slice(0, half)
    voxels[tuple(part)] = 1
    coarse = on_coarse_grid(Volume(voxels, affine), mask, **GRID).voxels
    assert coarse[28:].sum() > 100 * coarse[:20].sum()


def test_none_two_and_a_cut_one_have_their_codes() -> None:
    affine = np.diag([-4.0, -4.0, 4.0, 1.0])
    nothing, small, two, cut = (np.zeros((40, 40, 20), np.float32) for _ in range(4))
    small[5:8, 5:8, 5:8] = 1
    two[5:15, 5:15, 5:15], two[20:30, 20:30, 5:15] = 1, 0.6
    cut[:8, 10:20, 5:15] = 1
    refused = [locate_gland(Volume(one, affine)) for one in (nothing, small, two, cut)]
    assert [one.code for one in refused] == [NOT_FOUND, NOT_FOUND, TWO, AT_BORDER]
    two[20:30] *= 0.5  # now less probable than not: the other remains
    assert isinstance(locate_gland(Volume(two, affine)), GlandLocation)


def test_a_gland_that_t2_cuts_is_told_though_the_coarse_grid_is_larger() -> None:
    mask, _ = ellipsoid(affine_ras_mm(1), off_mm=(60.0, 0.0, 0.0))
    found = locate_gland(on_coarse_grid(mask, mask, **GRID), seen=coarse_image(mask, **GRID).seen)
    assert found.code == AT_BORDER


@pytest.mark.parametrize(("samples", "size"), [(40, 10), (41, 10), (40, 11), (10, 10)])
def test_a_crop_lies_within_and_its_middle_as_near_as_can_be(samples: int, size: int) -> None:
    for at in np.linspace(-3, samples + 3, 97):
        starts = np.arange(samples - size + 1)
        best = np.abs(starts + (size - 1) / 2 - at).min()
        start = crop_slice(samples, size, at).start
        assert 0 <= start <= samples - size
        assert abs(start + (size - 1) / 2 - at) <= best + 0.01
