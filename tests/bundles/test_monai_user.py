"""What a user of MONAI tries on a bundle, each with the real thing: data sets, handlers, networks, tracking, verbs."""

import contextlib
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import monai.bundle
import onnxruntime
import pytest
import torch
from ignite.engine import Events
from mlflow import MlflowClient
from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.delivery import package

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
CIFAR10 = BUNDLES / "cifar10"
SCHEMA = Path(package.__file__).with_name("bundle_metadata.schema.json")
SIZES = {"ratio": 4, "train_majority": 40, "validation_majority": 20, "batch_size": 16, "alm_epochs": 2}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:parsing config_file"),
    pytest.mark.filterwarnings("ignore:.*terminating due to exception"),
    pytest.mark.filterwarnings("ignore:No hash value provided"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

RANDOM = [
    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -2, "b_max": 2},
    {"_target_": "RandGaussianNoised", "keys": "image", "prob": 1.0, "std": 0.1},
    {"_target_": "EnsureTyped", "keys": "image", "track_meta": False},
]


def loaded(dataset: dict[str, Any], **dataloader: Any) -> dict[str, Any]:
    """Return an overlay that has MONAI read and augment the training images."""
    data = {"data": "$@prepared.samples.train", "transform": {"_target_": "Compose", "transforms": RANDOM}}
    batches = dataloader or {"batch_sampler": "@sampler"}
    return {
        "train#dataset": dataset | data,
        "train#dataloader": {"_target_": "monai.data.DataLoader", "dataset": "@train#dataset", **batches},
    }


def network(target: str, **arguments: Any) -> dict[str, Any]:
    return {"network_def": {"_target_": f"monai.networks.nets.{target}", "spatial_dims": 2, **arguments}}


def handlers(*added: dict[str, Any]) -> dict[str, Any]:
    return {"+train#handlers": list(added)}


LOSS = "$monai.handlers.from_engine(['loss'], first=True)"
EARLY = {"_target_": "EarlyStopHandler", "patience": 1, "score_function": "$lambda engine: 0.0"}
OVERLAYS: dict[str, dict[str, Any]] = {
    "CacheDataset": loaded({"_target_": "monai.data.CacheDataset", "progress": False}),
    "PersistentDataset": loaded({"_target_": "monai.data.PersistentDataset", "cache_dir": "kept"}),
    "SmartCacheDataset": loaded(
        {"_target_": "monai.data.SmartCacheDataset", "replace_rate": 0.5, "cache_num": 40, "progress": False},
        batch_size=16,
        shuffle=True,
    )
    | handlers({"_target_": "SmartCacheHandler", "smartcacher": "@train#dataset"}),
    "EarlyStopHandler": handlers(EARLY) | {"+initialize": ["$@train#handlers#11.set_trainer(@train#trainer)"]},
    "TensorBoardStatsHandler": handlers(
        {"_target_": "TensorBoardStatsHandler", "log_dir": "board", "output_transform": LOSS}
    ),
    "handler of the validation": {
        "+validate#handlers": [{"_target_": "StatsHandler", "tag_name": "mine", "output_transform": "$lambda _: None"}]
    },
    "DenseNet": network("DenseNet", in_channels=3, out_channels=1, init_features=8, growth_rate=4, block_config=[1, 1]),
    "resnet10": network("resnet10", n_input_channels=3, num_classes=1),
    "EfficientNetBN": network(
        "EfficientNetBN", model_name="efficientnet-b0", in_channels=3, num_classes=1, pretrained=False
    ),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    mlflow.set_tracking_uri(None)  # what MONAI's tracking sets goes into the environment, which later tests hand on
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def workflow(images: Path, overlay: dict[str, Any] | None = None, **more: Any) -> ConfigWorkflow:
    """Return the training of the CIFAR-10 bundle with an overlay, as a user's Python code makes it."""
    files = [str(CIFAR10 / "train.json")]
    if overlay is not None:
        Path("mine.json").write_text(json.dumps(overlay))
        files.append("mine.json")
    given: dict[str, Any] = {"output_dir": "out", "tracking_uri": "none", "dataset_dir": str(images), **SIZES}
    return ConfigWorkflow(config_file=files, workflow_type="train", run_id="training", **given | more)


def run(one: ConfigWorkflow) -> ConfigWorkflow:
    one.initialize()
    one.run()
    return one


def history(folder: str = "out") -> list[dict[str, str]]:
    with Path(folder, "history.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_trains(name: str, images: Path) -> None:
    if name == "TensorBoardStatsHandler":
        pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    trained = run(workflow(images, OVERLAYS[name]))
    assert json.loads(Path("out", "metrics.json").read_text())["test"]["positives"] == 15
    assert len(history()) == 2
    described = json.loads(Path("out", "config.json").read_text())["described"]
    assert described["network_def"]["_target_"] == trained.parser["network_def"]["_target_"]


def test_noise_is_drawn_anew_each_epoch_and_a_resumed_run_draws_the_same(images: Path) -> None:
    overlay = OVERLAYS["CacheDataset"]
    seen: list[torch.Tensor] = []
    whole = workflow(images, overlay, output_dir="whole")
    whole.initialize()
    whole.trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: seen.append(engine.state.batch["image"].clone())
    )
    whole.run()
    assert not torch.equal(seen[0][:5], seen[1][:5])

    class Killed(Exception):
        """Stands for the end of the process."""

    def kill(_: Any) -> None:
        raise Killed

    killed = workflow(images, overlay, output_dir="killed")
    killed.initialize()
    killed.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), kill)
    with contextlib.suppress(RuntimeError):  # MONAI's, from Killed
        killed.run()
    run(workflow(images, overlay, output_dir="killed", resume=True))
    for file in ("history.csv", "predictions.csv"):
        assert Path("killed", file).read_bytes() == Path("whole", file).read_bytes()


