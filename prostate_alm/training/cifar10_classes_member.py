"""A member of the CIFAR-10 bundle that tells all ten classes apart, some of them critical: its settings and images."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import nn

from prostate_alm.data.cifar10 import CLASS_NAMES, ImageSet, class_number, locate_cifar10, read_cifar10
from prostate_alm.data.cifar10_draws import class_sizes, draw_classes, sample_ids
from prostate_alm.method.class_losses import CLASS_LOSSES, make_class_loss
from prostate_alm.method.class_metrics import require_critical
from prostate_alm.progress import progress_bar
from prostate_alm.training.cifar10_member import DOWNLOAD_FOLDER, ImageSettings, digest_of
from prostate_alm.training.member import Member, open_trained
from prostate_alm.training.settings import Sample, Samples


class Cifar10ClassesSettings(ImageSettings):
    """Settings of a member that tells the ten classes of CIFAR-10 apart.

    `critical` names one class or several, the gravest first where `ordered`. The classes are `long_tailed`
    (CIFAR-10-LT), or the critical ones are `rare` among full ones; `imbalance` is that of the largest class to the
    smallest, in training and in validation. The test set has all 10 000 images.
    """

    losses: ClassVar[Mapping[str, Any]] = CLASS_LOSSES

    critical: tuple[int, ...]
    ordered: bool
    profile: Literal["long_tailed", "rare"]
    imbalance: float = Field(ge=1, allow_inf_nan=False)
    train_images: int = Field(ge=1)
    validation_images: int = Field(ge=1)

    @field_validator("critical", mode="before")
    @classmethod
    def _classes_by_name_or_number(cls, value: Any) -> tuple[int, ...]:
        given = value if isinstance(value, list | tuple) else [value]
        try:
            return require_critical([class_number(one) for one in given], classes=len(CLASS_NAMES))
        except ValueError as error:
            raise ValueError("one class or several different ones of CIFAR-10, by name or number, not all") from error

    @property
    def classes(self) -> int:
        """Ten."""
        return len(CLASS_NAMES)

    @property
    def outputs(self) -> int:
        """A logit for each class."""
        return self.classes

    @property
    def experiment_name(self) -> str:
        """Name of the experiment in MLflow and of its folder of ensembles."""
        order = "-ordered" if self.ordered and len(self.critical) > 1 else ""
        return f"cifar10-critical-{'-'.join(map(str, self.critical))}{order}"

    @property
    def data_name(self) -> str:
        """Profile and imbalance of the classes."""
        return f"{self.profile}-1-{self.imbalance:g}"

    def loss_named(self, name: str, parameters: Mapping[str, Any]) -> nn.Module:
        """Return a base loss of ten classes by its name."""
        return make_class_loss(name, classes=self.classes, **parameters)

    def read_samples(self) -> Samples:
        """Return the images: training and validation drawn by the member, the test set the same for all.

        Raises:
            ValueError: the files cannot be used, or a class holds too few images.
        """
        folder = locate_cifar10(self.dataset_dir, download_dir=DOWNLOAD_FOLDER, progress=progress_bar)
        rare = self.critical if self.profile == "rare" else None
        sizes, kept = (
            class_sizes(largest, self.imbalance, rare=rare) for largest in (self.train_images, self.validation_images)
        )
        data = read_cifar10(folder)
        drawn = draw_classes(data.train.classes, train=sizes, validation=kept, seed=self.seed, member=self.member)
        splits = [("train", data.train, rows) for rows in drawn]
        splits.append(("test", data.test, np.arange(len(data.test.classes))))
        train, validation, test = (_samples(name, images, rows) for name, images, rows in splits)
        identity = {"data_sha256": digest_of(sample for part in (train, validation, test) for sample in part)}
        return Samples(train, validation, test, [], identity=identity)


def open_member(**places: Any) -> Member:
    """Open a trained member of ten classes to evaluate it again: see `member.open_trained`."""
    return open_trained(Cifar10ClassesSettings, **places)


def _samples(name: str, images: ImageSet, rows: np.ndarray) -> list[Sample]:
    keys = sample_ids(name, images.numbers[rows])
    return [
        {"image": torch.from_numpy(images.images[row]), "label": int(images.classes[row]), "sample_id": key}
        for row, key in zip(rows, keys, strict=True)
    ]
