"""One member of the CIFAR-10 bundle against the stock recipe of MONAI, and against its former recipe, on one core.

    OMP_NUM_THREADS=1 python benchmarks/cifar10_member.py DATASET_DIR [--epochs 50] [--repeats 2]

Stock: SupervisedTrainer and SupervisedEvaluator, CacheDataset and DataLoader, float32, convolution-ReLU-pooling in
torch's default memory layout, RandFlipd, MLFlowHandler with its defaults on an SQLite store. Ours: the bundle as it is,
with a validation and a checkpoint after each epoch and MLflow on an SQLite store. Both train the same number of epochs
of the same images at 1:2 with BCE alone. Former: the bundle without the whitened first layer, twice as many epochs. All
are timed in turn in one process, on stores made before. Prints seconds, ratios and peak memory.
"""

import argparse
import copy
import resource
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ROCAUC, MLFlowHandler, ValidationHandler, from_engine
from monai.transforms import Compose, EnsureTyped, RandFlipd, ScaleIntensityRanged
from torch import nn

from prostate_alm import tracking
from prostate_alm.training.member import Member, run_member

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "cifar10" / "train.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--epochs", type=int, default=50, help="epochs of a member (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="times that both are run (default: %(default)s)")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} thread(s), {options.epochs} epochs of 450 images, validation on 150 each epoch")
    for _ in range(options.repeats):
        ours_s, ours_mb = timed(train_bundle, options.dataset_dir, options.epochs)
        former_s, _ = timed(partial(train_bundle, network="@network_def"), options.dataset_dir, 2 * options.epochs)
        stock_s, stock_mb = timed(train_stock, options.dataset_dir, options.epochs)
        print(f"ours {ours_s:6.1f} s ({ours_mb:4.0f} MB)   stock {stock_s:6.1f} s ({stock_mb:4.0f} MB)", end="   ")
        print(
            f"former {former_s:6.1f} s   stock / ours {stock_s / ours_s:5.1f}   ours / former {ours_s / former_s:4.2f}"
        )


def timed(train: Any, dataset_dir: Path, epochs: int) -> tuple[float, float]:
    """Return seconds, and the peak memory of this process so far in MB."""
    with tempfile.TemporaryDirectory() as folder:
        tracking.prepare_store(f"sqlite:///{folder}/mlflow.db", "cifar10-0-1")
        start = time.perf_counter()
        train(dataset_dir, epochs, Path(folder))
        seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_config(dataset_dir: Path, epochs: int, folder: Path) -> ConfigParser:
    config = ConfigParser(copy.deepcopy(ConfigParser.load_config_file(CONFIG)))
    uri = f"sqlite:///{folder}/mlflow.db"
    config.update(
        {"dataset_dir": str(dataset_dir), "output_dir": str(folder / "out"), "tracking_uri": uri, "alm": False}
    )
    config.update({"pretrain_epochs": 0, "alm_epochs": epochs})
    return config


def train_bundle(dataset_dir: Path, epochs: int, folder: Path, *, network: str | None = None) -> None:
    config = read_config(dataset_dir, epochs, folder)
    if network is not None:
        config["network"] = network
    run_member(config.get_parsed_content("prepared"), config.get_parsed_content("member_training"))


def train_stock(dataset_dir: Path, epochs: int, folder: Path) -> None:
    config = read_config(dataset_dir, epochs, folder)
    member: Member = config.get_parsed_content("prepared")
    features = config.get("network_def")["features"]
    network = stock_network(features)
    scale = ScaleIntensityRanged("image", 0, 255, -2, 2)
    augment = [RandFlipd("image", prob=0.5, spatial_axis=1), EnsureTyped(["image", "label"])]
    train = CacheDataset(member.samples.train, Compose([scale, *augment]), progress=False)
    validation = CacheDataset(
        member.samples.validation, Compose([scale, EnsureTyped(["image", "label"])]), progress=False
    )
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(validation, batch_size=64),
        network=network,
        prepare_batch=prepare_batch,
        decollate=False,
        key_val_metric={"val_auc": ROCAUC(output_transform=from_engine(["pred", "label"]))},
    )
    logging = MLFlowHandler(f"sqlite:///{folder}/mlflow.db", output_transform=lambda output: {"loss": output["loss"]})
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(train, batch_size=64, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=2e-3),
        loss_function=nn.BCEWithLogitsLoss(),
        prepare_batch=prepare_batch,
        decollate=False,
        train_handlers=[ValidationHandler(interval=1, validator=evaluator), logging],
    )
    trainer.run()
    logging.close()


def stock_network(features: list[int]) -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in zip([3, *features], features, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(features[-1], 1))


def prepare_batch(batch: Any, device: Any = None, non_blocking: bool = False, **_: Any) -> tuple[Any, Any]:
    return batch["image"].to(device), batch["label"].float()[:, None].to(device)


if __name__ == "__main__":
    main()