def test_noise_in_a_data_set_that_is_read_once_is_refused(images: Path) -> None:
    overlay = {"train#dataset": OVERLAYS["CacheDataset"]["train#dataset"]}
    started = workflow(images, overlay)
    started.initialize()
    with pytest.raises(RuntimeError) as caught:
        started.run()
    cause: BaseException = caught.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert str(cause).startswith("samples of a TensorLoader must have transforms that are not random, got RandGaussian")
    assert not Path("out").exists()


@pytest.mark.parametrize("given", [{}, {"output_dir": "out"}])
def test_tracking_of_monai_beside_ours(images: Path, given: dict[str, str]) -> None:
    options: dict[str, Any] = {"tracking_uri": "sqlite:///both.db", **SIZES, **given}
    run(
        ConfigWorkflow(
            config_file=str(CIFAR10 / "train.json"),
            workflow_type="train",
            run_id="training",
            tracking="mlflow",
            dataset_dir=str(images),
            **options,
        )
    )
    folder = Path(given.get("output_dir", "outputs/cifar10/run-001"))
    assert (folder / "metrics.json").is_file()
    client = MlflowClient("sqlite:///both.db")
    names = {one.name for one in client.search_experiments()}
    assert names >= {"monai_experiment", "cifar10-0-1"}


def test_a_logging_file_of_the_user(images: Path) -> None:
    Path("mine.conf").write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=file\n[formatters]\nkeys=\n[logger_root]\nlevel=INFO\nhandlers=file\n"
        "[handler_file]\nclass=FileHandler\nlevel=INFO\nargs=('mine.log',)\n"
    )
    run(workflow(images, logging_file="mine.conf"))
    assert "alm epoch 2/2: validation AUC" in Path("mine.log").read_text()


@pytest.fixture(scope="module")
def member(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of a trained member."""
    folder, before = tmp_path_factory.mktemp("member"), Path.cwd()
    os.chdir(folder)
    run(workflow(images))
    os.chdir(before)
    return folder / "out"


def test_the_verbs_of_monai_on_the_source_bundle(member: Path) -> None:
    meta, config = str(CIFAR10 / "metadata.json"), str(CIFAR10 / "train.json")
    schema = json.loads(SCHEMA.read_text())
    schema["required"].remove("prostate_alm")  # the card of a packed model
    schema["properties"]["intended_use"] = {"type": "string"}
    Path("schema.json").write_text(json.dumps(schema))
    monai.bundle.verify_metadata(meta_file=meta, filepath="schema.json")
    monai.bundle.verify_net_in_out("network_def", meta_file=meta, config_file=config, device="cpu")
    given = {"meta_file": meta, "config_file": config, "ckpt_file": str(member / "model.pt")}
    monai.bundle.ckpt_export("network_def", filepath="net.ts", input_shape=[1, 3, 32, 32], **given)
    monai.bundle.onnx_export("network_def", filepath="net.onnx", input_shape=[1, 3, 32, 32], **given)
    network = ConfigParser(ConfigParser.load_config_file(config)).get_parsed_content("network_def")
    network.load_state_dict(torch.load(member / "model.pt", weights_only=True))
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network.eval()(image)
        torch.testing.assert_close(torch.jit.load("net.ts")(image), expected, atol=1e-5, rtol=0)
    session = onnxruntime.InferenceSession("net.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=0)


def test_a_workflow_made_and_run_by_the_functions_of_monai(images: Path) -> None:
    given: dict[str, Any] = {"tracking_uri": "none", "dataset_dir": str(images), **SIZES}
    config = str(CIFAR10 / "train.json")
    made = create_workflow(config_file=config, workflow_type="train", run_id="training", output_dir="made", **given)
    made.run()
    monai.bundle.run_workflow(
        "monai.bundle.ConfigWorkflow", config_file=config, run_id="training", output_dir="workflow", **given
    )
    monai.bundle.run(run_id="training", config_file=config, output_dir="run", **given)
    results = [Path(folder, "predictions.csv").read_bytes() for folder in ("made", "workflow", "run")]
    assert results[0] == results[1] == results[2]
