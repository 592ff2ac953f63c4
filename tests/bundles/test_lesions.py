"""The lesions bundle as a user runs it, on synthetic studies with their masks."""

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import CenterSpatialCrop, LoadImage

from prostate_alm.data.manifest import read_manifest
from prostate_alm.training.lesion_member import studies_in
from prostate_alm.training.member import weights_of

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "lesions"
EPOCHS = ("--pretrain_epochs", "1", "--alm_epochs", "2")
LESION = re.compile(r"PHANTOM-\d{4}/lesion-1")


def command(run_id: str, *arguments: object) -> list[str]:
    config = BUNDLE / ("evaluate.json" if run_id == "evaluating" else "train.json")
    base = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(config)]
    return [*base, *map(str, arguments)]


def run(run_id: str, *arguments: object, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(run_id, *arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def trained(
    lesion_cohort: Path, workplace: Path, clean_environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    given = ("--manifest", lesion_cohort, "--output_dir", "whole", "--tracking_uri", "none", "--loss", "dice_bce")
    return run("training", *given, *EPOCHS, folder=workplace, environment=clean_environment)


@pytest.mark.slow
def test_the_command_trains_and_its_results_are_those_of_any_member(
    trained: subprocess.CompletedProcess[str], workplace: Path, lesion_cohort: Path
) -> None:
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.rstrip().endswith("results: whole")
    with (workplace / "whole" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    studies = {study.id: study for study in read_manifest(lesion_cohort).studies}
    assert all(int(row["label"]) == studies[row["sample_id"]].label for row in rows)
    tested = {row["sample_id"] for row in rows if row["split"] == "test"}
    assert tested == {key for key, study in studies.items() if study.split == "test"}
    metrics = json.loads((workplace / "whole" / "metrics.json").read_text())
    assert 0 <= metrics["test"]["lesion_auc"] <= 1
    with (workplace / "whole" / "history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    assert [row["alm_mu"] == "" for row in history] == [True, False, False]
    assert float(history[-1]["alm_lambda_maximum"]) > 0
    assert 0 <= float(history[-1]["val_lesion_auc"]) <= 1


@pytest.mark.slow
def test_multipliers_are_those_of_lesions_and_weights_load(
    trained: subprocess.CompletedProcess[str], workplace: Path
) -> None:
    saved = torch.load(workplace / "whole" / "checkpoint.pt", weights_only=True)
    (state,) = (value for key, value in saved["loss"].items() if key.endswith("_extra_state"))
    assert state["multipliers"]
    assert all(LESION.fullmatch(key) for key in state["multipliers"])
    network = ConfigParser(ConfigParser.load_config_file(BUNDLE / "train.json")).get_parsed_content("network_def")
    network.load_state_dict(torch.load(workplace / "whole" / "model.pt", weights_only=True))


@pytest.mark.slow  # test_overlays.py evaluates within its process
def test_the_member_is_evaluated_again(
    trained: subprocess.CompletedProcess[str],
    workplace: Path,
    lesion_cohort: Path,
    clean_environment: dict[str, str],
) -> None:
    given = ("--output_dir", "whole", "--manifest", lesion_cohort)
    again = run("evaluating", *given, folder=workplace, environment=clean_environment)
    assert again.returncode == 0, again.stderr
    line = next(line for line in trained.stdout.splitlines() if line.startswith("test AUC"))
    assert line in again.stdout.splitlines()


@pytest.mark.slow
def test_maps_are_written_on_the_grid_of_t2_and_at_their_place(
    trained: subprocess.CompletedProcess[str], workplace: Path, lesion_cohort: Path, tmp_path: Path
) -> None:
    assert trained.returncode == 0, trained.stderr
    study = read_manifest(lesion_cohort).studies[0]
    for volume in (study.t2, study.dwi):
        target = tmp_path / "studies" / study.id / Path(volume.path).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lesion_cohort.parent / volume.path, target)
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "inference.json"),
        meta_file=str(BUNDLE / "metadata.json"),
        workflow_type="infer",
        member_dir=str(workplace / "whole"),
        dataset_dir=str(tmp_path / "studies"),
        output_dir=str(tmp_path / "maps"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    written = nib.load(tmp_path / "maps" / study.id / "t2_lesions.nii.gz")
    t2 = nib.load(tmp_path / "studies" / study.id / "t2.nii.gz")
    assert written.shape == t2.shape
    np.testing.assert_allclose(written.affine, t2.affine, atol=1e-4)

    image = workflow.dataset[0]["image"][None].as_subclass(torch.Tensor)  # the map again on the grid of the network
    expected = torch.sigmoid(workflow.network_def.eval()(image)).detach()[0]
    steps = [step for step in workflow.dataset.transform.transforms if hasattr(step, "keys")][2:5]
    again = {"image": LoadImage(ensure_channel_first=True)(tmp_path / "maps" / study.id / "t2_lesions.nii.gz")}
    for step in steps:
        again = step(again)
    found = CenterSpatialCrop(expected.shape[1:])(again["image"]).as_subclass(torch.Tensor)
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.9


def test_maps_of_no_study_or_of_no_member_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"dataset_dir must be a folder with studies of t2.nii.gz .*got .*\. Make"):
        studies_in(tmp_path)
    with pytest.raises(ValueError, match="member_dir must be the folder of a trained member, got None"):
        weights_of(None)


@pytest.mark.slow
def test_a_run_killed_and_resumed_gives_the_same_numbers(
    trained: subprocess.CompletedProcess[str],
    workplace: Path,
    lesion_cohort: Path,
    clean_environment: dict[str, str],
    kill_in_second_stage: Callable[..., None],
) -> None:
    given = ("--manifest", lesion_cohort, "--output_dir", "killed", "--tracking_uri", "none", "--loss", "dice_bce")
    kill_in_second_stage(command("training", *given, *EPOCHS), folder=workplace, environment=clean_environment)
    resumed = run("training", *given, *EPOCHS, "--resume", "true", folder=workplace, environment=clean_environment)
    assert resumed.returncode == 0, resumed.stderr
    for file in ("predictions.csv", "metrics.json", "history.csv"):
        assert (workplace / "killed" / file).read_bytes() == (workplace / "whole" / file).read_bytes(), file


@pytest.mark.slow
def test_a_cohort_without_masks_ends_with_code_2_and_leaves_nothing(
    cohort: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    done = run("training", "--manifest", cohort, folder=tmp_path, environment=clean_environment)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "manifest must have studies whose lesions were drawn, got none among 20 in cohort" in line
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
