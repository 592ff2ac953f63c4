"""Whatever a transfer syntax does to a file, the voxels are those of the uncompressed study, bit for bit."""

import struct
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.files import files_below, read_header
from prostate_alm.imaging.folder import read_folder, read_series
from prostate_alm.imaging.rulebook import default_rules
from prostate_alm.imaging.signal import coded_size
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import load_study

GDCM_SYNTAXES = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
}
NATIVE = (ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)


def _study(build) -> list[Dataset]:
    shape = {"slices": 5, "shape": (16, 18)}  # gdcm cannot encode much smaller ones as JPEG 2000
    return build.series(2, **shape) + build.diffusion(3, b_values=(50.0, 800.0), **shape)


def _signed(build) -> list[Dataset]:
    images = _study(build)
    for image in images:
        values = np.frombuffer(image.PixelData, "<u2").astype(int) - 2048
        image.PixelData, image.PixelRepresentation = (values & 0xFFF).astype("<u2").tobytes(), 1
        image.RescaleIntercept, image.RescaleSlope = 2048, 1
    return images


def _sixteen_bits(build) -> list[Dataset]:
    images = _study(build)
    for image in images:
        image.PixelData = (np.frombuffer(image.PixelData, "<u2") * 15).astype("<u2").tobytes()
        image.BitsStored, image.HighBit = 16, 15
    return images


def _in_frames(build) -> list[Dataset]:
    images = _study(build)
    return [build.enhanced(images[:5]), build.enhanced(images[5:])]


STUDIES: dict[str, Callable[..., list[Dataset]]] = {
    "12 bits": _study,
    "signed": _signed,
    "16 bits": _sixteen_bits,
    "enhanced": _in_frames,
}


def _encoded(images: list[Dataset], folder: Path, syntax: UID) -> Path:
    """Write images in a transfer syntax: with gdcm what pydicom cannot encode."""
    folder.mkdir()
    for index, image in enumerate(images):
        path = folder / f"{index:04d}"
        if syntax == RLELossless:
            image.compress(RLELossless, generate_instance_uid=False)
        elif syntax == ExplicitVRBigEndian:
            image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        if syntax in (*NATIVE, RLELossless):
            image.file_meta.TransferSyntaxUID = syntax
        image.save_as(path, enforce_file_format=True)
        if syntax in GDCM_SYNTAXES:
            _recompress(path, syntax)
            image.PixelData = pydicom.dcmread(path).PixelData  # gdcm changes the header, too
            image["PixelData"].is_undefined_length = True
            image.file_meta.TransferSyntaxUID = syntax
            image.save_as(path, enforce_file_format=True)
    return folder


