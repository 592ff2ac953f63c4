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
from prostate_alm.training.handlers import KeepBest, KeepMean

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SIZES = {"ratio": 4, "train_majority": 40, "validation_majority": 20, "batch_size": 16, "alm_epochs": 3}
COMMAND = tuple(part for name, value in SIZES.items() for part in (f"--{name}", value))

LOSS = "$monai.handlers.from_engine(['loss'], first=True)"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as stream:
        return list(csv.DictReader(stream))


def cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


@pytest.mark.parametrize(
    ("overlays", "given", "first_weights", "penalty", "kept"),
    [
        ((), {}, "whitened", 0.1, KeepMean),
        ((), {"network": "@network_def", "logit_penalty": 0}, "as drawn", 0, KeepMean),
        (("federated.json",), {}, "as drawn", 0.1, KeepMean),  # the server's weights are everyone's
        (("long_tailed.json",), {}, "as drawn", 0, KeepBest),
    ],
)
def test_cifar10_begins_with_whitened_patches_keeps_logits_small_and_tests_the_mean_unless_told_otherwise(
    overlays: tuple[str, ...],
    given: dict[str, Any],
    first_weights: str,
    penalty: float,
    kept: type,
    images: Path,
    tmp_path: Path,
) -> None:
    files = [str(BUNDLES / "cifar10" / name) for name in ("train.json", *overlays)]
    sizes = {"train_images": 20, "validation_images": 10, "imbalance": 2} if "long_tailed.json" in overlays else SIZES
    common = {"output_dir": str(tmp_path / "out"), "tracking_uri": "none", "dataset_dir": str(images), **sizes}
    workflow = ConfigWorkflow(config_file=files, workflow_type="train", run_id="training", **common, **given)
    workflow.initialize()
    first = workflow.trainer.network.paths[0][0].weight
    halves = torch.cat([first[: len(first) // 2], -first[: len(first) // 2]])
    assert torch.equal(first, halves) == (first_weights == "whitened")
    assert workflow.parser.get_parsed_content("loss_function").base.weight == penalty
    assert isinstance(workflow.parser.get_parsed_content("train#handlers#5"), kept)


@pytest.mark.parametrize("bundle", ["cifar10", "prostate", "lesions"])
def test_monai_finds_sets_and_runs_what_the_bundle_describes(
    bundle: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    given = {"cifar10": "dataset_dir", "prostate": "manifest", "lesions": "manifest"}[bundle]
    fixture = {"cifar10": "images", "prostate": "cohort", "lesions": "lesion_cohort"}[bundle]
    data = {given: str(request.getfixturevalue(fixture))}
    sizes = SIZES if bundle == "cifar10" else {"cache_dir": str(tmp_path / "cache")}
    out = tmp_path / "out"
    common: dict[str, Any] = {"output_dir": str(out), "tracking_uri": "none", **data, **sizes}
    train = str(BUNDLES / bundle / "train.json")
    workflow = ConfigWorkflow(config_file=train, workflow_type="train", run_id="training", **common)
    workflow.max_epochs = 1
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.trainer.network is workflow.evaluator.network
    assert workflow.trainer.state.max_epochs == 1
    assert not out.exists()  # to look at a workflow begins no run
    workflow.run()
    assert workflow.trainer.state.epoch == 1
    assert (out / "metrics.json").is_file()

    with pytest.raises(RuntimeError) as caught:
        ConfigWorkflow(config_file=train, workflow_type="train", alm_epoch=3, **common).initialize()
    assert cause(caught.value) == ("override must be a key of the config file, got alm_epoch. Did you mean alm_epochs?")
    with pytest.raises(RuntimeError) as caught:
        ConfigWorkflow(config_file=train, workflow_type="train", **common).initialize()
    assert cause(caught.value).startswith("output_dir must be a new or empty folder, got ")

    again = ConfigWorkflow(
        config_file=str(BUNDLES / bundle / "evaluate.json"), workflow_type="eval", output_dir=str(out), **data
    )
    again.initialize()
    assert again.check_properties() == []
    again.run()
    figures = json.loads((out / "metrics.json").read_text())
    assert again.evaluator.state.metrics["val_auc"] == pytest.approx(figures["test"]["auc"])
    assert again.evaluator.state.output["sigmoid"].sigmoid().shape == again.evaluator.state.output["pred"].shape
    again.dataset_data = again.dataset_data[:1]
    again.initialize()
    assert len(again.dataset) == 1


@pytest.mark.slow
def test_the_trainer_alone_trains_as_tools_of_monai_start_it(images: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(BUNDLES / "cifar10" / "train.json"),
        workflow_type="train",
        dataset_dir=str(images),
        output_dir=str(tmp_path / "out"),
        **SIZES,
    )
    workflow.initialize()
    workflow.run()
    assert workflow.trainer.state.epoch == SIZES["alm_epochs"]
    assert (tmp_path / "out" / "checkpoint.pt").is_file()
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_an_overlay_adds_handlers_a_schedule_and_another_optimizer(
    run_cifar10: Run, images: Path, tmp_path: Path
) -> None:
    overlay: dict[str, Any] = {
        "+imports": ["$import torch"],
        "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network_def.parameters()", "lr": 0.01},
        "falling": {"_target_": "torch.optim.lr_scheduler.StepLR", "optimizer": "@optimizer", "step_size": 1},
        "+train#handlers": [
            {"_target_": "StatsHandler", "tag_name": "my loss", "output_transform": LOSS},
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
    assert params["optimizer_def._target_"] == "torch.optim.SGD"
    files = json.loads((tmp_path / "out" / "config.json").read_text())["config_files"]
    assert set(files) == {"train.json", "mine.json"}
    assert params["config_files.mine.json"] == files["mine.json"]


def test_a_handler_of_the_algorithm_that_is_left_out_is_missed(run_cifar10: Run, images: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps({"train#handlers": []}))
    files = ("train.json", str(tmp_path / "mine.json"))
    done = run_cifar10("training", files, tmp_path, "--dataset_dir", images, "--tracking_uri", "none", *COMMAND)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "train#handlers must hold a ClipGradients, got none" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()
