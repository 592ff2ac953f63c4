"""The cohort: bytes that depend on seed and index alone, files that pydicom, dciodvfy and our reader accept."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prostate_alm.phantom.cohort import (
    PhantomStudy,
    make_cohort,
    make_study,
    observer_auc,
    plan_study,
    render_study,
    write_study,
)
from prostate_alm.phantom.reader import equivocal_probability
from prostate_alm.phantom.render import TISSUES
from prostate_alm.phantom.study import render_diffusion

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "phantom_observer.py"


@pytest.fixture(scope="module")
def study() -> PhantomStudy:
    return make_study(5, seed=3)


def _rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


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
