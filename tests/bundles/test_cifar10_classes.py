"""The overlay of CIFAR-10 with ten classes, some of them critical, as a user runs it, on a stand-in of the data set."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from prostate_alm.data.cifar10 import read_cifar10, write_stand_in

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10"
SIZES = ("--train_images", 40, "--validation_images", 20, "--imbalance", 10, "--batch_size", 32)
SHORT = (*SIZES, "--pretrain_epochs", 1, "--alm_epochs", 2, "--deferred_epochs", 1)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


@pytest.mark.slow
def test_the_command_trains_a_member_with_two_critical_classes(run_cifar10: Run, images: Path, tmp_path: Path) -> None:
    chosen = ("--critical", "['cat','ship']", "--ordered", "true", "--profile", "rare", "--loss", "ldam")
    given = ("--dataset_dir", images, "--output_dir", "OUT", "--tracking_uri", "none")
    done = run_cifar10("training", ("train.json", "long_tailed.json"), tmp_path, *chosen, *given, *SHORT)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "OUT" / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    of_validation = [int(row["class"]) for row in rows if row["split"] == "validation"]
    assert np.bincount(of_validation).tolist() == [20, 20, 20, 2, 20, 20, 20, 20, 2, 20]
    assert sum(row["split"] == "test" for row in rows) == 600
    with (tmp_path / "OUT" / "history.csv").open() as stream:
        history = list(csv.DictReader(stream))
    assert history[0]["alm_mu_class3"] == ""  # the first stage has no constraint
    assert all(float(history[-1][f"alm_lambda_maximum_class{c}"]) > 0 for c in (3, 8))
    assert {"val_auc_class3", "val_auc_class8", "val_balanced_accuracy"} <= set(history[0])
    figures = json.loads((tmp_path / "OUT" / "metrics.json").read_text())["test"]
    assert {"rest_error_at_tpr90", "rest_error_at_tpr90_class8", "balanced_accuracy"} <= set(figures)
    saved = torch.load(tmp_path / "OUT" / "checkpoint.pt", weights_only=True)
    states = [value for key, value in saved["loss"].items() if key.endswith("_extra_state")]
    assert len(states) == 2
    assert all(state["multipliers"] for state in states)
    files = ("evaluate.json", "evaluate_long_tailed.json")
    again = run_cifar10("evaluating", files, tmp_path, "--output_dir", "OUT", "--dataset_dir", images)
    assert again.returncode == 0, again.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("test AUC"))
    assert line in again.stdout.splitlines()


@pytest.mark.slow
def test_an_ensemble_of_the_overlay_is_evaluated_and_logged(
    images: Path, clean_environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "prostate_alm.cli", "ensemble", "train", "cifar10/long_tailed.json"]
    command += ["--members", "2", "--jobs", "1", "--dataset_dir", str(images), "--critical", "3"]
    command += [*map(str, SIZES), "--alm_epochs", "1", "--deferred_epochs", "1"]
    done = subprocess.run(command, cwd=tmp_path, env=clean_environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "rest error at tpr90" in done.stdout
    folder = tmp_path / "outputs" / "cifar10-critical-3" / "long_tailed-1-10" / "ce-alm"
    metrics = json.loads((folder / "metrics.json").read_text())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("cifar10-critical-3").experiment_id])
    (run,) = [one for one in runs if one.info.run_name == "ce-alm long_tailed-1-10"]
    assert (run.data.params["critical"], run.data.params["loss"]) == ("[3]", "ce")
    for name in ("rest_error_at_tpr90", "balanced_accuracy"):
        assert run.data.metrics[f"test_{name}"] == pytest.approx(metrics["ensemble"]["test"][name])
    assert "error of the other classes at 90 % TPR" in run.data.tags["mlflow.note.content"]
    assert "confusion.csv" in {file.path for file in client.list_artifacts(run.info.run_id)}
    (model,) = tmp_path.rglob("MLmodel")
    outputs = model.read_text().split("outputs: '")[1].split("'")[0]
    assert json.loads(outputs)[0]["tensor-spec"]["shape"] == [-1, 10]


@pytest.mark.slow
def test_new_photographs_get_the_logits_that_training_gave_the_same_images(
    run_cifar10: Run, images: Path, tmp_path: Path
) -> None:
    given = ("--dataset_dir", images, "--output_dir", "OUT", "--tracking_uri", "none")
    done = run_cifar10("training", ("train.json", "long_tailed.json"), tmp_path, *given, *SHORT)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "OUT" / "predictions.csv").open() as stream:
        of_test = {row["sample_id"]: row for row in csv.DictReader(stream) if row["split"] == "test"}
    data = read_cifar10(images).test
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, image in zip(data.numbers[:5], data.images[:5], strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(photographs / f"test-{number:05d}.png")
    files = ("inference.json", "inference_long_tailed.json")
    given = ("--member_dir", "OUT", "--dataset_dir", photographs, "--table", "answers.csv")
    answered = run_cifar10("inference", files, tmp_path, *given)
    assert answered.returncode == 0, answered.stderr
    with (tmp_path / "answers.csv").open() as stream:
        for name, *numbers in csv.reader(stream):
            logits = [float(of_test[Path(name).stem][f"logit_{k}"]) for k in range(10)]
            assert [float(number) for number in numbers[:10]] == pytest.approx(logits, abs=1e-5)
            assert sum(float(number) for number in numbers[10:]) == pytest.approx(1)
