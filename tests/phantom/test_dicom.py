"""Files of three vendors: what was drawn is read back, pydicom and dciodvfy accept them, nobody is identified."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import Volume, load_study, load_volume
from prostate_alm.phantom.cohort import (
    PhantomStudy,
    StoredVolume,
    make_study,
    plan_study,
    write_study,
)
from prostate_alm.phantom.protocol import ADC_B_VALUES, B_VALUE_FORMS, Protocol

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


PROTOCOLS = [  # one or several diffusion series in turn: every vendor writes both
    Protocol(manufacturer, form, bool(number % 2), ADC_B_VALUES[number % 3], 0x10 + number % 4 // 2, bool(number % 2))
    for number, (form, manufacturer) in enumerate(
        (form, manufacturer) for form, manufacturers in B_VALUE_FORMS.items() for manufacturer in manufacturers
    )
]


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(5, seed=3)


def _written(study: PhantomStudy, protocol: Protocol, folder: Path) -> Path:
    return write_study(replace(study, plan=replace(study.plan, protocol=protocol)), folder / "study")


def _require_equal(read: Volume, stored: StoredVolume) -> None:
    """Require stored pixels and corner coordinates in the reader's convention: rows reversed, RAS."""
    np.testing.assert_array_equal(read.voxels, stored.pixels.transpose(2, 1, 0)[:, ::-1].astype(np.float32))
    slices, rows, columns = stored.grid.shape
    for i, j, k in ((0, 0, 0), (columns - 1, 0, 0), (0, rows - 1, 0), (columns - 1, rows - 1, slices - 1)):
        expected = LPS_TO_RAS @ (stored.grid.origin_mm + np.array([i, rows - 1 - j, k]) @ stored.grid.steps_mm)
        np.testing.assert_allclose((read.affine_ras_mm @ [i, j, k, 1])[:3], expected, atol=1e-4)


@pytest.mark.parametrize(
    "protocol", PROTOCOLS, ids=lambda one: f"{one.manufacturer[:2]}-{one.b_value_form}-{one.one_series}"
)
def test_every_vendors_form_is_read_back_voxel_by_voxel(
    protocol: Protocol, study: PhantomStudy, tmp_path: Path
) -> None:
    selection = explain_study(_written(study, protocol, tmp_path))
    assert selection.refused is None
    assert selection.t2 is not None
    assert selection.t2.description == "t2_tse_tra"
    _require_equal(load_volume(selection.t2), study.t2)
    found = {b_value: one.series for one in selection.dwi for b_value in one.b_values_s_per_mm2}
    assert sorted(found) == [100.0, 600.0, 1000.0]
    assert len({series.uid for series in found.values()}) == (1 if protocol.one_series else 3)
    for stored, b_value in zip(study.diffusion.traces, sorted(found), strict=True):
        _require_equal(load_volume(found[b_value], b_value_s_per_mm2=b_value), stored)


def test_the_whole_study_loads_on_the_t2_grid(study: PhantomStudy, tmp_path: Path) -> None:
    volumes = load_study(write_study(study, tmp_path / "study"))
    _require_equal(volumes.t2, study.t2)
    assert volumes.b_values_computed == (False, False, False)
    assert all(one.voxels.shape == volumes.t2.voxels.shape for one in volumes.dwi)


def test_files_are_what_pydicom_reads_and_identify_nobody(study: PhantomStudy, tmp_path: Path) -> None:
    datasets = [pydicom.dcmread(path) for path in sorted(write_study(study, tmp_path / "study").rglob("*.dcm"))]
    assert {str(one.PatientID) for one in datasets} == {"PHANTOM-0005"}
    assert {str(one.PatientName) for one in datasets} == {"PHANTOM^0005"}
    assert {one.StudyDate for one in datasets} == {"20000101"}
    assert len({one.FrameOfReferenceUID for one in datasets}) == len({one.StudyInstanceUID for one in datasets}) == 1
    uids = [one.SOPInstanceUID for one in datasets]
    assert len(set(uids)) == len(uids)
    for one in datasets:
        assert one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID
        assert one.SOPInstanceUID.startswith("2.25.")
        assert one.SOPInstanceUID.is_valid
        assert int(one.SOPInstanceUID.split(".")[2]) < 2**128
        assert (one.pixel_array.min(), one.pixel_array.max()) == (one[0x00280106].value, one[0x00280107].value)
        tags = [int(element.tag) for element in one]
        assert tags == sorted(tags)


def test_localizer_holds_three_orientations_and_axial_t2_is_oblique(study: PhantomStudy, tmp_path: Path) -> None:
    folder = write_study(study, tmp_path / "study")
    localizer = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.glob("01-*/*.dcm")]
    assert len({tuple(one.ImageOrientationPatient) for one in localizer}) == 3
    for seed in range(20):
        axes = plan_study(1, seed=seed).image_axes
        assert 6.0 <= np.degrees(np.arccos(axes[2, 2])) <= 23.0


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
@pytest.mark.parametrize("form", ["standard", "siemens bytes", "ge biased", "philips"])
def test_dciodvfy_finds_no_error(form: str, study: PhantomStudy, tmp_path: Path) -> None:
    folder = _written(study, Protocol(B_VALUE_FORMS[form][0], form, True), tmp_path)
    for series in sorted(folder.iterdir()):
        verdict = subprocess.run(["dciodvfy", str(series / "0001.dcm")], capture_output=True, text=True, check=False)
        assert "Error" not in verdict.stderr + verdict.stdout


def test_protocol_refuses_a_form_that_the_vendor_does_not_write() -> None:
    with pytest.raises(ValueError, match="b_value_form must be one that SIEMENS writes"):
        Protocol("SIEMENS", "ge", True)
    with pytest.raises(ValueError, match="adc_b_value must be one of"):
        Protocol("SIEMENS", "siemens", True, "middle")


def test_other_b_values_are_written_and_read(tmp_path: Path) -> None:
    study = make_study(2, b_values_s_per_mm2=(50.0, 400.0, 800.0))
    selection = explain_study(write_study(study, tmp_path / "study"))
    assert sorted(b for one in selection.dwi for b in one.b_values_s_per_mm2) == [50.0, 400.0, 800.0]
