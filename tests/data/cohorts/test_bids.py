"""BIDS in and out: the layout, the official validator, and the way back to the same cohort."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prostate_alm.cli import main
from prostate_alm.data.build import CohortPlan
from prostate_alm.data.cohorts.bids import export_bids, read_bids
from prostate_alm.data.cohorts.collection import good_cases, import_collection
from prostate_alm.data.cohorts.image_files import AdcStudy
from prostate_alm.data.manifest import Manifest, ManifestError, read_manifest

LABELS = {"sub-01": 0, "sub-02": 1, "sub-03": 0, "sub-04": 1}


def write_session(files: Any, folder: Path, name: str, *, seed: int, b_values: tuple[float, ...]) -> None:
    files.nifti(folder / "anat" / f"{name}_T2w.nii.gz", files.voxels(seed))
    signal = np.stack([files.voxels(100 + seed) * np.exp(-b * 1e-3) for b in b_values], axis=-1).astype(np.float32)
    files.nifti(folder / "dwi" / f"{name}_dwi.nii.gz", signal)
    (folder / "dwi" / f"{name}_dwi.bval").write_text(" ".join(f"{b:g}" for b in b_values))


@pytest.fixture
def dataset(files: Any, tmp_path: Path) -> Path:
    """Return a dataset of four subjects at b 50, 400 and 800."""
    folder = tmp_path / "bids"
    for seed, name in enumerate(LABELS):
        write_session(files, folder / name, name, seed=seed, b_values=(50.0, 400.0, 800.0))
    files.rows(folder / "participants.tsv", [["participant_id", "age", "label"], *participants()], delimiter="\t")
    about = {"Name": "four men", "BIDSVersion": "1.10.0", "License": "CC0"}
    (folder / "dataset_description.json").write_text(json.dumps(about))
    return folder


def participants() -> list[list[object]]:
    return [[name, 60, label] for name, label in LABELS.items()]


def take(dataset: Path, output: Path, **options: Any) -> Manifest:
    return import_collection(read_bids(dataset, **options), CohortPlan(output, test_share=0.5)).manifest


def volumes_of(manifest: Manifest, folder: Path) -> list[np.ndarray]:
    files = [file for study in manifest.studies for file in (study.t2, study.dwi)]
    return [nib.load(folder / file.path).get_fdata() for file in files]


def test_b_values_are_harmonised_and_labels_are_those_of_the_column(files: Any, dataset: Path, tmp_path: Path) -> None:
    manifest = take(dataset, tmp_path / "m.json")
    assert {study.id: study.label for study in manifest.studies} == LABELS
    assert (manifest.provenance.source, manifest.provenance.licence) == ("BIDS dataset: four men", "CC0")
    for seed, study in enumerate(manifest.studies):
        assert study.b_values_acquired_s_per_mm2 == (50, 400, 800)
        assert study.b_values_computed == (True, True, True)
        diffusion = nib.load(tmp_path / study.dwi.path).get_fdata()
        for index, b in enumerate((100, 600, 1000)):  # the written signal is mono-exponential, so the fit is exact
            np.testing.assert_allclose(diffusion[..., index], files.voxels(100 + seed) * np.exp(-b * 1e-3), atol=0.05)


@pytest.fixture
def cohort_of(files: Any, dataset: Path, tmp_path: Path) -> Callable[[str], tuple[Manifest, Path]]:
    """Return a function that makes a cohort: of subjects, of sessions, or of ADC and a high b-value."""

    def make(kind: str) -> tuple[Manifest, Path]:
        if kind == "sessions":
            for session, seed in (("ses-a", 7), ("ses-b", 8)):
                name = f"sub-05_{session}"
                write_session(
                    files, dataset / "sub-05" / session, name, seed=seed, b_values=(0.0, 100.0, 600.0, 1000.0)
                )
            table = [["session_id", "label"], ["ses-a", 0], ["ses-b", 1]]
            files.rows(dataset / "sub-05" / "sub-05_sessions.tsv", table, delimiter="\t")
            rows = [["participant_id", "age", "label"], *participants(), ["sub-05", 60, "n/a"]]
            files.rows(dataset / "participants.tsv", rows, delimiter="\t")
        elif kind == "channels":
            for seed, name in enumerate(LABELS):
                shutil.rmtree(dataset / name / "dwi")
                for offset, suffix in ((100, "ADC"), (200, "trace")):
                    files.nifti(dataset / name / "dwi" / f"{name}_{suffix}.nii.gz", files.voxels(offset + seed))
        return take(dataset, tmp_path / f"{kind}.json"), tmp_path / f"{kind}.json"

    return make


KINDS = ("subjects", "sessions", "channels")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read_again_as_the_same_cohort(cohort_of: Any, tmp_path: Path, kind: str) -> None:
    manifest, path = cohort_of(kind)
    export_bids(manifest, path, folder=tmp_path / "out")
    again = take(tmp_path / "out", tmp_path / "again.json")
    assert again.refused == ()
    for field in ("label", "split", "b_values_acquired_s_per_mm2", "b_values_computed"):
        assert [getattr(one, field) for one in again.studies] == [getattr(one, field) for one in manifest.studies]
    assert again.diffusion_channels == manifest.diffusion_channels
    patients = [[study.patient for study in one.studies] for one in (manifest, again)]
    assert [row.index(name) for row in patients for name in row] == 2 * [
        patients[0].index(name) for name in patients[0]
    ]
    for before, after in zip(volumes_of(manifest, path.parent), volumes_of(again, tmp_path), strict=True):
        np.testing.assert_allclose(after, before, atol=np.ptp(before) / 65535)
    for study, other in zip(manifest.studies, again.studies, strict=True):
        first, second = (nib.load(tmp_path / one.dwi.path).affine for one in (study, other))
        np.testing.assert_allclose(second, first, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_is_that_of_the_standard(cohort_of: Any, tmp_path: Path, kind: str) -> None:
    manifest, path = cohort_of(kind)
    folder = export_bids(manifest, path, folder=tmp_path / "out")
    about = json.loads((folder / "dataset_description.json").read_text())
    assert {"Name", "BIDSVersion"} <= set(about)  # REQUIRED
    with (folder / "participants.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert {row["participant_id"] for row in rows} == {one.name for one in folder.iterdir() if one.is_dir()}
    assert set(json.loads((folder / "participants.json").read_text())) == set(rows[0]) - {"participant_id"}
    images = sorted(folder.rglob("*.nii.gz"))
    assert len(images) == len(manifest.studies) * (3 if kind == "channels" else 2)
    for image in images:
        parts = image.relative_to(folder).parts
        entities = "_".join(parts[:-2])
        suffix = image.name.removeprefix(f"{entities}_").removesuffix(".nii.gz")
        assert suffix in {"anat": {"T2w"}, "dwi": {"dwi", "ADC", "trace"}}[parts[-2]]
        assert re.fullmatch(r"sub-[0-9a-zA-Z]+(_ses-[0-9a-zA-Z]+)?", entities)
        stem = image.with_name(f"{entities}_{suffix}")
        json.loads(Path(f"{stem}.json").read_text())
        if suffix == "dwi":
            volumes = nib.load(image).shape[3]
            assert np.loadtxt(f"{stem}.bval").shape == (volumes,)
            assert np.loadtxt(f"{stem}.bvec").shape == (3, volumes)


def validator() -> str | None:
    """Return the command of the BIDS validator: of PyPI's bids-validator-deno, or of npm."""
    beside = Path(sys.executable).with_name("bids-validator-deno")
    return str(beside) if beside.is_file() else shutil.which("bids-validator-deno") or shutil.which("bids-validator")


