"""What a user of MONAI lays over the bundles: handlers, schedules, optimizers; and what MONAI's tools ask of them."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from monai.bundle import ConfigWorkflow

from prostate_alm.data.cifar10 import write_stand_in

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SIZES = {"ratio": 4, "train_majority": 40, "validation_majority": 20, "batch_size": 16, "alm_epochs": 3}
COMMAND = tuple(part for name, value in SIZES.items() for part in (f"--{name}", value))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("bundle", ["cifar10", "prostate"])
def test_monai_finds_all_properties(bundle: str, images: Path, cohort: Path, tmp_path: Path) -> None:
    data = {"dataset_dir": str(images), **SIZES} if bundle == "cifar10" else {"manifest": str(cohort)}
    data |= {"cache_dir": str(tmp_path / "cache")} if bundle == "prostate" else {}
    workflow = ConfigWorkflow(
        config_file=str(BUNDLES / bundle / "train.json"),
        workflow_type="train",
        output_dir=str(tmp_path / "out"),
        tracking_uri="none",
        resume=True,
        **data,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.trainer.network is workflow.evaluator.network
    workflow.max_epochs = 2
    workflow.initialize()
    assert workflow.trainer.state.max_epochs == 2
    workflow.run_id = "run"
    workflow.run()  # the trainer alone, as MONAI's tools start it
    assert workflow.trainer.state.epoch == 2
    assert (tmp_path / "out" / "checkpoint.pt").is_file()


def test_an_overlay_adds_handlers_a_schedule_and_another_optimizer(
    run_cifar10: Run, images: Path, tmp_path: Path
) -> None:
    overlay: dict[str, Any] = {
        "+imports": ["$import torch"],
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network_def.parameters()", "lr": 0.01},
        "falling": {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer", "step_size": 1},
        "+train#handlers": [
            {"_target_": "StatsHandler", "tag_name": "my loss", "output_transform": "$lambda output: output['loss']"},
            {"_target_": "LrScheduleHandler", "lr_scheduler": "@falling", "print_lr": True},
            {
                "_target_": "CheckpointSaver",
                "save_dir": "kept",
                "save_dict": {"network": "@network_def"},
                "save_final": True,
            },
        ],
    }
    (tmp_path / "mine.json").write_text(json.dumps(overlay))
    files = ("train.json", str(tmp_path / "mine.json"))
    done = run_cifar10("training", files, tmp_path, "--dataset_dir", images, "--output_dir", "out", *COMMAND)
    assert done.returncode == 0, done.stderr
    assert len(history(tmp_path / "out")) == 3
    last = torch.load(tmp_path / "kept" / "network_final_iteration=12.pt", weights_only=True)
    assert set(last) >= {"classifier.weight"} or "network" in last
    identity = json.loads((tmp_path / "out" / "tracking.json").read_text())
    params = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(identity["run_id"]).data.params
    assert (params["optimizer"], params["optimizer_lr"], params["network"]) == ("SGD", "0.01", "CascadeNet")


def test_a_handler_of_the_algorithm_that_is_left_out_is_missed(run_cifar10: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"train#handlers": []}))
    files = ("train.json", str(tmp_path / "mine.json"))
    done = run_cifar10("training", files, tmp_path, "--dataset_dir", images, "--tracking_uri", "none", *COMMAND)
    assert done.returncode != 0
    assert "train#handlers must hold a ClipGradients, got none" in done.stderr
