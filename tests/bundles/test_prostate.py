"""The prostate bundle as a user runs it: one command in a process of its own."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from monai.bundle import ConfigParser

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "prostate"
EPOCHS = ("--pretrain_epochs", "3", "--alm_epochs", "3")


TRAIN = ("run", "training", "--config_file", str(BUNDLE / "train.json"))

Run = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "monai.bundle", *TRAIN, *map(str, arguments)]


def run(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )


def environment() -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return clean | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def trained(cohort: Path, workplace: Path, run_warm: Run) -> subprocess.CompletedProcess[str]:
    return run_warm("monai.bundle", *TRAIN, "--manifest", cohort, "--output_dir", "whole", *EPOCHS, folder=workplace)


def predictions(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_the_command_trains_and_says_where_the_results_are(
    trained: subprocess.CompletedProcess[str], workplace: Path, cohort: Path
) -> None:
    assert trained.returncode == 0, trained.stderr
    assert "test AUC" in trained.stdout
    assert trained.stdout.rstrip().endswith("results: whole")
    metrics = json.loads((workplace / "whole" / "metrics.json").read_text())
    rows = predictions(workplace / "whole")
    studies = {study["id"]: study for study in json.loads(cohort.read_text())["studies"]}
    test_rows = [row for row in rows if row["split"] == "test"]
    assert {row["sample_id"] for row in test_rows} == {i for i, study in studies.items() if study["split"] == "test"}
    assert all(int(row["label"]) == studies[row["sample_id"]]["label"] for row in rows)
    assert metrics["test"]["positives"] == sum(int(row["label"]) for row in test_rows)
    kept = workplace / "whole" / "bundle" / "train.json"
    assert kept.read_bytes() == (BUNDLE / "train.json").read_bytes()


def test_the_weights_load_safely_into_the_network_of_the_config(
    trained: subprocess.CompletedProcess[str], workplace: Path
) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "train.json"))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(workplace / "whole" / "model.pt", weights_only=True))
    torch.load(workplace / "whole" / "checkpoint.pt", weights_only=True)


def test_mlflow_holds_the_member_beneath_its_ensemble(
    trained: subprocess.CompletedProcess[str], workplace: Path, cohort: Path
) -> None:
    client = MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    identity = json.loads((workplace / "whole" / "tracking.json").read_text())
    member = client.get_run(identity["run_id"])
    assert member.info.status == "FINISHED"
    assert member.data.tags["mlflow.parentRunId"] == identity["parent_id"]
    assert client.get_run(identity["parent_id"]).info.status == "FINISHED"
    metrics = json.loads((workplace / "whole" / "metrics.json").read_text())
    assert member.data.metrics["test_auc"] == pytest.approx(metrics["test"]["auc"])
    assert member.data.metrics["best_val_auc"] == pytest.approx(metrics["validation"]["auc"])
    assert [m.step for m in client.get_metric_history(member.info.run_id, "val_auc")] == [1, 2, 3, 4, 5, 6]
    for name in (
        "train_loss",
        "train_constraint",
        "alm_q_mean",
        "alm_violated_share",
        "alm_gradient_ratio",
        "alm_mu",
        "alm_lambda_median",
    ):
        assert name in member.data.metrics
    assert member.data.params["delta"] == "1.0"
    assert {file.path for file in client.list_artifacts(member.info.run_id)} >= {"roc.png", "config.json"}


@pytest.mark.slow
def test_a_run_killed_and_resumed_gives_the_same_numbers(
    trained: subprocess.CompletedProcess[str],
    cohort: Path,
    workplace: Path,
    kill_in_second_stage: Callable[..., None],
) -> None:
    # in the second stage, where λ and μ matter; tests/training/test_trainer.py interrupts after every epoch
    arguments = ("--manifest", cohort, "--output_dir", "killed", *EPOCHS)
    kill_in_second_stage(command(*arguments), folder=workplace, environment=environment())
    resumed = run(*arguments, "--resume", "true", folder=workplace)
    assert resumed.returncode == 0, resumed.stderr
    assert "pretrain epoch" not in resumed.stdout
    studies = json.loads(cohort.read_text())["studies"]  # three processes have read them, and made each image once
    assert len(list(workplace.glob("data/volume-cache/*/*.npy"))) == len(studies)
    for file in ("predictions.csv", "metrics.json", "history.csv"):
        assert (workplace / "killed" / file).read_bytes() == (workplace / "whole" / file).read_bytes(), file
    identity = json.loads((workplace / "killed" / "tracking.json").read_text())
    client = MlflowClient(f"sqlite:///{workplace}/mlflow.db")
    assert client.get_run(identity["run_id"]).info.status == "FINISHED"
    assert [m.step for m in client.get_metric_history(identity["run_id"], "val_auc")] == [1, 2, 3, 4, 5, 6]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_of_a_run_are_not_overwritten_unasked(
    trained: subprocess.CompletedProcess[str], cohort: Path, workplace: Path, run_warm: Run
) -> None:
    before = files_of(workplace / "whole")
    again = run_warm("monai.bundle", *TRAIN, "--manifest", cohort, "--output_dir", "whole", *EPOCHS, folder=workplace)
    assert again.returncode == 2
    assert_one_line(again.stderr, "output_dir must be a new or empty folder, got whole")
    assert files_of(workplace / "whole") == before


def assert_one_line(stderr: str, text: str) -> None:
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert text in lines[0]
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pretrain_epoch", "3"), "Did you mean --pretrain_epochs?"),
        pytest.param(("--train#handler", "[]"), "Did you mean --train#handlers?", marks=pytest.mark.slow),
        pytest.param(
            ("--read_and_normalise#7", "{'_target_': 'monai.transforms.RandGaussianNoised', 'keys': 'image'}"),
            "read_and_normalise must hold transforms that are not random, got RandGaussianNoised",
            marks=pytest.mark.slow,
        ),
        (("--manifest", "nowhere.json"), "manifest must be a readable file, got nowhere.json"),
    ],
)
def test_a_fault_of_the_caller_ends_with_code_2_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path, run_warm: Run
) -> None:
    result = run_warm("monai.bundle", *TRAIN, *arguments, folder=tmp_path)
    assert result.returncode == 2
    assert_one_line(result.stderr, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_store_that_cannot_be_used_claims_no_folder(cohort: Path, tmp_path: Path) -> None:
    result = run("--manifest", cohort, "--output_dir", "out", "--tracking_uri", "nonsense://x", folder=tmp_path)
    assert result.returncode == 2
    assert_one_line(result.stderr, "tracking_uri must be a store that MLflow can write to")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_crash_is_told_to_mlflow_and_to_the_shell(cohort: Path, tmp_path: Path) -> None:
    result = run("--manifest", cohort, "--output_dir", "out", "--learning_rate", "1e30", *EPOCHS, folder=tmp_path)
    assert result.returncode not in (0, 2)
    assert "PHANTOM-" in result.stderr  # the samples whose logits were not finite
    identity = json.loads((tmp_path / "out" / "tracking.json").read_text())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(identity["run_id"]).info.status == "FAILED"
    assert client.get_run(identity["parent_id"]).info.status == "FAILED"
    assert not (tmp_path / "out" / "metrics.json").exists()


BOTH_FILES = f"['{BUNDLE / 'train.json'}','{BUNDLE / 'multi_gpu_train.json'}']"


def history(folder: Path, column: str) -> list[float]:
    with (folder / "history.csv").open() as stream:
        return [float(row[column]) for row in csv.DictReader(stream) if row[column]]


@pytest.mark.slow
def test_two_processes_train_as_one_does(cohort: Path, tmp_path: Path) -> None:
    # without augmentation, whose random numbers differ with the order in which samples are drawn, and with a plain
    # optimizer: the sign-like first steps of Adam turn rounding into differences of the size of the learning rate; and
    # with a gentle constraint, since multipliers multiply the rounding of sums in another order
    plain = (
        "--augment",
        "$lambda image, random: image[:, :, 3:43, 3:43, 1:21]",
        "--optimizer#_target_",
        "torch.optim.SGD",
        "--learning_rate",
        "0.02",
    )
    gentle = ("--mu0", "0.05", "--constraint#multiplier_max", "1.0")
    common = ("--manifest", cohort, *EPOCHS, *plain, *gentle, "--precision", "float32")
    alone = run(*common, "--output_dir", "alone", folder=tmp_path)
    assert alone.returncode == 0, alone.stderr
    together = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *("-m", "monai.bundle", "run", "training", "--config_file", BOTH_FILES),
            *map(str, common),
            *("--output_dir", "together"),
        ],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("results: together") == 1
    for column in ("val_loss", "alm_q_mean", "alm_lambda_maximum"):
        one, two = (history(tmp_path / name, column) for name in ("alone", "together"))
        assert two == pytest.approx(one, rel=1e-4), column  # rounding is 1e-6 of it, a wrong sum percents
    runs = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_runs(["1"])
    assert len(runs) == 4  # a parent and a member for each of the two trainings


@pytest.mark.slow
def test_the_overlay_for_several_processes_needs_torchrun(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", BOTH_FILES]
    result = subprocess.run(arguments, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert_one_line(result.stderr, "must be run by torchrun")


def test_a_real_study_trains_together_with_synthetic_ones(shared: Path, dicom_cohort: Path, tmp_path: Path) -> None:
    for study in sorted(path for path in dicom_cohort.iterdir() if path.is_dir()):
        (tmp_path / "dicom").mkdir(exist_ok=True)
        (tmp_path / "dicom" / study.name).symlink_to(study)
    (tmp_path / "dicom" / "ProstateX-0001").symlink_to(shared / "data" / "prostatex" / "ProstateX-0001")
    labels = (dicom_cohort / "labels.csv").read_text().rstrip() + "\nProstateX-0001,0\n"
    rows = labels.splitlines()
    with_split = [rows[0] + ",split"] + [f"{row},{'test' if i % 3 == 0 else 'train'}" for i, row in enumerate(rows[1:])]
    with_split[-1] = "ProstateX-0001,0,train"
    (tmp_path / "labels.csv").write_text("\n".join(with_split) + "\n")
    build = subprocess.run(
        f"{sys.executable} -m prostate_alm.cli manifest build dicom --labels labels.csv --output mixed.json".split(),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    real = next(s for s in json.loads((tmp_path / "mixed.json").read_text())["studies"] if s["id"] == "ProstateX-0001")
    assert real["b_values_acquired_s_per_mm2"] == [50, 400, 800]
    assert real["b_values_computed"] == [True, True, True]
    result = run("--manifest", "mixed.json", "--pretrain_epochs", "1", "--alm_epochs", "1", folder=tmp_path)
    assert result.returncode == 0, result.stderr
