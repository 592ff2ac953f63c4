"""A member of the CIFAR-10 bundle: its settings, and the images of two classes that it draws for itself."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from pydantic import Field, field_validator

from prostate_alm.data.cifar10 import ImageSet, class_number, locate_cifar10, read_classes
from prostate_alm.data.cifar10_draws import draw_member, draw_test, sample_ids
from prostate_alm.progress import progress_bar
from prostate_alm.training.member import Member, open_trained, prepare
from prostate_alm.training.settings import Sample, Samples, Settings

DOWNLOAD_FOLDER = Path("data")
IMAGE_SIZE_PX = (32, 32)
PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".bmp")


class ImageSettings(Settings):
    """Settings of a member that is trained on images of CIFAR-10."""

    bundle: ClassVar[str] = "cifar10"
    not_in_config: ClassVar[frozenset[str]] = Settings.not_in_config | {
        "dataset_dir"
    }  # the images are known by their content

    dataset_dir: Path | None


class Cifar10Settings(ImageSettings):
    """Settings of a member that tells two classes of CIFAR-10 apart; the minority is the positive class.

    There are `ratio` images of the majority for one of the minority, in training, validation and test.
    """

    majority: int
    minority: int
    ratio: float = Field(gt=0, allow_inf_nan=False)
    train_majority: int = Field(ge=1)
    validation_majority: int = Field(ge=1)

    @field_validator("majority", "minority", mode="before")
    @classmethod
    def _class_by_name_or_number(cls, value: int | str) -> int:
        return class_number(value)

    @property
    def experiment_name(self) -> str:
        """Name of the experiment in MLflow and of its folder of ensembles."""
        return f"cifar10-{self.majority}-{self.minority}"

    @property
    def data_name(self) -> str:
        """The class ratio."""
        return f"1-{self.ratio:g}"

    def read_samples(self) -> Samples:
        """Return the images: training and validation drawn by the member, the test set the same for all.

        Raises:
            ValueError: the files cannot be used, or the classes hold too few images for the ratio.
        """
        folder = locate_cifar10(self.dataset_dir, download_dir=DOWNLOAD_FOLDER, progress=progress_bar)
        majority, minority, ratio = self.majority, self.minority, self.ratio
        data = read_classes(folder, (majority, minority))
        train, validation = draw_member(
            data.train.classes,
            majority=majority,
            minority=minority,
            ratio=ratio,
            seed=self.seed,
            member=self.member,
            majority_images=(self.train_majority, self.validation_majority),
        )
        test, extra = draw_test(data.test.classes, majority=majority, minority=minority, ratio=ratio)
        splits = [("train", data.train, train), ("train", data.train, validation)]
        splits += [("test", data.test, test), ("test", data.test, extra)]
        first, second, third, fourth = (_samples(name, part, rows, positive=minority) for name, part, rows in splits)
        digest = digest_of(sample for part in (first, second, third, fourth) for sample in part)
        return Samples(first, second, third, fourth, identity={"data_sha256": digest})


def prepare_member(settings: ImageSettings) -> Member:
    """Prepare a member of the CIFAR-10 bundle: see `member.prepare`."""
    return prepare(settings)


def open_member(**places: Any) -> Member:
    """Open a trained member of the CIFAR-10 bundle to evaluate it again: see `member.open_trained`."""
    return open_trained(Cifar10Settings, **places)


def photographs_in(folder: str | None) -> list[dict[str, str]]:
    """Return the photographs of a folder by name: `image`, the file, and `filename_or_obj`, what a table calls it.

    Raises:
        ValueError: there is no such folder, no photograph in it, or one that is not of 32 x 32 pixels.
    """
    if folder is None or not Path(folder).is_dir():
        raise ValueError(f"dataset_dir must be a folder of photographs, got {folder}. Give --dataset_dir FOLDER")
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in PHOTOGRAPHS)
    if not paths:
        raise ValueError(
            f"dataset_dir must hold photographs ({', '.join(PHOTOGRAPHS)}), got none in {folder}. Give another folder."
        )
    for path in paths:
        _require_size(path)
    return [{"image": str(path), "filename_or_obj": path.name} for path in paths]


def _require_size(path: Path) -> None:
    try:
        with Image.open(path) as image:
            size = image.size
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"photograph must be readable, got {path.name} in {path.parent}. Take it away.") from error
    if size != IMAGE_SIZE_PX:
        raise ValueError(
            f"photograph must have 32 x 32 pixels, as those that the network was trained on, got {size[0]} x {size[1]} "
            f"in {path}. Scale it."
        )


def new_table(path: str | None) -> str:
    """Return the name of a table that is to be written.

    Raises:
        ValueError: there is none, or it exists.
    """
    if path is None or Path(path).exists():
        raise ValueError(f"table must be a new file, got {path}. Give for example --table answers.csv")
    return path


def _samples(name: str, images: ImageSet, rows: np.ndarray, *, positive: int) -> list[Sample]:
    ids = sample_ids(name, images.numbers[rows])
    return [
        {"image": torch.from_numpy(images.images[row]), "label": int(images.classes[row] == positive), "sample_id": key}
        for row, key in zip(rows, ids, strict=True)
    ]


def digest_of(samples: Iterable[Sample]) -> str:
    """Return the SHA-256 of all images of a member: another copy of the data set shows."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample["image"].numpy().tobytes())
    return digest.hexdigest()
