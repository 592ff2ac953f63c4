"""An epoch of a member of the prostate bundle against the stock recipe of MONAI, on the same studies in one run.

    python benchmarks/prostate_member.py MANIFEST [--studies 240] [--epochs 3] [--precision auto]

Stock: SupervisedTrainer and SupervisedEvaluator, CacheDataset and DataLoader, the bundle's reading and MONAI's random
transforms, float32, convolution-ReLU-pooling in torch's default memory layout. Ours: the bundle as it is, with a
checkpoint after each epoch. Both have validation on a fifth as many studies after each epoch, BCE, the bundle's grid
and batch size; reading the volumes is not part of an epoch and is told apart: `first` fills our cache, `again` finds
it, as the members after the first do. Times are wall-clock and, where the machine is shared, processor seconds.
"""

import argparse
import copy
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import CacheDataset, DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ROCAUC, ValidationHandler, from_engine
from monai.transforms import (
    CenterSpatialCropd,
    Compose,
    EnsureTyped,
    RandFlipd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
)
from torch import nn

from prostate_alm.training.member import Member

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "prostate" / "train.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--studies", type=int, default=240, help="training studies (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--precision", default="auto", help="of ours (default: %(default)s)")
    options = parser.parse_args()
    print(f"{torch.get_num_threads()} thread(s) of {len(os.sched_getaffinity(0))} cores, {options.studies} studies")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name in ("first", "again"):
            with stopwatch(f"ours, reading, {name}"):
                config = read_config(options, work / name, cache=work / "cache")
                training = config.get_parsed_content("member_training")
        cached = sum(file.stat().st_size for file in (work / "cache").rglob("*.npy"))
        print(f"cache {cached / 2**20:.0f} MiB on disk, for all members")
        with stopwatch("stock, reading"):
            stock = stock_trainer(config, config.get_parsed_content("prepared"), options.epochs)
        with stopwatch("ours, an epoch", per=options.epochs) as ours:
            training.run()
        with stopwatch("stock, an epoch", per=options.epochs) as theirs:
            stock.run()
    print(
        f"stock / ours {theirs()[0] / ours()[0]:.1f} by the wall clock, {theirs()[1] / ours()[1]:.1f} by the processor"
    )
    print(f"peak memory of both {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


@contextmanager
def stopwatch(name: str, *, per: int = 1) -> Iterator[Callable[[], tuple[float, float]]]:
    """Print what a block takes; yield what returns wall-clock and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    spent = [0.0, 0.0]
    yield lambda: (spent[0], spent[1])
    spent[:] = (time.perf_counter() - wall) / per, (time.process_time() - processor) / per
    print(f"{name:24} {spent[0]:7.2f} s ({spent[1]:6.2f} processor s)", flush=True)


def read_config(options: argparse.Namespace, output: Path, *, cache: Path) -> ConfigParser:
    config = ConfigParser(copy.deepcopy(ConfigParser.load_config_file(CONFIG)))
    own: dict[str, Any] = {
        "manifest": str(options.manifest),
        "output_dir": str(output),
        "cache_dir": str(cache),
        "tracking_uri": "none",
    }
    own |= {"alm": False, "pretrain_epochs": 0, "alm_epochs": options.epochs, "precision": options.precision}
    config.update(own)
    member: Member = config.get_parsed_content("prepared")
    del member.samples.train[options.studies :], member.samples.validation[options.studies // 5 :]
    del member.samples.test[1:], member.samples.test_extra[:]
    return config


def stock_trainer(config: ConfigParser, member: Member, epochs: int) -> SupervisedTrainer:
    reading, size = config.get_parsed_content("read_and_normalise"), config["image_size"]
    augment = [
        RandSpatialCropd("image", roi_size=size, random_size=False),
        RandFlipd("image", prob=0.5, spatial_axis=0),
        RandScaleIntensityd("image", factors=0.1, prob=0.5),
        RandShiftIntensityd("image", offsets=0.1, prob=0.5),
    ]
    typed = EnsureTyped(["image", "label"])
    train = CacheDataset(member.samples.train, Compose([*reading, *augment, typed]), progress=False)
    crop = CenterSpatialCropd("image", roi_size=size)
    validation = CacheDataset(member.samples.validation, Compose([*reading, crop, typed]), progress=False)
    network = stock_network(config)
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(validation, batch_size=8),
        network=network,
        prepare_batch=prepare_batch,
        decollate=False,
        key_val_metric={"val_auc": ROCAUC(output_transform=from_engine(["pred", "label"]))},
    )
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(train, batch_size=8, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=2e-3),
        loss_function=nn.BCEWithLogitsLoss(),
        prepare_batch=prepare_batch,
        decollate=False,
        train_handlers=[ValidationHandler(interval=1, validator=evaluator)],
    )


class StockNetwork(nn.Module):
    """The bundle's network as one would write it first."""

    def __init__(self, paths: list[int], features: list[int], pooling: list[list[int]]) -> None:
        super().__init__()
        self.channels = paths
        self.paths = nn.ModuleList()
        for channels in paths:
            layers: list[nn.Module] = []
            for before, after, window in zip([channels, *features], features, pooling, strict=False):
                layers += [nn.Conv3d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool3d(tuple(window))]
            self.paths.append(nn.Sequential(*layers, nn.AdaptiveMaxPool3d(1), nn.Flatten()))
        self.classifier = nn.Linear(len(paths) * features[-1], 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        parts = torch.split(image, self.channels, dim=1)
        features = [path(part) for path, part in zip(self.paths, parts, strict=True)]
        logits: torch.Tensor = self.classifier(torch.cat(features, dim=1))
        return logits


def stock_network(config: ConfigParser) -> StockNetwork:
    own = config["network_def"]
    return StockNetwork(config["path_channels"], own["features"], own["pooling"])


def prepare_batch(batch: Any, device: Any = None, non_blocking: bool = False, **_: Any) -> tuple[Any, Any]:
    return batch["image"].to(device), batch["label"].float()[:, None].to(device)


if __name__ == "__main__":
    main()
