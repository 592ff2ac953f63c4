"""CIFAR-10 in its binary layout: where it is, how it is read, and a stand-in of the same layout.

The layout is that of the authors' `cifar-10-binary.tar.gz`: six files of records, a record being one byte of label and
3072 bytes of pixels (red, green and blue plane, row by row). Nothing in it is executed, unlike a pickle.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prostate_alm.data.download import Archive, DownloadError, ensure_folder
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import sha256_of_file, write_bytes_atomically

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
ENVIRONMENT_VARIABLE = "CIFAR10_DIR"
OFFICIAL_ARCHIVE = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    size_bytes=170_052_171,
    md5="c32a1d4ab5d03f1284b67883e8d87530",  # as the authors' page gives it
)

_TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
_TEST_FILE = "test_batch.bin"
_FILES = (*_TRAIN_FILES, _TEST_FILE)
_IMAGE_SHAPE = (3, 32, 32)
_IMAGE_BYTES = 3 * 32 * 32
_RECORD_BYTES = 1 + _IMAGE_BYTES
_OFFICIAL_FILE_BYTES = 10_000 * _RECORD_BYTES
_BY_HAND = (
    f"Get {OFFICIAL_ARCHIVE.name} (the binary version) from {OFFICIAL_ARCHIVE.url}, unpack it, and name its folder "
    f"{FOLDER} with --dataset_dir or in {ENVIRONMENT_VARIABLE}."
)


class Cifar10Error(ValueError):
    """A data set, class or draw that cannot be used; the message is one line that says what to do."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one of the two splits, in the order of the files.

    Attributes:
        images: (N, 3, 32, 32), red, green, blue, 0..255.
        classes: (N,), 0..9, see `CLASS_NAMES`.
        numbers: (N,), the record's number in its split, from 0, counted over the files; it names an image for good,
            whatever other classes are read along.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.int64]
    numbers: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cifar10:
    """The two splits as the authors made them."""

    train: ImageSet
    test: ImageSet


def class_number(name_or_number: str | int) -> int:
    """Return the number of a class.

    Raises:
        Cifar10Error: there is no such class.

    >>> class_number("automobile"), class_number("1"), class_number(1)
    (1, 1, 1)
    """
    text = str(name_or_number).strip().lower()
    for number, name in enumerate(CLASS_NAMES):
        if text in (name, str(number)):
            return number
    raise Cifar10Error(
        f"class must be a name or a number from 0 to 9 of CIFAR-10, got {name_or_number!r}. "
        f"Available: {list(CLASS_NAMES)}"
    )


def locate_cifar10(
    dataset_dir: Path | None, *, download_dir: Path, progress: Callable[[str], Progress] = lambda _: silent
) -> Path:
    """Return the folder that holds `data_batch_1.bin` and the other five.

    It is looked for in `dataset_dir`, else in the environment variable CIFAR10_DIR, else in `download_dir`, where it is
    made from the official archive unless it is there. A given folder is that of the files or its parent.

    Args:
        dataset_dir: folder given by the user, or None.
        download_dir: receives the archive (170 MB) and the unpacked folder (184 MB). Call this once before several
            processes start: they would wait for each other.
        progress: name of the work -> what is called with (megabytes done, megabytes in all), e.g. `progress_bar`.

    Raises:
        Cifar10Error: a given folder lacks a file, or the download failed; the message says how to get the files.
    """
    if dataset_dir is not None:
        return _require_files(dataset_dir, "dataset_dir")
    variable = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if variable:
        return _require_files(Path(variable), ENVIRONMENT_VARIABLE)
    try:
        ensure_folder(OFFICIAL_ARCHIVE, download_dir / FOLDER, progress=progress)
    except DownloadError as error:
        raise Cifar10Error(f"{error} Or by hand: {_BY_HAND}") from error
    return _require_files(download_dir / FOLDER, "the downloaded folder")