def _recompress(path: Path, syntax: UID) -> None:
    """Compress a file in place, as archives do."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(GDCM_SYNTAXES[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize("kind", STUDIES)
def test_every_lossless_syntax_gives_the_same_voxels(build, tmp_path, kind):
    expected = load_study(build.save(tmp_path / "plain", STUDIES[kind](build)))
    for syntax in (*NATIVE, RLELossless, *GDCM_SYNTAXES):
        folder = _encoded(STUDIES[kind](build), tmp_path / syntax, syntax)
        assert pydicom.dcmread(folder / "0000", stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
        found = load_study(folder)
        for one, other in zip((found.t2, *found.dwi), (expected.t2, *expected.dwi), strict=True):
            np.testing.assert_array_equal(one.voxels, other.voxels, err_msg=syntax.name)
            np.testing.assert_array_equal(one.affine_ras_mm, other.affine_ras_mm)


@pytest.mark.parametrize(("rows", "columns"), [(15, 18), (16, 9)])
@pytest.mark.parametrize("syntax", [RLELossless, *GDCM_SYNTAXES])
def test_a_header_of_another_size_than_the_frame_is_refused(build, tmp_path, syntax, rows, columns):
    folder = _encoded(_study(build), tmp_path / "study", syntax)
    for path in sorted(folder.iterdir())[:5]:
        image = pydicom.dcmread(path)
        image.Rows, image.Columns = rows, columns
        image.save_as(path)
    with pytest.raises(StudyRefused) as refused:  # decoders cut the frame, and some end the process
        load_study(folder)
    assert refused.value.code in ("damaged_pixels", "undecodable_pixels")


@pytest.mark.parametrize("syntax", GDCM_SYNTAXES)
def test_the_size_of_a_frame_is_that_of_its_image(build, tmp_path, syntax):
    path = _encoded(_study(build), tmp_path / "study", syntax) / "0000"
    assert coded_size(get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)) == (16, 18)


@pytest.mark.parametrize(("excess", "is_read"), [(0, True), (1, True), (2, False)])
def test_a_byte_of_padding_is_not_more_pixels(build, tmp_path, excess, is_read):
    images = _study(build)
    values = np.frombuffer(images[0].PixelData, np.uint8)
    images[0].compress(RLELossless, generate_instance_uid=False)
    segments = [_literal(values[1::2].tobytes() + bytes(excess)), _literal(values[::2].tobytes() + bytes(excess))]
    header = struct.pack("<16I", 2, 64, 64 + len(segments[0]), *[0] * 13)
    images[0].PixelData = encapsulate([header + b"".join(segments)])
    folder = build.save(tmp_path / "study", images)
    if is_read:
        expected = load_study(build.save(tmp_path / "plain", _study(build)))
        np.testing.assert_array_equal(load_study(folder).t2.voxels, expected.t2.voxels)
    else:
        with pytest.raises(StudyRefused, match="undecodable_pixels"):
            load_study(folder)


def _literal(data: bytes) -> bytes:
    """Return bytes as an RLE segment of literal runs (PS3.5 G.3.1)."""
    runs = [data[at : at + 128] for at in range(0, len(data), 128)]
    packed = b"".join(bytes([len(run) - 1]) + run for run in runs)
    return packed + bytes(len(packed) % 2)


LOSSY = {
    "by its syntax": (JPEGBaseline8Bit, None, True),
    "by a header that says so": (ExplicitVRLittleEndian, "01", True),
    "by a header that says so of a lossless syntax": (RLELossless, "01", True),
    "for all that is known, JPEG 2000": (JPEG2000, None, True),
    "for all that is known, JPEG-LS": (JPEGLSNearLossless, "", True),
    "not, as JPEG 2000 says of itself": (JPEG2000, "00", False),
    "not, uncompressed": (ExplicitVRLittleEndian, "00", False),
}


@pytest.mark.parametrize("case", LOSSY)
def test_lossy_images_are_refused_unless_a_site_accepts_them(build, written, case):
    syntax, said, is_lossy = LOSSY[case]
    images = build.study()
    for image in images[:6]:
        if syntax == RLELossless:
            image.compress(RLELossless, generate_instance_uid=False)
        elif syntax != ExplicitVRLittleEndian:  # some fragment; what is in it does not matter here
            image.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00junk"
            image["PixelData"].is_undefined_length = True
            image.file_meta.TransferSyntaxUID = syntax
        if said is not None:
            image.LossyImageCompression = said
    folder = written(images)
    refused = explain_study(folder).refused
    assert (refused and refused.code) == ("lossy_pixels" if is_lossy else None)
    accepting = default_rules().model_copy(update={"accept_lossy_pixels": True})
    assert explain_study(folder, rules=accepting).refused is None


def test_lossy_images_that_are_not_used_do_not_matter(build, written):
    capture = build.series(30, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], LossyImageCompression="01")
    assert explain_study(written(build.study() + capture)).refused is None


def test_copies_in_two_syntaxes_count_once(build, tmp_path):
    expected = load_study(build.save(tmp_path / "plain", _study(build)))
    folder = build.save(tmp_path / "both", _study(build))
    for path in build.save(folder / "again", _study(build)).iterdir():
        _recompress(path, JPEGLSLossless)
    found = load_study(folder)
    assert [len(one.series.instances) for one in found.selection.series] == [5, 10]
    np.testing.assert_allclose(found.dwi[1].voxels, expected.dwi[1].voxels, rtol=1e-5)


@pytest.mark.parametrize("change", ["pixels", "position"])
def test_copies_that_differ_are_refused(build, written, change):
    other = build.study()[3]
    if change == "pixels":
        other.PixelData = other.PixelData[:-2] + b"\x01\x00"
    else:
        other.ImagePositionPatient = [0, 0, 0]
    refused = explain_study(written([*build.study(), other])).refused
    assert refused.code == "conflicting_copies"
    assert "got 1 with copies that differ in series 2" in refused.reason


def test_images_without_an_identifier_are_no_copies_of_each_other(build, written):
    images = build.study()
    for image in images:
        image.SOPInstanceUID = ""
    images[0].file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    for image in images:
        image.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    assert explain_study(written(images)).refused is None


def test_a_study_sent_twice_with_a_repeat_of_one_series(build, tmp_path):
    folder = build.save(tmp_path, build.study())
    build.save(folder / "again", build.study() + build.series(9))
    selection = explain_study(folder)
    assert selection.refused is None
    assert [(one.series.number, len(one.series.instances)) for one in selection.series] == [(2, 6), (3, 18), (9, 6)]
    assert selection.t2.number == 9


BARE = {
    "explicit with meta information": (ExplicitVRLittleEndian, 132),
    "implicit with meta information": (ImplicitVRLittleEndian, 132),
    "explicit": (ExplicitVRLittleEndian, None),
    "implicit": (ImplicitVRLittleEndian, None),
    "big endian": (ExplicitVRBigEndian, None),
}


@pytest.mark.parametrize("case", BARE)
def test_files_without_a_preamble_are_read(build, tmp_path, case):
    syntax, skip = BARE[case]
    expected = load_study(build.save(tmp_path / "plain", build.study()))
    folder = _encoded(build.study(), tmp_path / "bare", syntax)
    for path in folder.iterdir():
        whole = path.read_bytes()
        meta_length = struct.unpack_from("<I", whole, 140)[0]  # (0002,0000), the first element
        path.write_bytes(whole[skip or 144 + meta_length :])
    found = load_study(folder)
    np.testing.assert_array_equal(found.t2.voxels, expected.t2.voxels)
    np.testing.assert_array_equal(found.dwi[1].voxels, expected.dwi[1].voxels)


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + b"\x08\x00\x60\x00CS\x02\x00MR" + bytes(200),
        b"\x08\x00\x00\x00\x04\x00\x00\x00" + bytes(300),
        b"\x02\x00\x00\x00" + b"PK" * 100,
        b"\x08\x00",
        b"CS and words",
    ],
)
def test_what_only_looks_like_dicom_is_skipped(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    (skipped,) = read_folder(tmp_path).skipped
    assert (skipped.reason, skipped.code) == ("not DICOM", "")


def test_the_reader_and_pydicom_agree(build, tmp_path):
    """The same values whether a header is scanned here or parsed by pydicom, nested sequences and all."""
    images = build.study()
    for image in images:
        image.SpecificCharacterSet, image.SeriesDescription = "ISO_IR 100", f"{image.SeriesDescription} Prüfung"
        inner = build.item(ReferencedSOPInstanceUID="1.2.3", DiffusionBValue=7.0)
        image.ReferencedImageSequence = [build.item(PurposeOfReferenceCodeSequence=[inner]), build.item()]
        image["ReferencedImageSequence"].is_undefined_length = True
        image.ReferencedImageSequence[0].is_undefined_length_sequence_item = True
        image.add_new((0x0019, 0x0010), "LO", "SIEMENS MR HEADER")
        image.add_new((0x0019, 0x100C), "IS", "800")
    for syntax in NATIVE:
        _require_agreement(_encoded(images, tmp_path / syntax, syntax))


@pytest.mark.parametrize("character_set", ["ISO_IR 100", "ISO_IR 192", ["", "ISO 2022 IR 100"]])
def test_text_is_that_of_the_character_set(build, tmp_path, character_set):
    images = build.series(2, SeriesDescription="T2 axial, Prüfung")
    for image in images:
        image.SpecificCharacterSet = character_set
    (series,) = read_series(build.save(tmp_path, images))
    assert series.description == "T2 axial, Prüfung"


def test_the_reader_and_pydicom_agree_on_the_real_study(real_study):
    _require_agreement(real_study)


def _require_agreement(folder: Path) -> None:
    """Require the top level of each file as pydicom reads it: each value, and each sequence's number of items."""
    for path in files_below(folder):
        with path.open("rb") as file:
            top = read_header(file).top
        for element in pydicom.dcmread(path, stop_before_pixels=True):
            found = top.sequence(element.tag) if element.VR == "SQ" else top.value(element.tag)
            if element.VR == "SQ":
                assert len(found) == len(element.value)
            elif element.VR != "UN" and not element.tag.is_private:
                assert found == element.value, element.tag
