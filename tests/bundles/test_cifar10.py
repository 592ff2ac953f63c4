"""The CIFAR-10 bundle and its ensembles as a user runs them, on a stand-in in the layout of the data set."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import warm
from mlflow import MlflowClient
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from prostate_alm.data.cifar10 import read_classes, write_stand_in
from prostate_alm.training.ensemble_training import log_model

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10"
SIZES = ("--train_majority", "40", "--validation_majority", "20", "--batch_size", "16")
SHORT = (*SIZES, "--pretrain_epochs", "2", "--alm_epochs", "2")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def trained(run_cifar10: Run, images: Path, workplace: Path) -> subprocess.CompletedProcess[str]:
    chosen = ("--majority", 0, "--minority", 1, "--ratio", 4, "--loss", "a_fl", "--alm", "true", "--member", 3)
    given = ("--dataset_dir", images, "--output_dir", "OUT")
    return run_cifar10("training", ("train.json",), workplace, *chosen, *given, *SHORT)


def test_the_command_of_the_bundle_trains_a_member(trained: subprocess.CompletedProcess[str], workplace: Path) -> None:
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.rstrip().endswith("results: OUT")
    metrics = json.loads((workplace / "OUT" / "metrics.json").read_text())
    assert {name: figures["positives"] for name, figures in metrics.items()} == {
        "validation": 5,
        "test": 15,
        "test_all_positives": 60,
        "test_draws": 15,
    }
    with (workplace / "OUT" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["sample_id"] for row in rows}) == len(rows) == 25 + 75 + 45
    config = json.loads((workplace / "OUT" / "config.json").read_text())
    assert (config["bundle"], config["experiment"]) == ("cifar10", "cifar10-0-1")
    assert str(workplace) not in json.dumps(config)  # results say what they are, not where they were made
    network = ConfigParser(ConfigParser.load_config_file(BUNDLE / "train.json")).get_parsed_content("network_def")
    network.load_state_dict(torch.load(workplace / "OUT" / "model.pt", weights_only=True))


@pytest.mark.slow
def test_the_weights_give_the_same_figures_again(
    trained: subprocess.CompletedProcess[str], run_cifar10: Run, images: Path, workplace: Path
) -> None:
    # only the folder and the data are given: ratio, member and loss are those that the folder says
    files = ("train.json", "evaluate.json")
    before = {path.name: path.read_bytes() for path in (workplace / "OUT").rglob("*") if path.is_file()}
    again = run_cifar10("evaluating", files, workplace, "--output_dir", "OUT", "--dataset_dir", images)
    assert again.returncode == 0, again.stderr
    line = next(line for line in trained.stdout.splitlines() if line.startswith("test AUC"))
    assert line in again.stdout.splitlines()
    assert {path.name: path.read_bytes() for path in (workplace / "OUT").rglob("*") if path.is_file()} == before
    nothing = run_cifar10("evaluating", files, workplace, "--output_dir", "elsewhere", "--dataset_dir", images)
    assert nothing.returncode == 2
    assert "error: output_dir must be the folder of a trained member, got elsewhere" in nothing.stderr
    other = write_stand_in(workplace / "other", images_per_class=60, seed=1)
    changed = run_cifar10("evaluating", files, workplace, "--output_dir", "OUT", "--dataset_dir", other)
    assert changed.returncode == 2
    assert "error: data must be those that the member was trained with" in changed.stderr


@pytest.fixture(scope="module")
def photographs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the test images of the two classes as PNG, named as the samples are."""
    folder = tmp_path_factory.mktemp("photographs")
    test = read_classes(images, (0, 1)).test
    for number, image in zip(test.numbers, test.images, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"test-{number:05d}.png")
    return folder


def answered(table: Path, **given: object) -> ConfigWorkflow:
    config = str(BUNDLE / "inference.json")
    workflow = ConfigWorkflow(config_file=config, workflow_type="infer", table=str(table), **given)
    workflow.initialize()
    workflow.run()
    return workflow


