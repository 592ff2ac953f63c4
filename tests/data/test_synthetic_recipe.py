"""A synthetic cohort from its recipe."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prostate_alm.cli import main
from prostate_alm.data.manifest import read_manifest
from prostate_alm.data.synthetic import make_from_recipe, read_recipe

pytestmark = pytest.mark.usefixtures("in_one_process")
SHIPPED = Path(__file__).resolve().parents[2] / "data_manifest"
TINY: dict[str, Any] = {"recipe_version": 1, "phantom_version": 1, "cohort": {"studies": 20, "seed": 0}}


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "tiny.json"
    path.write_text(json.dumps(TINY | changes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(dicom_cohort: Path, cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which all of the work is done but the manifest and the comparison."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny-dicom").mkdir()
    shutil.copy(dicom_cohort / "cohort.json", folder / "tiny-dicom")
    for study in (path for path in dicom_cohort.iterdir() if path.is_dir()):
        (folder / "tiny-dicom" / study.name).symlink_to(study)
    shutil.copytree(cohort.with_suffix(""), folder / "tiny")
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_cohort_is_compared_with_the_checksums_of_its_voxels(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path)
    assert run("manifest", "make", recipe, "--folder", made, "--record") == 0
    path = made / "tiny.json"
    known = json.loads(recipe.read_text())
    for study in read_manifest(path).studies[:2]:
        digest = hashlib.sha256()
        for name in (study.t2.path, study.dwi.path):
            voxels = np.asarray(nib.load(made / name).dataobj.get_unscaled())  # type: ignore[attr-defined]
            digest.update(f"<{voxels.dtype.kind}2 {voxels.shape}".encode() + voxels.tobytes())
        assert known["voxels_sha256"][study.id] == digest.hexdigest()
    before = path.stat().st_mtime_ns
    assert run("manifest", "make", recipe, "--folder", made) == 0
    assert path.stat().st_mtime_ns == before
    assert capsys.readouterr().out.split() == [str(path)] * 2
    known["voxels_sha256"]["PHANTOM-0003"] = "0" * 64
    recipe.write_text(json.dumps(known))
    for _ in range(2):  # the outcome is remembered
        assert run("manifest", "make", recipe, "--folder", made) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: voxels should have the checksums of the recipe, got others in 1 studies")
        assert "PHANTOM-0003" in error
    assert make_from_recipe(recipe, made) == path  # training goes on with a warning


@pytest.mark.parametrize("cohort_of", [{"studies": 20, "seed": 1}, {"studies": 30, "seed": 0}])
def test_a_changed_recipe_never_gets_the_studies_of_another(
    made: Path, cohort_of: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_from_recipe(write_recipe(tmp_path), made)
    assert run("manifest", "make", write_recipe(tmp_path, cohort=cohort_of), "--folder", made) == 2
    assert capsys.readouterr().err.startswith("error: manifest must be new or that of the same recipe, got another")


def test_a_manifest_that_no_recipe_made_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny.json").write_text("mine")
    assert run("manifest", "make", write_recipe(tmp_path), "--folder", tmp_path / "out") == 2
    assert "got another cohort" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.json"]
    assert (tmp_path / "out" / "tiny.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phantom_version": 9}, "phantom_version of a recipe must be 1, got 9 in"),
        ({"recipe_version": 2}, "recipe must follow its schema, got: Input should be less than or equal to 1 in"),
        ({"cohort": {"studies": 0, "seed": 0}}, "recipe must follow its schema, got: Input should be greater than"),
        ({"cohort": {"studies": 20, "sed": 0}}, "recipe must follow its schema, got: Field required in"),
        (
            {"cohort": {"studies": 20, "seed": 0, "b_values_s_per_mm2": []}},
            "b-values must be distinct and >= 0, got []",
        ),
    ],
)
def test_a_fault_of_a_recipe_is_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("manifest", "make", write_recipe(tmp_path, **changes), "--folder", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_shipped_cohort_is_of_the_papers_size_and_carries_all_checksums() -> None:
    path = SHIPPED / "phantom-400.json"
    recipe = read_recipe(path)
    cohort = recipe.cohort
    assert (cohort.studies, cohort.test_share, cohort.positive_share) == (400, 0.25, 0.3)
    assert list(recipe.voxels_sha256) == [f"PHANTOM-{number:04d}" for number in range(1, 401)]
    assert {len(bytes.fromhex(value)) for value in recipe.voxels_sha256.values()} == {32}
    assert path.stat().st_size < 2**20
