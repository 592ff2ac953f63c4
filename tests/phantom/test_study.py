"""The cohort: bytes that depend on seed and index alone, files that pydicom, dciodvfy and our reader accept."""

import csv
import importlib.util
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from sklearn.metrics import roc_auc_score

from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import Volume, load_study, load_volume
from prostate_alm.phantom.cohort import (
    PhantomStudy,
    StoredVolume,
    make_cohort,
    make_study,
    observer_auc,
    plan_study,
    render_study,
    write_study,
)
from prostate_alm.phantom.protocol import ADC_B_VALUES, B_VALUE_FORMS, Protocol
from prostate_alm.phantom.reader import equivocal_probability
from prostate_alm.phantom.render import TISSUES
from prostate_alm.phantom.study import render_diffusion

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "phantom_observer.py"
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


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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


def test_gland_lies_near_the_middle_of_the_t2_image() -> None:
    for index in range(1, 40):
        plan = plan_study(index)
        assert np.linalg.norm(plan.t2_centre_mm - plan.centre_mm) < 20.0


def test_neither_field_of_view_contains_the_other(study: PhantomStudy) -> None:
    t2, diffusion = (
        volume.pixels.shape * np.array(volume.grid.spacing_mm)[::-1] for volume in (study.t2, study.diffusion.adc)
    )
    assert diffusion[2] > t2[2]
    assert diffusion[1] < t2[1]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
@pytest.mark.parametrize("form", ["standard", "siemens bytes", "ge biased", "philips"])
def test_dciodvfy_finds_no_error(form: str, study: PhantomStudy, tmp_path: Path) -> None:
    folder = _written(study, Protocol(B_VALUE_FORMS[form][0], form, True), tmp_path)
    for series in sorted(folder.iterdir()):
        verdict = subprocess.run(["dciodvfy", str(series / "0001.dcm")], capture_output=True, text=True, check=False)
        assert "Error" not in verdict.stderr + verdict.stdout


def test_same_seed_gives_the_same_bytes_however_many_studies_are_asked_for(tmp_path: Path) -> None:
    few = _content(make_cohort(tmp_path / "few", studies=1, seed=7))
    many = _content(make_cohort(tmp_path / "many", studies=2, seed=7))
    assert {name: data for name, data in many.items() if name.startswith("PHANTOM-0001")} == {
        name: data for name, data in few.items() if name.startswith("PHANTOM")
    }
    other = _content(write_study(make_study(1, seed=8), tmp_path / "other"))
    assert set(other.values()).isdisjoint(few.values())


def test_rendering_a_plan_twice_gives_the_same_pixels(study: PhantomStudy) -> None:
    again = render_study(study.plan)
    np.testing.assert_array_equal(again.t2.pixels, study.t2.pixels)
    np.testing.assert_array_equal(again.diffusion.adc.pixels, study.diffusion.adc.pixels)


