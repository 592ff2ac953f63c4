"""A study's volumes: those of the reader, converted again where they no longer fit, whole or not at all."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prostate_alm.data import convert
from prostate_alm.data.manifest import read_manifest
from prostate_alm.imaging.volume import load_study


def test_volumes_are_those_of_the_reader_to_quantisation(dicom_cohort: Path, cohort: Path) -> None:
    for study in read_manifest(cohort).studies[:2]:
        expected = load_study(dicom_cohort / study.id)
        t2, dwi = nib.load(cohort.parent / study.t2.path), nib.load(cohort.parent / study.dwi.path)
        wanted = np.stack([volume.voxels for volume in expected.dwi], axis=-1)
        for image, voxels in ((t2, expected.t2.voxels), (dwi, wanted)):
            # rounding to the nearest of 65 536 levels, and float32 in the header
            step = np.ptp(voxels) / 65535
            np.testing.assert_allclose(image.get_fdata(), voxels, atol=0.51 * step, rtol=1e-6)
            np.testing.assert_allclose(image.affine, expected.t2.affine_ras_mm, atol=1e-4)
        assert dwi.shape == (*t2.shape, 3)
        assert np.array_equal(dwi.affine, t2.affine)
        assert (int(t2.header["sform_code"]), int(t2.header["qform_code"])) == (1, 1)  # scanner coordinates
        np.testing.assert_allclose(t2.get_qform(), t2.get_sform(), atol=1e-3)
        assert study.b_values_acquired_s_per_mm2 == (100, 600, 1000)
        assert study.b_values_computed == (False, False, False)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("harm", ["volume gone", "volume changed", "sidecar of another version", "source changed"])
def test_what_no_longer_fits_is_converted_again(dicom_cohort: Path, cohort: Path, tmp_path: Path, harm: str) -> None:
    study, output = tmp_path / "PHANTOM-0001", tmp_path / "c" / "PHANTOM-0001"
    shutil.copytree(dicom_cohort / study.name, study)
    shutil.copytree(cohort.with_suffix("") / study.name, output)
    (output / "mask.nii.gz").write_text("drawn by hand")
    expected = snapshot(output)
    if harm == "volume gone":
        (output / "t2.nii.gz").unlink()
    elif harm == "volume changed":
        (output / "dwi.nii.gz").write_bytes(b"")
    elif harm == "sidecar of another version":
        (output / "study.json").write_text(
            (output / "study.json").read_text().replace("prostate-alm ", "prostate-alm 0.")
        )
    else:
        (study / "note.txt").write_text("a file more")
    before = (output / "t2.nii.gz").stat().st_ino if harm != "volume gone" else None
    convert.convert_study(study, output, b_values_s_per_mm2=(100.0, 600.0, 1000.0))
    after = snapshot(output)
    assert (output / "t2.nii.gz").stat().st_ino != before
    sidecar = json.loads(after.pop("study.json"))
    assert after == {name: data for name, data in expected.items() if name != "study.json"}
    assert sidecar["sha256"] == json.loads(expected["study.json"])["sha256"]
    assert list(output.parent.iterdir()) == [output]


def test_an_interrupted_conversion_leaves_nothing_under_the_name_of_the_study(
    dicom_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "PHANTOM-0001"
    with monkeypatch.context() as patch:
        patch.setattr(convert, "_move", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert.convert_study(dicom_cohort / "PHANTOM-0001", output, b_values_s_per_mm2=(100.0,))
    assert not output.exists()
    convert.convert_study(dicom_cohort / "PHANTOM-0001", output, b_values_s_per_mm2=(100.0,))
    assert sorted(path.name for path in output.iterdir()) == ["dwi.nii.gz", "study.json", "t2.nii.gz"]
