"""Slices form one even stack on one grid, or no volume."""

from pathlib import Path

import pytest

from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.folder import read_series
from prostate_alm.imaging.volume import load_volume


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("ImagePositionPatient", None, "no_geometry"),
        ("PixelSpacing", None, "no_geometry"),
        ("PixelSpacing", [0.5, 0.75], "mixed_geometry"),
        ("ImageOrientationPatient", [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "mixed_geometry"),
    ],
)
def test_a_stack_is_one_grid_or_no_volume(build, tmp_path: Path, keyword: str, value: object, code: str) -> None:
    images = build.series(2)
    setattr(images[2], keyword, value)
    (series,) = read_series(build.save(tmp_path, images))
    with pytest.raises(StudyRefused, match=f"^{code}: images .*, got .* Send the whole study again") as refusal:
        load_volume(series)
    assert refusal.value.code == code


def test_one_slice_is_no_volume(build, tmp_path: Path) -> None:
    (series,) = read_series(build.save(tmp_path, build.series(2, slices=1)))
    with pytest.raises(StudyRefused, match=r"^missing_slice: a stack must have two slices or more, got 1 in "):
        load_volume(series)
