"""Reading against an independent parser, against pictures as another library decodes them, and files that are wrong."""

import hashlib
import io
import os
import struct
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from prostate_alm.data import cifar10
from prostate_alm.data.cifar10 import (
    CLASS_NAMES,
    ENVIRONMENT_VARIABLE,
    FOLDER,
    OFFICIAL_ARCHIVE,
    Cifar10Error,
    ImageSet,
    class_number,
    locate_cifar10,
    read_cifar10,
    read_classes,
    stand_in_patterns,
    write_stand_in,
)

TRAIN_FILES = [f"data_batch_{i}.bin" for i in (1, 2, 3, 4, 5)]
RECORD = struct.Struct("B3072s")
WHOLE = os.environ.get(ENVIRONMENT_VARIABLE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a stand-in of 70 + 70 images that the test may damage."""
    return write_stand_in(tmp_path, images_per_class=7)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)


def parsed(paths: list[Path]) -> list[tuple[int, int, bytes]]:
    """Return (number, label, pixels) of each record, read without numpy."""
    records = RECORD.iter_unpack(b"".join(path.read_bytes() for path in paths))
    return [(number, label, pixels) for number, (label, pixels) in enumerate(records)]


def as_records(images: ImageSet) -> list[tuple[int, int, bytes]]:
    rows = zip(images.numbers.tolist(), images.classes.tolist(), images.images, strict=True)
    return [(number, label, image.tobytes()) for number, label, image in rows]


def test_all_is_read_as_another_parser_reads_it(folder: Path) -> None:
    data = read_cifar10(folder)
    assert as_records(data.train) == parsed([folder / name for name in TRAIN_FILES])
    assert as_records(data.test) == parsed([folder / "test_batch.bin"])


@pytest.mark.parametrize("classes", [[0, 1], [7, 6], ["truck"], [3, "cat", "3"]])
def test_a_selection_is_the_rest_of_what_is_left_out_and_keeps_its_numbers(
    classes: list[int | str], folder: Path
) -> None:
    wanted = {class_number(name) for name in classes}
    data = read_classes(folder, classes)
    for images, names in ((data.train, TRAIN_FILES), (data.test, ["test_batch.bin"])):
        expected = [record for record in parsed([folder / name for name in names]) if record[1] in wanted]
        assert as_records(images) == expected
        assert images.images.shape == (7 * len(wanted), 3, 32, 32)
        assert (images.images.dtype, images.classes.dtype, images.numbers.dtype) == (np.uint8, np.int64, np.int64)


def test_real_pictures_come_back_as_another_library_decodes_them(shared: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels: list[NDArray[np.uint8]] = []  # (32, 32, 3) each
    with tarfile.open(shared / "data" / "cifar10" / "cifar10-jpeg.tar.xz") as tar:
        for member in tar:
            if (file := tar.extractfile(member)) is not None:
                pixels.append(np.asarray(image.open(io.BytesIO(file.read())).convert("RGB")))
            if len(pixels) == 60:
                break
    for i, name in enumerate([*TRAIN_FILES, "test_batch.bin"]):
        planes = [b"\0" + b"".join(one[..., c].tobytes() for c in range(3)) for one in pixels[10 * i : 10 * i + 10]]
        (tmp_path / name).write_bytes(b"".join(planes))
    data = read_cifar10(tmp_path)
    found = np.concatenate([data.train.images, data.test.images]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(found, np.stack(pixels))
    red, _, blue = found.mean(axis=(0, 1, 2))
    assert blue > red  # airplanes, before the sky


def test_the_whole_data_set_has_its_known_counts_and_colours(request: pytest.FixtureRequest) -> None:
    """Runs where CIFAR10_DIR names the official files, or those made from the JPEG copy."""
    if WHOLE is None:
        pytest.skip(f"no {ENVIRONMENT_VARIABLE} with the whole data set")
    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    data = read_cifar10(locate_cifar10(Path(WHOLE), download_dir=Path("unused")))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    assert Counter(data.train.classes.tolist()) == dict.fromkeys(range(10), 5000)
    assert Counter(data.test.classes.tolist()) == dict.fromkeys(range(10), 1000)
    means = [data.train.images[:, c].mean() / 255 for c in range(3)]
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=0.002)  # the figures that everybody quotes
    assert peak_bytes < 300e6
    pair = read_classes(Path(WHOLE), [0, 1])
    assert len(pair.train.images) == 10_000
    np.testing.assert_array_equal(data.train.images[pair.train.numbers], pair.train.images)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def relabel(path: Path, label: int) -> None:
    content = bytearray(path.read_bytes())
    content[3 * 3073] = label
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "rule"),
    [
        (
            "data_batch_3.bin",
            lambda path: cut(path, 3073 * 14 - 1),
            "hold whole records of 3073 bytes, got 43021 bytes",
        ),
        ("test_batch.bin", lambda path: cut(path, 3073 * 2 + 1), "hold whole records of 3073 bytes, got 6147 bytes"),
        ("data_batch_5.bin", lambda path: cut(path, 0), "hold whole records of 3073 bytes, got 0 bytes"),
        ("data_batch_1.bin", lambda path: cut(path, 3073 * 13), "as long as the longest training batch, 43022 bytes"),
        ("test_batch.bin", lambda path: relabel(path, 10), "hold labels from 0 to 9, got 10 in record 3"),
        ("data_batch_2.bin", lambda path: relabel(path, 255), "hold labels from 0 to 9, got 255 in record 3"),
        ("data_batch_4.bin", lambda path: path.write_text("<html>"), "hold whole records of 3073 bytes, got 6 bytes"),
    ],
)
def test_a_wrong_file_is_named_with_size_and_checksum(
    name: str, damage: Callable[[Path], None], rule: str, folder: Path
) -> None:
    path = folder / name
    damage(path)
    with pytest.raises(Cifar10Error) as caught:
        read_classes(folder, [0, 1])
    message = str(caught.value)
    content = path.read_bytes()
    assert message.startswith(f"{name} must ")
    assert rule in message
    assert f"in {path} (size {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}; official" in message
    assert "\n" not in message


def test_a_test_batch_cut_between_records_is_told_where_the_others_are_official(folder: Path) -> None:
    for name in TRAIN_FILES:
        with (folder / name).open("r+b") as stream:
            stream.truncate(30_730_000)  # a hole: zeros that take no space
    with pytest.raises(Cifar10Error, match=r"^test_batch.bin must be as long as .* 30730000 bytes, got 215110 bytes"):
        read_classes(folder, [0, 1])


@pytest.mark.parametrize("name", ["data_batch_1.bin", "data_batch_4.bin", "test_batch.bin"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    for fails in (lambda: read_cifar10(folder), lambda: locate_cifar10(folder.parent, download_dir=folder)):
        with pytest.raises(Cifar10Error, match=rf"^CIFAR-10 must have six .bin files, got no {name} in [^\n]*$"):
            fails()


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "fromfile", denied)
    with pytest.raises(Cifar10Error, match=r"got Permission denied in .*data_batch_1\.bin"):
        read_cifar10(folder)


@pytest.mark.parametrize("name", [*CLASS_NAMES, *(name.upper() for name in CLASS_NAMES)])
def test_a_class_is_known_by_name_by_number_and_by_its_digit(name: str) -> None:
    number = class_number(name)
    assert CLASS_NAMES[number] == name.lower()
    assert number == class_number(number) == class_number(str(number))


@pytest.mark.parametrize("name", ["car", "", "10", 10, -1, "1.0", True])
def test_an_unknown_class_is_refused_with_those_there_are(name: str | int, folder: Path) -> None:
    for fails in (lambda: class_number(name), lambda: read_classes(folder, [0, name])):
        with pytest.raises(Cifar10Error, match=rf"got {name!r}\. Available: \['airplane', 'automobile'.*'truck'\]$"):
            fails()


def test_the_argument_wins_over_the_environment_which_wins_over_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argument, variable, download = (
        write_stand_in(tmp_path / name, images_per_class=1) for name in ("argument", "variable", "download")
    )
    assert locate_cifar10(None, download_dir=download.parent) == download
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "")
    assert locate_cifar10(None, download_dir=download.parent) == download
    for given in (variable, variable.parent):
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(given))
        assert locate_cifar10(None, download_dir=download.parent) == variable
    for given in (argument, argument.parent):
        assert locate_cifar10(given, download_dir=download.parent) == argument


def test_a_given_folder_without_the_files_is_refused_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar10, "ensure_folder", lambda *_, **__: pytest.fail("downloads"))
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(
        Cifar10Error, match=r"^dataset_dir must be the folder cifar-10-batches-bin or its parent, got no"
    ):
        locate_cifar10(tmp_path, download_dir=tmp_path)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(Cifar10Error, match=r"^CIFAR10_DIR must be .* in .*nowhere\. Get .*the binary version"):
        locate_cifar10(None, download_dir=tmp_path)


def test_without_a_network_one_line_says_how_to_get_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nobody = replace(OFFICIAL_ARCHIVE, url="http://127.0.0.1:9/cifar-10-binary.tar.gz")
    monkeypatch.setattr(cifar10, "OFFICIAL_ARCHIVE", nobody)
    with pytest.raises(
        Cifar10Error, match=r"^http://[^\n]*refused[^\n]*toronto[^\n]*--dataset_dir[^\n]*CIFAR10_DIR\.$"
    ):
        locate_cifar10(None, download_dir=tmp_path / "new")


def test_an_archive_that_lies_in_the_download_folder_is_unpacked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "download" / OFFICIAL_ARCHIVE.name
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, FOLDER)
    known = replace(OFFICIAL_ARCHIVE, md5=hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar10, "OFFICIAL_ARCHIVE", known)
    found = locate_cifar10(None, download_dir=path.parent)
    assert found == path.parent / FOLDER
    assert as_records(read_cifar10(found).train) == as_records(read_cifar10(folder).train)


def test_the_stand_in_has_the_layout_and_repeats(folder: Path, tmp_path: Path) -> None:
    names = {*TRAIN_FILES, "test_batch.bin", "batches.meta.txt"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "batches.meta.txt").read_text().split() == list(CLASS_NAMES)
    data = read_cifar10(folder)
    for images in (data.train, data.test):
        assert Counter(images.classes.tolist()) == dict.fromkeys(range(10), 7)
    again = write_stand_in(tmp_path / "again", images_per_class=7)
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in names)
    other = write_stand_in(tmp_path / "other", images_per_class=7, seed=1)
    assert (other / "test_batch.bin").read_bytes() != (folder / "test_batch.bin").read_bytes()
    with pytest.raises(Cifar10Error, match="images_per_class must be at least 1, got 0"):
        write_stand_in(tmp_path, images_per_class=0)


@pytest.mark.parametrize("pair", [(0, 1), (6, 7)])
def test_the_stand_in_is_as_hard_as_it_says(pair: tuple[int, int], tmp_path_factory: pytest.TempPathFactory) -> None:
    made = write_stand_in(tmp_path_factory.mktemp("stand-in"), images_per_class=400)
    images = read_classes(made, pair).test
    patterns = stand_in_patterns()[list(pair)]
    scores = (
        images.images.sum(axis=1, dtype=np.float64).reshape(len(images.images), -1)
        @ np.diff(patterns.reshape(2, -1), axis=0).ravel()
    )
    auc = roc_auc_score(images.classes == pair[1], scores)
    assert auc == pytest.approx(norm.cdf(1 / 0.6), abs=0.02)  # three standard errors of 400 against 400
    flipped = images.images[..., ::-1].sum(axis=1, dtype=np.float64).reshape(len(scores), -1)
    np.testing.assert_allclose(flipped @ np.diff(patterns.reshape(2, -1), axis=0).ravel(), scores, atol=1e-6)
