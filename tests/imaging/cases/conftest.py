"""What the golden table is compared with."""

from typing import Any

import numpy as np
import pytest
from golden_studies import voxels_of

from prostate_alm.imaging.study import explain_study


@pytest.fixture(scope="session")
def plain_voxels(build: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[np.ndarray]]:
    """Return the voxels of the plain study of 6 or 12 slices."""
    voxels = {}
    for slices in (6, 12):
        folder = build.save(tmp_path_factory.mktemp("plain"), build.study(slices=slices))
        voxels[slices] = voxels_of(explain_study(folder))
    return voxels
