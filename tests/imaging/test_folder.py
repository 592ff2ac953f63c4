"""Files that a disk or a network has spoilt: each is named, none stops the others, nothing is used unseen."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import RLELossless

from prostate_alm.imaging.folder import read_folder, read_series
from prostate_alm.imaging.study import explain_study

PIXEL_DATA = b"\xe0\x7f\x10\x00"


@pytest.fixture(scope="module")
def folder(build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build.save(tmp_path_factory.mktemp("damaged"), build.study())


@pytest.fixture
def spoilt(folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield the path of one image whose header has up to eight bytes replaced at random; it is whole again after."""
    random = np.random.default_rng(request.param)
    path = sorted(folder.iterdir())[random.integers(24)]
    whole = path.read_bytes()
    content = bytearray(whole)
    for place in random.integers(132, whole.rfind(PIXEL_DATA) + 12, random.integers(1, 9)):
        content[place] = random.integers(256)
    path.write_bytes(content)
    yield path
    path.write_bytes(whole)


@pytest.mark.parametrize("spoilt", range(16), indirect=True)
def test_bytes_spoilt_at_random_stop_no_other_file(spoilt: Path) -> None:
    found = read_folder(spoilt.parent)
    paths = [image.pixels.path for series in found.series for image in series.instances]
    assert {path.name for path in spoilt.parent.iterdir()} - {path.name for path in paths} <= {spoilt.name}
    for one in found.skipped:
        assert (one.path.name, "\n" in one.reason) == (spoilt.name, False)
    refused = explain_study(spoilt.parent).refused
    assert refused is not None or not any(one.code for one in found.skipped)


@pytest.mark.parametrize(
    ("there", "spoilt_to"),
    [
        (b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00C!"),  # the type of the modality
        (b"\x20\x00\x11\x00IS", b"\x20\x00\x11\x00FD"),  # the type of the series number
    ],
)
def test_a_header_that_cannot_be_read_is_named_and_refuses_the_study(
    build, tmp_path: Path, there: bytes, spoilt_to: bytes
) -> None:
    folder = build.save(tmp_path, build.study())
    path = folder / "0003"
    assert there in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(there, spoilt_to))
    (skipped,) = read_folder(folder).skipped
    assert (skipped.path, skipped.code) == (Path("0003"), "truncated")
    assert skipped.reason.startswith("DICOM whose header cannot be read (")
    refused = explain_study(folder).refused
    assert refused is not None
    assert refused.code == "truncated"


def test_a_copy_without_a_place_conflicts(build, tmp_path: Path) -> None:
    build.save(tmp_path / "one", build.series(2))
    copies = build.series(2)
    del copies[4].ImagePositionPatient
    build.save(tmp_path / "two", copies)
    (series,) = read_series(tmp_path)
    assert (len(series.instances), series.conflicting_copies) == (6, 1)


def test_copies_of_which_one_cannot_be_decoded_do_not_conflict(build, tmp_path: Path) -> None:
    build.save(tmp_path / "one", build.series(2))
    copies = build.series(2)
    copies[1].compress(RLELossless, generate_instance_uid=False)
    build.save(tmp_path / "two", copies)
    assert read_series(tmp_path)[0].conflicting_copies == 0
    path = tmp_path / "two" / "0001"
    content = path.read_bytes()
    begin = content.rfind(b"\xfe\xff\x00\xe0", 0, content.rfind(b"\xfe\xff\xdd\xe0")) + 8
    path.write_bytes(content[:begin] + b"\xff" * 64 + content[begin + 64 :])  # its table of segments
    assert read_series(tmp_path)[0].conflicting_copies == 0
