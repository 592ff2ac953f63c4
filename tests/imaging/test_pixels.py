"""What a stored value is: signal as the standard defines it, or a refusal with a code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import load_study

SHAPE = (24, 28)


def _images(build) -> list[Dataset]:
    return build.series(2, shape=SHAPE) + build.diffusion(3, shape=SHAPE)


def _values(image: Dataset) -> np.ndarray:
    return np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)


def _store(image: Dataset, values: np.ndarray) -> None:
    image.PixelData = np.ascontiguousarray(values).tobytes()


def _code(folder: Path) -> str | None:
    try:
        load_study(folder)
    except StudyRefused as refused:
        return refused.code
    return None


def _text(image: Dataset, keyword: str, value: str) -> None:
    """Write a decimal that pydicom would refuse to write."""
    image.add_new(keyword, "LO", value)
    image[keyword].VR = "LO"


RESCALES: dict[str, tuple[dict[str, str], str]] = {
    "0": ({"RescaleSlope": "0"}, "unreadable_rescale"),
    "negative": ({"RescaleSlope": "-1"}, "unreadable_rescale"),
    "not a number": ({"RescaleSlope": "NaN"}, "unreadable_rescale"),
    "infinite": ({"RescaleSlope": "1e999"}, "unreadable_rescale"),
    "text": ({"RescaleSlope": "one"}, "unreadable_rescale"),
    "a comma": ({"RescaleSlope": "1,5"}, "unreadable_rescale"),
    "several": ({"RescaleSlope": "1\\2"}, "unreadable_rescale"),
    "intercept of text": ({"RescaleIntercept": "none"}, "unreadable_rescale"),
    "several intercepts": ({"RescaleIntercept": "0\\1"}, "unreadable_rescale"),
}


@pytest.mark.parametrize("place", [0, 8], ids=["T2", "diffusion"])
@pytest.mark.parametrize("case", RESCALES)
def test_an_unreadable_slope_is_no_slope_of_one(build, written, case, place):
    elements, code = RESCALES[case]
    images = _images(build)
    for keyword, value in elements.items():
        _text(images[place], keyword, value)
    assert explain_study(written(images)).refused.code == code


@pytest.mark.parametrize("elements", [{"RescaleSlope": 2}, {"RescaleIntercept": 5}])
def test_a_stack_has_one_slope_and_intercept(build, written, elements):
    images = _images(build)
    for keyword, value in elements.items():
        setattr(images[2], keyword, value)
    refused = explain_study(written(images)).refused
    assert (refused.code, "got 2 of them in series 2" in refused.reason) == ("unreadable_rescale", True)


def test_each_b_value_may_have_its_slope(build, tmp_path):
    """By the standard a slope says what its own image means; only Philips' slopes mean grey values."""
    expected = load_study(build.save(tmp_path / "plain", _images(build)))
    images = _images(build)
    for image in images[12:18]:  # b = 400
        _store(image, (_values(image) * 2).astype("<u2"))
        image.RescaleSlope, image.RescaleIntercept = 0.5, 0
        image.BitsStored, image.HighBit = 13, 12
    found = load_study(build.save(tmp_path / "scaled", images))
    for one, other in zip(found.dwi, expected.dwi, strict=True):
        np.testing.assert_allclose(one.voxels, other.voxels, rtol=1e-6)


@pytest.mark.parametrize("manufacturer", ["Philips Medical Systems", ""])
def test_grey_values_of_philips_are_not_fitted(build, written, manufacturer):
    images = _images(build)
    for image in images:
        image.Manufacturer = manufacturer
    for image in images[12:18]:
        image.RescaleSlope = 2
    assert explain_study(written(images)).refused.code == "display_values"


@pytest.mark.parametrize(
    "creator", ["Philips MR Imaging DD 001", "PHILIPS MR IMAGING DD 001", " Philips MR  Imaging DD 001"]
)
@pytest.mark.parametrize("lost", [False, True])
def test_the_scale_slope_makes_b_values_comparable_or_is_missed(build, tmp_path, creator, lost):
    expected = load_study(build.save(tmp_path / "plain", _images(build)))
    images = _images(build)
    for index, image in enumerate(images):
        image.RescaleSlope, image.RescaleIntercept = 1 + index // 6, 0
        if not (lost and 6 <= index < 12):
            image.add_new((0x2005, 0x0010), "LO", creator)
            image.add_new((0x2005, 0x100E), "FL", 1.0)
    folder = build.save(tmp_path / "philips", images)
    if lost:
        assert explain_study(folder).refused.code == "display_values"
        return
    for one, other in zip(load_study(folder).dwi, expected.dwi, strict=True):
        np.testing.assert_allclose(one.voxels, other.voxels, rtol=1e-6)


def _upper_bits(image: Dataset) -> None:
    _store(image, (_values(image) << 4).astype("<u2"))
    image.HighBit = 15


def _padded_outside(image: Dataset) -> None:
    values = _values(image).astype("<i2")
    values[:, :4] = -2000
    _store(image, values)
    image.PixelRepresentation, image.BitsStored, image.HighBit = 1, 16, 15
    image.add_new("PixelPaddingValue", "SS", -2000)


def _padded_range(image: Dataset) -> None:
    values = _values(image).astype("<u2")
    values[:, :2], values[:, 2:4] = 64000, 64010
    _store(image, values)
    image.BitsStored, image.HighBit = 16, 15
    image.add_new("PixelPaddingValue", "US", 63990)
    image.add_new("PixelPaddingRangeLimit", "US", 64020)


