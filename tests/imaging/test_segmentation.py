"""The masks of a DICOM Segmentation object, as highdicom finds them and as the phantom drew them."""

from pathlib import Path

import highdicom
import numpy as np
import pytest

from prostate_alm.imaging.segmentation import read_segmentation
from prostate_alm.phantom.masks import render_masks
from prostate_alm.phantom.segmentation import write_segmentation
from prostate_alm.phantom.study import plan_study


@pytest.mark.parametrize("index", [1, 2])  # without and with a lesion
def test_masks_are_found_again(dicom_cohort: Path, tmp_path: Path, index: int) -> None:
    plan = plan_study(index)
    study = dicom_cohort / plan.identifier
    path = write_segmentation(plan, study, tmp_path / "seg" / "one.dcm")
    masks = render_masks(plan)
    found = read_segmentation(path)
    theirs = highdicom.seg.segread(path).get_volume(combine_segments=False, rescale_fractional=False)
    for number, (kind, wanted) in enumerate((("gland", masks.gland), ("lesions", masks.lesions))):
        volume = found.volume(kind)
        assert int(volume.voxels.sum()) == int(wanted.sum()) == int(theirs.array[..., number].sum())
        places = (volume.affine_ras_mm @ np.vstack([np.argwhere(volume.voxels).T, np.ones(int(wanted.sum()))]))[:3]
        grid = masks.grid
        in_mm = grid.origin_mm + np.argwhere(wanted)[:, ::-1] @ grid.steps_mm
        order = [np.lexsort(np.round(one, 3).T) for one in (places.T * [-1, -1, 1], in_mm)]
        np.testing.assert_allclose((places.T * [-1, -1, 1])[order[0]], in_mm[order[1]], atol=1e-3)
    again = write_segmentation(plan, study, tmp_path / "again.dcm")
    assert again.read_bytes() == path.read_bytes()
