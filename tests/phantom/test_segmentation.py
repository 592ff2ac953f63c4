"""The phantom's Segmentation object: highdicom and our reader find the masks in it, and the study still reads."""

import shutil
import subprocess
from pathlib import Path

import pytest

from prostate_alm.imaging.segmentation import segmentation_files
from prostate_alm.phantom.segmentation import write_segmentation
from prostate_alm.phantom.study import plan_study


def test_another_study_is_refused(dicom_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="study_dir must be that of PHANTOM-0001, got another or none"):
        write_segmentation(plan_study(1), dicom_cohort / "PHANTOM-0002", tmp_path / "one.dcm")


def test_dciodvfy_finds_no_error(dicom_cohort: Path, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy (dicom3tools) is not installed")
    path = write_segmentation(plan_study(2), dicom_cohort / "PHANTOM-0002", tmp_path / "one.dcm")
    said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
    assert list(segmentation_files(tmp_path)) == [path]