def test_interrupted_cohort_is_completed_and_complete_studies_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "cohort"

    def interrupt(done: int, _: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_cohort(folder, studies=2, progress=interrupt)
    assert not (folder / "labels.csv").exists()
    (folder / ".PHANTOM-0002.partial").mkdir()
    (folder / ".PHANTOM-0002.partial" / "half.dcm").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.dcm") if "partial" not in str(path)}
    calls: list[tuple[int, int]] = []
    make_cohort(folder, studies=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]
    assert before
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert not list(folder.glob(".*"))
    fresh = make_cohort(tmp_path / "fresh", studies=2)
    assert _content(fresh) == _content(folder)


def test_tables_agree_with_the_plans_and_labels_hold_no_truth(tmp_path: Path) -> None:
    folder = make_cohort(tmp_path / "cohort", studies=2, seed=1)
    labels, truths = (_rows(folder / name) for name in ("labels.csv", "truth.csv"))
    plans = [plan_study(index, seed=1) for index in (1, 2)]
    assert labels == [{"id": plan.identifier, "label": str(plan.label)} for plan in plans]
    findings = _rows(folder / "findings.csv")
    assert [{key: row[key] for key in ("id", "label")} for row in findings] == labels
    for row, truth in zip(findings, truths, strict=True):
        place = np.searchsorted((0.30, 0.84), float(truth["perceived"]))  # below the reader's band, within, above
        assert row["finding"] == ("none", "equivocal", "unmistakable")[place]
    for truth, plan in zip(truths, plans, strict=True):
        assert float(truth["conspicuity"]) == pytest.approx(plan.verdict.conspicuity, abs=1e-4)
        assert (truth["zone"] == "") == (plan.anatomy.lesion is None)


def test_the_lesion_is_where_the_table_says(tmp_path: Path) -> None:
    (row,) = _rows(make_cohort(tmp_path / "cohort", studies=1) / "truth.csv")
    diffusion = render_diffusion(plan_study(1))
    grid, adc_um2_per_ms = diffusion.adc.grid, diffusion.maps["adc_um2_per_ms"]  # without noise
    point_mm = np.array([float(row[name]) for name in ("x_mm", "y_mm", "z_mm")])  # LPS
    i, j, k = np.round(np.linalg.solve(grid.steps_mm.T, point_mm - grid.origin_mm)).astype(int)
    healthy = np.median(adc_um2_per_ms[diffusion.maps["gland_share"] > 0.9])
    share = float(row["contrast"])  # of the way from healthy tissue to frank cancer
    assert adc_um2_per_ms[k, j, i] < healthy - 0.5 * share * (healthy - TISSUES["lesion"].adc_um2_per_ms)


def test_folder_of_another_cohort_or_of_other_files_is_refused(study: PhantomStudy, tmp_path: Path) -> None:
    folder = make_cohort(tmp_path / "cohort", studies=1)
    with pytest.raises(ValueError, match="must be new or hold a cohort of the same parameters"):
        make_cohort(folder, studies=1, seed=1)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("meow")
    with pytest.raises(ValueError, match="It holds other files"):
        make_cohort(tmp_path / "photos", studies=1)
    with pytest.raises(ValueError, match="directory must be absent or empty"):
        write_study(study, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"studies": 0}, "studies must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"difficulty": 1.5}, r"difficulty must be within \[0, 1\]"),
        ({"difficulty": 3.5, "reader_difficulty": 0.3}, r"difficulty must be within \[0, 3\]"),
        ({"difficulty": 0.3, "reader_difficulty": 1.5}, r"difficulty must be within \[0, 1\]"),
        ({"lesions": "sharp"}, "lesions must be one of separate, graded, got 'sharp'"),
        ({"positive_share": 1.0}, "positive_share must be strictly between"),
        ({"b_values_s_per_mm2": (100.0,)}, "b_values_s_per_mm2 must be at least two"),
        ({"b_values_s_per_mm2": (600.0, 100.0)}, "rising"),
        ({"b_values_s_per_mm2": (-1.0, 100.0)}, "within"),
    ],
)
def test_parameters_are_refused_before_anything_is_written(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        make_cohort(tmp_path / "cohort", **change)  # type: ignore[arg-type]  # wrong on purpose
    assert not (tmp_path / "cohort").exists()


def test_protocol_refuses_a_form_that_the_vendor_does_not_write() -> None:
    with pytest.raises(ValueError, match="b_value_form must be one that SIEMENS writes"):
        Protocol("SIEMENS", "ge", True)
    with pytest.raises(ValueError, match="adc_b_value must be one of"):
        Protocol("SIEMENS", "siemens", True, "middle")


def test_other_b_values_are_written_and_read(tmp_path: Path) -> None:
    study = make_study(2, b_values_s_per_mm2=(50.0, 400.0, 800.0))
    selection = explain_study(write_study(study, tmp_path / "study"))
    assert sorted(b for one in selection.dwi for b in one.b_values_s_per_mm2) == [50.0, 400.0, 800.0]


@pytest.mark.slow
def test_hand_made_observer_of_the_adc_map_comes_near_the_ideal_one() -> None:
    """It reads stored pixels only; docs/phantom.md holds its AUC on 300 studies."""
    specification = importlib.util.spec_from_file_location("phantom_observer", BENCHMARK)
    assert specification is not None
    assert specification.loader is not None
    observer = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(observer)
    plans = [plan_study(index) for index in range(1, 31)]
    seen = np.array([observer.estimated_conspicuity(plan, difficulty=0.25) for plan in plans])
    auc = roc_auc_score([plan.label for plan in plans], equivocal_probability(seen, 0.25))
    assert auc == pytest.approx(observer_auc(0.25), abs=0.04)


def test_a_study_is_small(tmp_path: Path) -> None:
    folder = write_study(make_study(1), tmp_path / "1")
    assert sum(path.stat().st_size for path in folder.rglob("*.dcm")) < 5e6
