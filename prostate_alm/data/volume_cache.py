"""Volumes that are read and normalised once for all members: images on disk that processes share."""

import copy
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, overload

import monai
import numpy as np
import torch
from filelock import FileLock
from monai.data.utils import pickle_hashing
from monai.transforms import Compose
from numpy.typing import NDArray

from prostate_alm.data.tensors import random_transforms
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import replacing

_KEY_LENGTH = 24  # hexadecimal digits: 96 bits, so that two contents never share a name


def require_fixed(transforms: Sequence[Callable[..., Any]]) -> None:
    """Check that no transform before the cache is random: it would be drawn once, for training and test alike.

    Raises:
        ValueError: one is.
    """
    for name in random_transforms(transforms):
        raise ValueError(
            f"read_and_normalise must hold transforms that are not random, got {name}: its result would be kept on "
            "disk for training and test alike. Augment in `augment`, batch by batch, or in a DataLoader."
        )


class VolumeCache:
    """Images of studies as the transforms of a bundle make them, each made once and kept as a file.

    `folder/<transforms>/<volumes>.npy` holds the image of a study; both names are hashes, of the transforms with the
    version of MONAI, and of the manifest's checksums of the volumes. So other transforms or other volumes never find a
    file that is not theirs, and cohorts and members that have studies in common share them. Files of transforms that
    are no longer used may be deleted at any time.

    A file is written under another name and renamed: it is whole or absent. Processes that start at once take turns,
    and the later ones find what the first has made.

    Args:
        folder: made when absent.
        transforms: from a sample of `cohort_member.sample_of` to one with `image`; none of them is random, and none was
            used before, since what it remembers of that would make it another transform.
        progress: called after each image that is made.

    Raises:
        ValueError: a transform is random.
    """

    def __init__(self, folder: Path, transforms: Sequence[Callable[..., Any]], *, progress: Progress = silent) -> None:
        require_fixed(transforms)
        digest = hashlib.sha256(pickle_hashing(list(transforms)) + monai.__version__.encode())
        self.folder = Path(folder) / digest.hexdigest()[:_KEY_LENGTH]
        self._transform = Compose(copy.deepcopy(list(transforms)))  # so that those of the caller stay unused
        self._progress = progress

    def images(self, samples: Sequence[dict[str, Any]]) -> "CachedImages":
        """Return samples with their `image` (C, ...), memory-mapped; what is not in the cache is made first.

        Args:
            samples: each with `volumes_sha256`, `label`, `sample_id` and what the transforms need.

        Returns:
            Samples of `image` (a tensor that must not be written to), `label` and `sample_id`. A file is mapped when
            its sample is asked for, and for as long as somebody has the image: a cohort need not fit into memory.

        Raises:
            OSError: the folder cannot be written.
        """
        missing = [sample for sample in samples if self._read(sample) is None]
        if missing:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                self._make(missing)
        return CachedImages(self, samples)

    def path(self, sample: dict[str, Any]) -> Path:
        """Return where the image of a sample lies, or will lie."""
        key = hashlib.sha256("\n".join(sample["volumes_sha256"]).encode()).hexdigest()
        return self.folder / f"{key[:_KEY_LENGTH]}.npy"

    def _make(self, samples: Sequence[dict[str, Any]]) -> None:
        for done, sample in enumerate(samples, start=1):
            if self._read(sample) is None:  # another process may have made it while this one waited
                made: dict[str, Any] = self._transform(sample)
                _write(self.path(sample), np.asarray(made["image"]))
            self._progress(done, len(samples))

    def _read(self, sample: dict[str, Any]) -> NDArray[Any] | None:
        """Return the image, None when it is absent or what a full disk left of it."""
        try:
            image: NDArray[Any] = np.load(self.path(sample), mmap_mode="c")  # private: torch warns of read-only ones
            return image
        except (FileNotFoundError, ValueError, EOFError):
            return None

    def sample(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a sample with its image, which is in the cache; see `images`.

        Raises:
            OSError: it is not.
        """
        image = self._read(sample)
        if image is None:
            raise OSError(f"image must be in the cache, got none at {self.path(sample)}. Do not delete it meanwhile.")
        return {"image": torch.from_numpy(image), "label": sample["label"], "sample_id": sample["sample_id"]}


class CachedImages(Sequence[dict[str, Any]]):
    """The samples of `VolumeCache.images`."""

    def __init__(self, cache: VolumeCache, samples: Sequence[dict[str, Any]]) -> None:
        self._cache, self._samples = cache, samples

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "CachedImages": ...
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | CachedImages":
        if isinstance(index, slice):
            return CachedImages(self._cache, self._samples[index])
        return self._cache.sample(self._samples[index])


def _write(path: Path, image: NDArray[Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as stream:  # a stream: np.save adds .npy to names
        np.save(stream, image)
