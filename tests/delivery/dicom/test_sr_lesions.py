"""Outlines of candidates hold the area of their mask."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from prostate_alm.delivery.dicom.sr_lesions import outlines, signed_area


def test_outlines_hold_the_area_of_the_mask() -> None:
    random = np.random.default_rng(0)
    for share in (0.3, 0.5, 0.7):
        mask = random.random((12, 9)) < share
        rings = outlines(mask)
        assert sum(signed_area(ring) for ring in rings) == pytest.approx(area_of_parts(mask))
        assert all((ring[0] == ring[-1]).all() for ring in rings)
    assert outlines(np.zeros((3, 3), bool)) == []


def area_of_parts(mask: NDArray[np.bool_]) -> float:
    """Return the voxels of all 4-connected parts, each with its holes filled, as scipy finds them."""
    parts, count = ndimage.label(mask)
    filled = (ndimage.binary_fill_holes(parts == n, structure=np.ones((3, 3))) for n in range(1, count + 1))
    return float(sum(one.sum() for one in filled))