@pytest.mark.skipif(validator() is None, reason="no BIDS validator: pip install bids-validator-deno")
@pytest.mark.parametrize("kind", KINDS)
def test_the_bids_validator_finds_no_error(cohort_of: Any, tmp_path: Path, kind: str) -> None:
    manifest, path = cohort_of(kind)
    folder = export_bids(manifest, path, folder=tmp_path / "out")
    command = [str(validator()), str(folder), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    issues = json.loads(found.stdout)["issues"]
    errors = issues["errors"] if "errors" in issues else [one for one in issues["issues"] if one["severity"] == "error"]
    assert errors == []
    assert found.returncode == 0


def test_the_commands_write_and_refuse_to_replace(
    cohort_of: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = cohort_of("subjects")
    assert main(["manifest", "export", str(path), "--bids", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"bids": str(tmp_path / "out"), "studies": 4}
    assert main(["manifest", "export", str(path), "--bids", str(tmp_path / "out")]) == 2
    assert "must be absent or empty, got " in capsys.readouterr().err
    again = ["manifest", "import", "bids", str(tmp_path / "out"), "--output", str(tmp_path / "a.json")]
    assert main([*again, "--test-share", "0.5", "--workers", "1"]) == 0
    assert len(read_manifest(tmp_path / "a.json").studies) == 4


def test_a_changed_volume_is_not_exported(cohort_of: Any, tmp_path: Path) -> None:
    manifest, path = cohort_of("subjects")
    (tmp_path / manifest.studies[1].dwi.path).write_bytes(b"changed")
    with pytest.raises(ManifestError, match="dwi of study sub-02 must have the manifest's SHA-256"):
        export_bids(manifest, path, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_are_one_in_bids_are_refused(cohort_of: Any, tmp_path: Path) -> None:
    manifest, path = cohort_of("subjects")
    first, second, *others = manifest.studies
    same = (first.model_copy(update={"patient": "P-1"}), second.model_copy(update={"patient": "p1"}), *others)
    with pytest.raises(ManifestError, match="differ in their letters and digits"):
        export_bids(manifest.model_copy(update={"studies": same}), path, folder=tmp_path / "out")


# What cannot be used


def test_faults_of_subjects_are_listed_with_line_and_file(files: Any, dataset: Path) -> None:
    rows = [["participant_id", "label", "split"], ["sub-01", 0, "train"], ["sub-02", "n/a", "test"]]
    rows += [[f"sub-0{number}", number % 2, "train"] for number in range(3, 10)]
    rows += [["sub-03", 0, "train"], ["03", 1, "train"], ["sub-10", 1, "validation"]]
    files.rows(dataset / "participants.tsv", rows, delimiter="\t")
    for number in range(5, 11):
        shutil.copytree(dataset / "sub-01", dataset / f"sub-{number:02d}")
    shutil.copytree(dataset / "sub-01", dataset / "sub-11")
    (dataset / "sub-05" / "anat" / "sub-05_acq-sag_T2w.nii.gz").touch()
    (dataset / "sub-06" / "dwi" / "sub-01_dwi.bval").unlink()
    (dataset / "sub-07" / "dwi" / "sub-01_dwi.bval").write_text("50 800 800")
    (dataset / "sub-08" / "dwi" / "sub-01_dwi.bval").write_text("800")
    shutil.rmtree(dataset / "sub-09")
    collection = read_bids(dataset)
    cases, refused = good_cases(collection)
    assert [case.label.id for case in cases] == ["sub-01", "sub-04"]
    assert {one.id: one.code for one in refused} == {
        "sub-02": "bad_label",
        "sub-03": "contradictory_labels",
        "sub-05": "several_images",
        "sub-06": "one_b_value",
        "sub-07": "dwi_directions",
        "sub-08": "one_b_value",
        "sub-09": "no_images",
        "sub-10": "bad_label",
        "participants.tsv line 12": "bad_id",
    }
    assert all("participants.tsv line " in one.reason and "\n" not in one.reason for one in refused)
    assert collection.unlabelled == ("sub-11",)


def test_two_splits_of_one_subject_are_refused(files: Any, dataset: Path) -> None:
    rows = [["participant_id", "label", "split"], *([name, label, "train"] for name, label in LABELS.items())]
    files.rows(dataset / "participants.tsv", [*rows, ["sub-02", 1, "test"]], delimiter="\t")
    cases, refused = good_cases(read_bids(dataset))
    assert [(one.id, one.code) for one in refused] == [("sub-02", "two_splits")]
    assert "participants.tsv line 3 and participants.tsv line 6" in refused[0].reason
    assert len(cases) == 3


def test_words_may_be_labels(files: Any, dataset: Path) -> None:
    words = ["benign", "cancer", "benign", ""]
    rows = [["participant_id", "diagnosis"], *([name, word] for name, word in zip(LABELS, words, strict=True))]
    files.rows(dataset / "participants.tsv", rows, delimiter="\t")
    cases, refused = good_cases(read_bids(dataset, label_column="diagnosis", positive=("cancer",)))
    assert [case.label.label for case in cases] == [0, 1, 0]
    assert [one.id for one in refused] == ["sub-04"]


def test_a_dataset_that_is_none_is_named(files: Any, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=r"no folder sub-\* in .*empty"):
        read_bids(tmp_path / "empty")
    with pytest.raises(ManifestError, match=r"got 'grade' in .*--label-column\. Available: \['participant_id'"):
        read_bids(dataset, label_column="grade")
    (dataset / "dataset_description.json").unlink()
    with pytest.raises(ManifestError, match=r"must have dataset_description\.json"):
        read_bids(dataset)
    (dataset / "participants.tsv").unlink()
    with pytest.raises(ManifestError, match=r"readable file, got .*participants\.tsv"):
        read_bids(dataset)


def test_one_diffusion_volume_beside_an_adc_map_is_the_high_b_value(files: Any, dataset: Path) -> None:
    for seed, name in enumerate(LABELS):
        shutil.rmtree(dataset / name / "dwi")
        files.nifti(dataset / name / "dwi" / f"{name}_ADC.nii.gz", files.voxels(seed))
        files.nifti(dataset / name / "dwi" / f"{name}_dwi.nii.gz", files.voxels(50 + seed))
        (dataset / name / "dwi" / f"{name}_dwi.bval").write_text("1400\n")
    source = read_bids(dataset).cases[0].source
    assert isinstance(source, AdcStudy)
    assert source.b_values_acquired_s_per_mm2 == (1400,)
    np.testing.assert_array_equal(source.read().dwi[1].voxels, files.voxels(50))
