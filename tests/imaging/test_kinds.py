"""b-values: every vendor's bytes, as they are written, re-typed by de-identification, or shifted to another block."""

import struct
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from prostate_alm.imaging.files import read_header
from prostate_alm.imaging.header import Header, headers_of
from prostate_alm.imaging.kinds import find_b_value, is_b_value_range

SIEMENS, GE = "SIEMENS MR HEADER", "GEMS_PARM_01"
PHILIPS, UIH = "Philips Imaging DD 001", "Image Private Header"

PRIVATE = [
    ("Siemens IS", 0x0019, SIEMENS, 0x0C, "IS", "800", 800),
    ("Siemens OB after de-identification", 0x0019, SIEMENS, 0x0C, "OB", b"50", 50),
    ("Siemens OB with padding", 0x0019, SIEMENS, 0x0C, "OB", b"400 ", 400),
    ("Siemens UN", 0x0019, SIEMENS, 0x0C, "UN", b"1000", 1000),
    ("Siemens b = 0", 0x0019, SIEMENS, 0x0C, "IS", "0", 0),
    ("GE IS", 0x0043, GE, 0x39, "IS", ["1400", "8", "0", "0"], 1400),
    ("GE IS with bias", 0x0043, GE, 0x39, "IS", ["1000001400", "8", "0", "0"], 1400),
    ("GE DS", 0x0043, GE, 0x39, "DS", ["50", "0", "0", "0"], 50),
    ("GE UN with bias", 0x0043, GE, 0x39, "UN", b"1000001400\\8\\0\\0 ", 1400),
    ("Philips FL", 0x2001, PHILIPS, 0x03, "FL", 800.0, 800),
    ("Philips UN", 0x2001, PHILIPS, 0x03, "UN", struct.pack("<f", 1500.0), 1500),
    ("UIH FD", 0x0065, UIH, 0x09, "FD", 1000.0, 1000),
    ("UIH UN", 0x0065, UIH, 0x09, "UN", struct.pack("<d", 50.0), 50),
]


def _read_back(image: Dataset, path: Path) -> Header:
    image.save_as(path, enforce_file_format=True)
    with path.open("rb") as file:
        return next(headers_of(read_header(file).top))


def _private(build, group: int, creator: str, element: int, vr: str, value, *, block: int) -> Dataset:
    image = build.series(1, slices=1)[0]
    del image.SequenceName
    image.add_new((group, block), "LO", creator)
    image.add_new((group, block << 8 | element), vr, value)
    return image


@pytest.mark.parametrize(("name", "group", "creator", "element", "vr", "value", "b_value"), PRIVATE)
@pytest.mark.parametrize("block", [0x10, 0x11, 0xE3])
def test_private_b_values_are_read_from_the_block_of_their_creator(
    build, tmp_path, name, group, creator, element, vr, value, b_value, block
):
    header = _read_back(_private(build, group, creator, element, vr, value, block=block), tmp_path / "image")
    found = find_b_value(header)
    assert found.b_value_s_per_mm2 == b_value
    assert found.source.startswith(name.split()[0])


def test_the_same_element_under_another_creator_is_not_a_b_value(build, tmp_path):
    image = _private(build, 0x0019, "SOMEBODY ELSE", 0x0C, "OB", b"50", block=0x10)
    image.add_new((0x0019, 0x0011), "LO", SIEMENS)  # the right creator reserves a block without the element
    assert find_b_value(_read_back(image, tmp_path / "image")).b_value_s_per_mm2 is None


def test_a_creator_with_padding_and_without_type_is_recognised(build, tmp_path):
    image = _private(build, 0x0019, SIEMENS, 0x0C, "OB", b"50", block=0x10)
    image[0x0019, 0x0010].VR = "UN"
    image[0x0019, 0x0010].value = SIEMENS.encode() + b" "
    assert find_b_value(_read_back(image, tmp_path / "image")).b_value_s_per_mm2 == 50


def test_the_standard_element_comes_before_private_ones(build, tmp_path):
    image = _private(build, 0x0019, SIEMENS, 0x0C, "IS", "50", block=0x10)
    image.DiffusionBValue = 800.0
    found = find_b_value(_read_back(image, tmp_path / "image"))
    assert (found.b_value_s_per_mm2, found.source) == (800.0, "standard (0018,9087)")


def test_the_standard_element_is_found_in_the_diffusion_sequence(build, tmp_path):
    image = build.series(1, slices=1)[0]
    item = Dataset()
    item.DiffusionBValue, item.DiffusionDirectionality = 600.0, "ISOTROPIC"
    image.MRDiffusionSequence = Sequence([item])
    found = find_b_value(_read_back(image, tmp_path / "image"))
    assert (found.b_value_s_per_mm2, found.directionality) == (600.0, "ISOTROPIC")


@pytest.mark.parametrize(
    ("name", "b_value", "directionality", "is_range"),
    [
        ("*ep_b50t", 50, "", False),
        ("*ep_b800t", 800, "", False),
        ("ep_b0", 0, "", False),
        ("*ep_b800#7", 800, "DIRECTIONAL", False),
        ("*ep_b50_800", None, "", True),
        ("*tse2d1_25", None, "", False),
    ],
)
def test_the_sequence_name_is_the_last_resort(build, tmp_path, name, b_value, directionality, is_range):
    header = _read_back(build.series(1, slices=1, SequenceName=name)[0], tmp_path / "image")
    found = find_b_value(header)
    assert (found.b_value_s_per_mm2, found.directionality) == (b_value, directionality)
    assert is_b_value_range(name) is is_range


@pytest.mark.parametrize("value", [b"", b"ab", b"nan", b"inf", b"-50", b"99999"])
def test_nonsense_is_no_b_value(build, tmp_path, value):
    image = _private(build, 0x0019, SIEMENS, 0x0C, "OB", value, block=0x10)
    assert find_b_value(_read_back(image, tmp_path / "image")).b_value_s_per_mm2 is None


@pytest.mark.parametrize(("word", "expected"), [("I", "ISOTROPIC"), ("P", "DIRECTIONAL"), ("O", "DIRECTIONAL")])
def test_philips_directions_are_read(build, tmp_path, word, expected):
    image = _private(build, 0x2001, PHILIPS, 0x03, "FL", 800.0, block=0x10)
    image.add_new((0x2001, 0x1004), "CS", word)
    assert find_b_value(_read_back(image, tmp_path / "image")).directionality == expected