def _require_files(given: Path, where: str) -> Path:
    for folder in (given, given / FOLDER):
        missing = [name for name in _FILES if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(_FILES):
            raise Cifar10Error(f"CIFAR-10 must have six .bin files, got no {missing[0]} in {folder}. {_BY_HAND}")
    raise Cifar10Error(f"{where} must be the folder {FOLDER} or its parent, got no {_FILES[0]} in {given}. {_BY_HAND}")


def read_cifar10(folder: Path) -> Cifar10:
    """Read all images: 60 000 of the official files take 184 MB.

    Args:
        folder: the folder of the six files, see `locate_cifar10`.

    Raises:
        Cifar10Error: a file is missing, truncated or not of this layout.
    """
    return read_classes(folder, range(len(CLASS_NAMES)))


def read_classes(folder: Path, classes: Sequence[int | str]) -> Cifar10:
    """Read the images of some classes only; no more than one file and the result are in memory at a time.

    Args:
        folder: the folder of the six files, see `locate_cifar10`.
        classes: names or numbers; their order and repeats do not matter.

    Raises:
        Cifar10Error: a class is unknown, or a file is missing, truncated or not of this layout.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pair = read_classes(write_stand_in(Path(folder), images_per_class=4), ["airplane", "automobile"])
    >>> pair.train.images.shape, sorted(pair.test.classes.tolist())
    ((8, 3, 32, 32), [0, 0, 0, 0, 1, 1, 1, 1])
    """
    wanted = np.unique([class_number(name) for name in classes])
    folder = _require_files(folder, "folder")
    try:
        sizes = {name: (folder / name).stat().st_size for name in _FILES}
        _require_whole_files(folder, sizes)
        train, test = (
            _read_split([folder / name for name in names], sum(sizes[name] for name in names), wanted)
            for names in (_TRAIN_FILES, (_TEST_FILE,))
        )
    except OSError as error:
        raise Cifar10Error(
            f"CIFAR-10 must be readable, got {error.strerror} in {error.filename}. {_BY_HAND}"
        ) from error
    return Cifar10(train, test)


def _require_whole_files(folder: Path, sizes: dict[str, int]) -> None:
    """Refuse partial records, and batches that are shorter than the others: those were cut between two records."""
    longest = max(sizes[name] for name in _TRAIN_FILES)
    for name, size in sizes.items():
        path = folder / name
        if size == 0 or size % _RECORD_BYTES:
            raise _file_error(path, f"hold whole records of {_RECORD_BYTES} bytes", f"{size} bytes")
        batch = name in _TRAIN_FILES
        if (batch or longest == _OFFICIAL_FILE_BYTES) and size != longest:
            raise _file_error(path, f"be as long as the longest training batch, {longest} bytes", f"{size} bytes")


def _file_error(path: Path, rule: str, value: str) -> Cifar10Error:
    size = path.stat().st_size
    return Cifar10Error(
        f"{path.name} must {rule}, got {value} in {path} (size {size} bytes, SHA-256 {sha256_of_file(path)}; official "
        f"files have {_OFFICIAL_FILE_BYTES} bytes). Restore it, or delete its folder if it was downloaded. {_BY_HAND}"
    )


def _read_split(paths: Sequence[Path], size_bytes: int, wanted: NDArray[np.int64]) -> ImageSet:
    images = np.empty((size_bytes // _RECORD_BYTES, _IMAGE_BYTES), np.uint8)  # pages that stay empty take no memory
    classes, numbers = [], []
    first = filled = 0
    for path in paths:
        records = np.fromfile(path, np.uint8).reshape(-1, _RECORD_BYTES)
        labels = records[:, 0].astype(np.int64)
        if labels.max() >= len(CLASS_NAMES):
            row = int(labels.argmax())
            raise _file_error(path, "hold labels from 0 to 9", f"{labels[row]} in record {row}")
        rows = np.flatnonzero(np.isin(labels, wanted))
        images[filled : filled + len(rows)] = records[rows, 1:]
        classes.append(labels[rows])
        numbers.append(first + rows)
        first, filled = first + len(records), filled + len(rows)
    images.resize((filled, *_IMAGE_SHAPE), refcheck=False)  # in place: gives the rest back without a copy
    return ImageSet(images, np.concatenate(classes), np.concatenate(numbers))


_CLUTTER = (
    0.6  # weight of other classes' patterns; an ideal observer of two classes reaches an AUC of Φ(1 / 0.6) = 0.952
)
_CONTRAST = 20.0
_NOISE = 20.0


def stand_in_patterns() -> NDArray[np.float64]:
    """Return the ten patterns of the stand-in, (10, 32, 32): cosines that a horizontal flip leaves as they are.

    >>> flat = stand_in_patterns().reshape(10, -1)
    >>> bool(np.allclose(flat @ flat.T / (32 * 32), np.eye(10)))  # orthogonal, of unit mean square
    True
    """
    position = np.pi * (np.arange(32) + 0.5) / 32
    waves = [np.outer(np.cos(down * position), np.cos(2 * position)) for down in range(1, 6)]
    waves += [np.outer(np.cos(down * position), np.cos(4 * position)) for down in range(1, 6)]
    return 2.0 * np.stack(waves)  # (10, 32, 32)


def write_stand_in(folder: Path, *, images_per_class: int, seed: int = 0) -> Path:
    """Write a synthetic data set in the layout of CIFAR-10, to try things with.

    image = 128 + 20 (pattern of its class + Σ_c w_c pattern_c) + noise, w_c ~ N(0, 0.6²), noise ~ N(0, 20²) per pixel

    Other classes' patterns hide the own one, so that two classes overlap: the best possible AUC is 0.952.

    Args:
        folder: receives the folder `cifar-10-batches-bin`; files of it that exist are replaced.
        images_per_class: in each of the two splits, at least 1; all ten classes have as many.
        seed: the same seed gives the same files.

    Returns:
        The folder of the six files.

    Raises:
        Cifar10Error: images_per_class is below 1.
    """
    if images_per_class < 1:
        raise Cifar10Error(f"images_per_class must be at least 1, got {images_per_class}. Make some.")
    output = folder / FOLDER
    output.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    train = _stand_in_records(generator, images_per_class)
    for name, part in zip(_TRAIN_FILES, np.split(train, len(_TRAIN_FILES)), strict=True):
        write_bytes_atomically(output / name, part.tobytes())
    write_bytes_atomically(output / _TEST_FILE, _stand_in_records(generator, images_per_class).tobytes())
    write_bytes_atomically(output / "batches.meta.txt", ("\n".join(CLASS_NAMES) + "\n").encode())
    return output


def _stand_in_records(generator: np.random.Generator, images_per_class: int) -> NDArray[np.uint8]:
    labels = generator.permutation(np.repeat(np.arange(len(CLASS_NAMES)), images_per_class))
    weights = generator.normal(0.0, _CLUTTER, (len(labels), len(CLASS_NAMES)))
    weights[np.arange(len(labels)), labels] += 1.0
    shapes = np.tensordot(weights, stand_in_patterns(), axes=1)[:, None]  # (N, 1, 32, 32)
    pixels = 128.0 + _CONTRAST * shapes + generator.normal(0.0, _NOISE, (len(labels), *_IMAGE_SHAPE))
    planes = np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(len(labels), -1)
    return np.hstack([labels.astype(np.uint8)[:, None], planes])  # (N, 3073)
