"""The gland bundle as a user runs it, and a member of the prostate bundle that is cropped around the gland."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prostate_alm.data.manifest import read_manifest, write_manifest
from prostate_alm.training.gland_localiser import SPEC, open_localiser

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def run(bundle: str, *arguments: object, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    config = str(BUNDLES / bundle / "train.json")
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", config, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_localiser_is_trained_refuses_to_be_replaced_and_crops_members(
    lesion_cohort: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    given = ("--manifest", lesion_cohort, "--epochs", 3, "--val_interval", 3)
    trained = run("gland", *given, folder=tmp_path, environment=clean_environment)
    assert trained.returncode == 0, trained.stderr
    about = json.loads((tmp_path / "outputs" / "gland" / SPEC).read_text())
    tested = [study for study in read_manifest(lesion_cohort).studies if study.split == "test"]
    assert about["figures"]["test"]["studies"] == len(tested)
    assert open_localiser(tmp_path / "outputs" / "gland")[1] == about
    again = run("gland", *given, folder=tmp_path, environment=clean_environment)
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("error: output_dir must hold no localiser, got one in outputs")

    manifest = read_manifest(lesion_cohort)
    undrawn = manifest.model_copy(
        update={"studies": tuple(study.model_copy(update={"gland": None}) for study in manifest.studies)}
    )
    write_manifest(undrawn, lesion_cohort.with_name("undrawn.json"))
    member = ("--manifest", lesion_cohort.with_name("undrawn.json"), "--crop", "gland", "--alm_epochs", 1)
    lacking = run("prostate", *member, folder=tmp_path, environment=clean_environment)
    assert lacking.returncode == 2
    assert "localiser must be given where the gland of a study was not drawn" in lacking.stderr
    cropped = run("prostate", *member, "--localiser", "outputs/gland", folder=tmp_path, environment=clean_environment)
    assert cropped.returncode == 0, cropped.stderr
    (config,) = (tmp_path / "outputs" / "prostate").glob("*/config.json")
    assert json.loads(config.read_text())["localiser_sha256"]