def _padding_among_the_values(image: Dataset) -> None:
    image.add_new("PixelPaddingValue", "US", int(np.median(_values(image))))


SAME: dict[str, tuple[Callable[[Dataset], None], slice]] = {
    "in the upper bits": (_upper_bits, slice(0)),
    "padded by a value": (_padded_outside, slice(0, 4)),
    "padded by a range": (_padded_range, slice(0, 4)),
    "a padding that is signal": (_padding_among_the_values, slice(0)),
}


@pytest.mark.parametrize("case", SAME)
def test_other_forms_of_the_same_signal(build, tmp_path, case):
    change, padded = SAME[case]
    expected = load_study(build.save(tmp_path / "plain", _images(build))).t2.voxels.copy()
    expected[padded] = 0
    images = _images(build)
    for image in images[:6]:
        change(image)
    np.testing.assert_array_equal(load_study(build.save(tmp_path / "bent", images)).t2.voxels, expected)


def _set(**elements: Any) -> Callable[[Dataset], None]:
    def change(image: Dataset) -> None:
        for keyword, value in elements.items():
            setattr(image, keyword, value)

    return change


def _extremes(image: Dataset) -> None:
    image.add_new("SmallestImagePixelValue", "US", 0)
    image.add_new("LargestImagePixelValue", "US", int(_values(image).max()) - 1)


def _zeros(image: Dataset) -> None:
    image.PixelData = bytes(len(image.PixelData))


def _lost_rows(image: Dataset) -> None:
    data = bytearray(image.PixelData)
    data[500:820] = bytes(320)
    image.PixelData = bytes(data)


def _lost_beginning(image: Dataset) -> None:
    image.PixelData = bytes(320) + image.PixelData[320:]


BENT: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "MONOCHROME1": (_set(PhotometricInterpretation="MONOCHROME1"), "other_values"),
    "colours": (_set(PhotometricInterpretation="PALETTE COLOR"), "other_values"),
    "a high bit that is not theirs": (_set(HighBit=15), "damaged_pixels"),
    "a high bit below": (_set(HighBit=5), "other_values"),
    "fewer bits than there are": (_set(BitsStored=10, HighBit=9), "damaged_pixels"),
    "a matrix smaller than the element": (_set(Rows=SHAPE[0] - 1), "missing_slice"),  # a foreign image is left out
    "values above the largest": (_extremes, "damaged_pixels"),
    "zeros": (_zeros, "damaged_pixels"),
    "a lost block": (_lost_rows, "damaged_pixels"),
    "a lost beginning": (_lost_beginning, "damaged_pixels"),
}


@pytest.mark.parametrize("place", [1, 8, 17], ids=["T2", "diffusion", "last"])
@pytest.mark.parametrize("case", BENT)
def test_one_image_whose_values_are_not_what_the_header_says(build, written, case, place):
    change, code = BENT[case]
    images = _images(build)
    change(images[place])
    assert _code(written(images)) in (code, "damaged_pixels")


def test_images_without_signal_are_refused(build, written):
    images = _images(build)
    for image in images[:6]:
        _zeros(image)
    assert _code(written(images)) == "no_signal"


def test_a_matrix_smaller_than_the_element_in_all_images(build, written):
    images = _images(build)
    for image in images[:6]:
        image.Rows -= 1
    assert _code(written(images)) == "damaged_pixels"


def test_a_masked_background_is_no_lost_block(build, written):
    """Scanners set what lies outside of the body to 0: long runs that go on from row to row."""
    images = _images(build)
    rows, columns = np.indices(SHAPE)
    for index, image in enumerate(images):
        radius = 6 + index % 6
        body = (rows - 12) ** 2 + (columns - 14) ** 2 < radius**2
        _store(image, np.where(body, _values(image), 0).astype("<u2"))
    assert _code(written(images)) is None


@pytest.mark.parametrize(
    ("says", "is_written"),
    [
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
        (JPEGLosslessSV1, ExplicitVRLittleEndian),
    ],
)
def test_what_is_written_counts_where_the_file_says_otherwise(build, tmp_path, says, is_written):
    expected = load_study(build.save(tmp_path / "plain", _images(build)))
    images = _images(build)
    for image in images:
        image.file_meta.TransferSyntaxUID = is_written
    folder = build.save(tmp_path / "lying", images)
    for path in folder.iterdir():
        data = path.read_bytes()
        at = data.index(b"\x02\x00\x10\x00UI") + 6
        size = int.from_bytes(data[at : at + 2], "little")
        named = says.encode() + b"\0" * (len(says) % 2)
        length = int.from_bytes(data[140:144], "little") + len(named) - size
        data = data[:at] + len(named).to_bytes(2, "little") + named + data[at + 2 + size :]
        path.write_bytes(data[:140] + length.to_bytes(4, "little") + data[144:])
    found = load_study(folder)
    np.testing.assert_array_equal(found.t2.voxels, expected.t2.voxels)
    np.testing.assert_array_equal(found.dwi[0].voxels, expected.dwi[0].voxels)


def test_fragments_under_a_native_syntax_are_refused(build, written):
    images = _images(build)
    images[1].compress(RLELossless, generate_instance_uid=False)
    folder = written(images)
    path = folder / "0001"
    path.write_bytes(path.read_bytes().replace(RLELossless.encode(), ExplicitVRLittleEndian.encode()))
    assert _code(folder) == "undecodable_pixels"
