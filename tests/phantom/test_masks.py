"""The phantom's masks against what is painted, the volume of an ellipsoid, and the T2 that is read from its files."""

import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from prostate_alm.cli import main
from prostate_alm.phantom.anatomy import Anatomy
from prostate_alm.phantom.masks import render_masks
from prostate_alm.phantom.render import TISSUES, block_mean, finer, render
from prostate_alm.phantom.study import StudyPlan, plan_study, t2_grid

POSITIVES = [index for index in range(1, 31) if plan_study(index).label]


def painted(plan: StudyPlan) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of gland and lesion from paintings with and without the lesion, opaque in its place."""
    anatomy = plan.anatomy
    opaque = tuple(replace(one, opacity=1.0) if one.tissue == "lesion" else one for one in anatomy.structures)
    without = tuple(one for one in anatomy.structures if one.tissue != "lesion")
    grid = finer(plan.in_gland(t2_grid(plan)), (2, 2, 2))
    after, before = (
        render(Anatomy(structures, anatomy.gland, None, anatomy.texture_seed), grid, properties=("adc_um2_per_ms",))
        for structures in (opaque, without)
    )
    ground, on_top = before["adc_um2_per_ms"], after["adc_um2_per_ms"]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(ground > on_top, (ground - on_top) / (ground - TISSUES["lesion"].adc_um2_per_ms), 0.0)
    return block_mean(after["gland_share"], (2, 2, 2)), block_mean(share.astype(np.float32), (2, 2, 2))


@pytest.mark.parametrize("index", POSITIVES[:3])
def test_a_voxel_is_of_the_mask_where_the_paint_covers_half_of_it(index: int) -> None:
    plan = plan_study(index)
    masks = render_masks(plan)
    for mask, share in zip((masks.gland, masks.lesions), painted(plan), strict=True):
        clear = np.abs(share - 0.5) > 1e-3
        np.testing.assert_array_equal(mask[clear] == 1, share[clear] > 0.5)
        assert clear.mean() > 0.999


def test_a_lesion_lies_at_its_place_and_has_about_the_volume_of_its_radius() -> None:
    shares = []
    for index in POSITIVES:
        plan = plan_study(index)
        masks = render_masks(plan)
        lesion = plan.anatomy.lesion
        assert ndimage.label(masks.lesions, structure=np.ones((3, 3, 3)))[1] == 1
        k, j, i = ndimage.center_of_mass(masks.lesions)
        middle_mm = masks.grid.origin_mm + np.array([i, j, k]) @ masks.grid.steps_mm
        assert np.linalg.norm(middle_mm - plan.lesion_centre_mm) < 0.6 * lesion.radius_mm  # clipped by the gland
        volume_mm3 = masks.lesions.sum() * math.prod(masks.grid.spacing_mm)
        shares.append(volume_mm3 / (4 / 3 * math.pi * lesion.radius_mm**3))
    assert 0.6 < np.mean(shares) < 1.0
    assert min(shares) > 0.3


def test_only_lesions_that_make_the_label_are_lesions() -> None:
    plans = [plan_study(index, lesions="graded") for index in range(1, 21)]
    negatives = [plan for plan in plans if not plan.label and plan.anatomy.lesion is not None]
    assert negatives
    assert not any(render_masks(plan).lesions.any() for plan in negatives)
    positive = next(plan for plan in plans if plan.label)
    nothing_there = replace(positive, anatomy=replace(positive.anatomy, lesion=None))
    assert render_masks(nothing_there).lesions is None


def test_the_command_writes_them_on_the_t2_of_the_study(tmp_path: Path) -> None:
    arguments = ["--output", str(tmp_path / "made"), "--studies", "2", "--masks", str(tmp_path / "masks")]
    assert main(["phantom", "make", *arguments]) == 0
    plan = plan_study(2)
    for name, mask in (("gland", render_masks(plan).gland), ("lesions", render_masks(plan).lesions)):
        image = nib.load(tmp_path / "masks" / "PHANTOM-0002" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), mask.transpose(2, 1, 0))
        corner = t2_grid(plan).origin_mm + np.array([3, 4, 5]) @ t2_grid(plan).steps_mm
        np.testing.assert_allclose((image.affine @ [3, 4, 5, 1])[:3] * [-1, -1, 1], corner, atol=1e-4)