def test_new_photographs_get_the_logits_that_training_gave_the_same_images(
    trained: subprocess.CompletedProcess[str], photographs: Path, workplace: Path, tmp_path: Path
) -> None:
    assert trained.returncode == 0, trained.stderr
    given = {"member_dir": str(workplace / "OUT"), "dataset_dir": str(photographs)}
    assert answered(tmp_path / "answers.csv", **given).check_properties() == []
    with (tmp_path / "answers.csv").open() as stream:
        found = {Path(name).stem: float(logit) for name, logit, _ in csv.reader(stream)}
    with (workplace / "OUT" / "predictions.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"].startswith("test")]
    assert len(found) == len(rows) == 120
    assert found == pytest.approx({row["sample_id"]: float(row["logit"]) for row in rows}, abs=1e-5)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"member_dir": "nowhere"}, "member_dir must be the folder of a trained member, got nowhere"),
        ({"dataset_dir": "nowhere"}, "dataset_dir must be a folder of photographs, got nowhere"),
        ({"dataset_dir": "empty"}, "dataset_dir must hold photographs (.png, .jpg, .jpeg, .bmp), got none in empty"),
        ({"dataset_dir": "large"}, "as those that the network was trained on, got 40 x 32 in large/one.png. Scale it."),
        ({"dataset_dir": "broken"}, "photograph must be readable, got one.png in broken"),
        ({"table": "there.csv"}, "table must be a new file, got there.csv"),
    ],
)
def test_what_cannot_be_answered_is_told_and_writes_nothing(
    fault: dict[str, str], message: str, trained: object, photographs: Path, workplace: Path, tmp_path: Path
) -> None:
    for name in ("empty", "large", "broken"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (40, 32)).save(tmp_path / "large" / "one.png")
    (tmp_path / "broken" / "one.png").write_bytes(b"no picture")
    (tmp_path / "there.csv").write_text("mine")
    given = {"member_dir": str(workplace / "OUT"), "dataset_dir": str(photographs), "table": "answers.csv"} | fault
    with contextlib.chdir(tmp_path), pytest.raises(RuntimeError) as caught:
        answered(Path(given.pop("table")), **given)
    told, error = [], caught.value.__cause__
    while error is not None:
        told.append(str(error))
        error = error.__cause__
    assert any(message in line for line in told)
    assert not (tmp_path / "answers.csv").exists()
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_an_interruption_is_one_line_and_what_was_finished_is_kept(
    images: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    config = ("--config_file", str(BUNDLE / "train.json"), "--dataset_dir", str(images), "--output_dir", "OUT")
    given = (*config, *SIZES, "--ratio", "4", "--alm_epochs", "100000", "--tracking_uri", "none")
    command = ("run", "training", *given)
    said = tmp_path / "said"
    process = warm.start("monai.bundle", command, folder=tmp_path, environment=clean_environment, said=said)
    wait_for(tmp_path / "OUT" / "checkpoint.pt")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 130
    text = said.with_suffix(".err").read_text()
    assert "Traceback" not in text
    assert text.splitlines()[-1].startswith("interrupted; finished epochs are kept")
    assert (tmp_path / "OUT" / "checkpoint.pt").is_file()


def as_from_a_terminal() -> None:
    """Let a process hear Ctrl-C: one that a shell has put into the background inherits that it does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def arguments_of(images: Path, *more: object) -> list[str]:
    base = ["ensemble", "train", str(BUNDLE), "--members", "3", "--jobs", "2"]
    return [*base, "--dataset_dir", str(images), "--ratio", "4", *SIZES, *map(str, more)]


def ensemble(images: Path, *more: object) -> list[str]:
    return [sys.executable, "-m", "prostate_alm.cli", *arguments_of(images, *more)]


@pytest.mark.slow
def test_an_ensemble_goes_on_where_it_was_stopped(
    images: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    epochs = ("--pretrain_epochs", "30", "--alm_epochs", "30")
    folder = tmp_path / "outputs" / "cifar10-0-1" / "1-4" / "bce-alm"
    with subprocess.Popen(
        ensemble(images, *epochs), cwd=tmp_path, env=clean_environment, preexec_fn=as_from_a_terminal
    ) as process:
        wait_for(folder / "member-00" / "metrics.json")  # one is finished, others are in the middle
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    finished = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("member-*/metrics.json")}
    assert 0 < len(finished) < 3

    other = subprocess.run(
        ensemble(images, *epochs, "--mu0", "0.3"), cwd=tmp_path, env=clean_environment, capture_output=True, text=True
    )
    assert other.returncode == 2
    assert "error: an ensemble must go on with the settings that it was begun with, got mu0 = 0.3" in other.stderr

    again = subprocess.run(
        [*ensemble(images, *epochs), "--json"], cwd=tmp_path, env=clean_environment, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["metrics"]["members"] == [0, 1, 2]
    for name, time_ns in finished.items():
        assert (folder / name / "metrics.json").stat().st_mtime_ns == time_ns

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("cifar10-0-1").experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert sorted(run.info.run_name for run in children) == ["member-00", "member-01", "member-02"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert parents[0].data.metrics["test_auc"] == pytest.approx(metrics["ensemble"]["test"]["auc"])
    for run in children:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "val_auc")]
        assert sorted(steps) == sorted(set(steps)) == list(range(1, len(steps) + 1))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    model = log_model(folder, BUNDLE, tracking_uri=uri, register_as="planes", alias="champion")
    assert model == "models:/planes/1"
    assert client.get_model_version_by_alias("planes", "champion").run_id == parents[0].info.run_id


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.is_file():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


@pytest.mark.slow
def test_a_failed_member_is_reported_and_stops_nobody(
    images: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "outputs" / "cifar10-0-1" / "1-4" / "bce-baseline"
    (folder / "member-01").mkdir(parents=True)
    (folder / "member-01" / "notes.txt").write_text("mine")
    command = ensemble(images, "--pretrain_epochs", 1, "--alm_epochs", 1, "--alm", "false", "--tracking_uri", "none")
    result = subprocess.run(command, cwd=tmp_path, env=clean_environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert "error: member 1 failed: output_dir must be a new or empty folder" in result.stderr
    assert json.loads((folder / "metrics.json").read_text())["failed"] == [1]
    assert not (tmp_path / "mlflow.db").exists()


def test_a_fault_of_the_caller_ends_with_code_2_and_leaves_nothing(images: Path, run_warm: Run, tmp_path: Path) -> None:
    result = run_warm("prostate_alm.cli", *arguments_of(images, *SHORT, "--minority", "0"), folder=tmp_path)
    assert result.returncode == 2
    assert (
        result.stderr
        == "error: majority and minority must be two classes, got 0 (airplane) for both. Choose another.\n"
    )
    assert list(tmp_path.iterdir()) == []
