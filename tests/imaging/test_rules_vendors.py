"""Every vendor's manner of writing gives the same selection and the same volumes as plain standard headers."""

import struct
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import load_study

B_VALUES = (0.0, 500.0, 1000.0)
T2_NUMBER, DIFFUSION_NUMBER = 2, 3
TRACE = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]
Write = Callable[[Dataset, float], None]


def _block(image: Dataset, group: int, creator: str, block: int) -> int:
    """Reserve a private block as vendors do, behind a stranger's where it is not the first; return its first tag."""
    if block > 0x10:
        image.add_new((group, 0x10), "LO", "SOME OTHER SOFTWARE")
    image.add_new((group, block), "LO", creator)
    return group << 16 | block << 8


def _padded(text: str) -> bytes:
    """Return text as bytes of an even length, as files hold it."""
    return (text + " " * (len(text) % 2)).encode()


def _siemens(vr: str, block: int) -> Write:
    def write(image: Dataset, b_value: float) -> None:
        image.Manufacturer, image.ImageType = "SIEMENS", [*TRACE, "NORM", "DIS2D"]
        image.SequenceName = f"*ep_b{b_value:.0f}" + ("t" if b_value else "")
        first = _block(image, 0x0019, "SIEMENS MR HEADER", block)
        value = f"{b_value:.0f}"
        image.add_new(first | 0x08, "CS", "IMAGE NUM 4 ")
        image.add_new(first | 0x0C, vr, value if vr == "IS" else _padded(value))

    return write


def _ge(vr: str, block: int, bias: int) -> Write:
    def write(image: Dataset, b_value: float) -> None:
        image.Manufacturer, image.ImageType = "GE MEDICAL SYSTEMS", ["ORIGINAL", "PRIMARY", "OTHER"]
        image.ScanningSequence, image.ScanOptions = ["EP", "SE"], ["EPI_GEMS", "PFF", "FS"]
        first = _block(image, 0x0043, "GEMS_PARM_01", block)
        values = [str(bias + round(b_value)), "8", "0", "0"]
        image.add_new(first | 0x39, vr, values if vr != "UN" else _padded("\\".join(values)))

    return write


def _ge_with_standard_element(image: Dataset, b_value: float) -> None:
    _ge("IS", 0x10, 1_000_000_000)(image, b_value)
    image.DiffusionBValue = b_value


def _philips(vr: str, block: int) -> Write:
    def write(image: Dataset, b_value: float) -> None:
        image.Manufacturer, image.ImageType = "Philips Medical Systems", ["ORIGINAL", "PRIMARY", "M_SE", "M", "SE"]
        image.ScanningSequence = "SE"  # as Philips writes echo-planar spin echoes, too
        first = _block(image, 0x2001, "Philips Imaging DD 001", block)
        image.add_new(first | 0x03, vr, b_value if vr == "FL" else struct.pack("<f", b_value))
        if b_value:
            image.add_new(first | 0x04, "CS" if vr == "FL" else "UN", "I" if vr == "FL" else b"I ")

    return write


def _uih(vr: str, block: int) -> Write:
    def write(image: Dataset, b_value: float) -> None:
        image.Manufacturer, image.ImageType = "UIH", ["ORIGINAL", "PRIMARY", "M"]
        first = _block(image, 0x0065, "Image Private Header", block)
        image.add_new(first | 0x09, vr, b_value if vr == "FD" else struct.pack("<d", b_value))

    return write


def _canon_comments(image: Dataset, b_value: float) -> None:
    image.Manufacturer, image.ImageType = "CANON_MEC", ["ORIGINAL", "PRIMARY", "OTHER"]
    image.ImageComments = f"b={b_value:.0f}" + "(0.000,0.000,0.000)" * (b_value == 0)


def _toshiba(image: Dataset, b_value: float) -> None:
    image.Manufacturer, image.ImageType = "TOSHIBA_MEC", ["ORIGINAL", "PRIMARY", "OTHER"]
    image.DiffusionBValue = b_value


def _sequence_name_only(image: Dataset, b_value: float) -> None:
    image.Manufacturer, image.ImageType = "SIEMENS", TRACE
    image.SequenceName = f"*ep_b{b_value:.0f}" + ("t" if b_value else "")


CLASSIC = {
    "Siemens IS": _siemens("IS", 0x10),
    "Siemens IS in another block": _siemens("IS", 0x12),
    "Siemens OB": _siemens("OB", 0x10),
    "Siemens UN": _siemens("UN", 0xE1),
    "Siemens without private elements": _sequence_name_only,
    "GE": _ge("IS", 0x10, 0),
    "GE with bias": _ge("IS", 0x10, 1_000_000_000),
    "GE with bias as UN": _ge("UN", 0x11, 1_000_000_000),
    "GE DS": _ge("DS", 0x10, 0),
    "GE of newer software": _ge_with_standard_element,
    "Philips FL": _philips("FL", 0x10),
    "Philips UN": _philips("UN", 0x14),
    "UIH FD": _uih("FD", 0x10),
    "UIH UN": _uih("UN", 0x11),
    "Toshiba": _toshiba,
    "Canon": _canon_comments,
}


def _diffusion(build, write: Write, *, b_values: Iterable[float] = B_VALUES, **changes: object) -> list[Dataset]:
    """Return diffusion images whose b-values are where a vendor keeps them, and nowhere else."""
    images = build.diffusion(DIFFUSION_NUMBER, b_values=tuple(b_values), **changes)
    for image in images:
        b_value = image.DiffusionBValue
        del image.DiffusionBValue
        write(image, b_value)
    return images


def _t2(build, **changes: object) -> list[Dataset]:
    return build.series(T2_NUMBER, **changes)


@pytest.fixture(scope="module")
def plain(build, tmp_path_factory):
    """Return the volumes of the study with standard headers."""
    images = _t2(build) + build.diffusion(DIFFUSION_NUMBER, b_values=B_VALUES)
    return load_study(build.save(tmp_path_factory.mktemp("plain"), images))


def _require_same(found, plain) -> None:
    """Require the same choice and, voxel by voxel, the same volumes."""
    found_names, plain_names = found.selection.to_dict(), plain.selection.to_dict()
    assert (found_names["t2"], found_names["dwi"]) == (plain_names["t2"], plain_names["dwi"])
    assert found.b_values_acquired_s_per_mm2 == plain.b_values_acquired_s_per_mm2
    for one, other in zip((found.t2, *found.dwi), (plain.t2, *plain.dwi), strict=True):
        np.testing.assert_array_equal(one.voxels, other.voxels)
        np.testing.assert_array_equal(one.affine_ras_mm, other.affine_ras_mm)


@pytest.mark.parametrize("vendor", CLASSIC)
def test_classic_objects_of_every_vendor_give_the_same_volumes(build, tmp_path, plain, vendor):
    folder = build.save(tmp_path, _t2(build) + _diffusion(build, CLASSIC[vendor]))
    _require_same(load_study(folder), plain)
    reason = explain_study(folder).series[1].reason
    source = {"Toshiba": "standard", "Siemens without": "sequence name", "GE of newer": "standard"}
    wanted = next((word for name, word in source.items() if vendor.startswith(name)), vendor.split()[0])
    assert f"b-values from {wanted}" in reason


@pytest.mark.parametrize("vendor", ["Siemens IS", "GE with bias", "Philips FL", "UIH FD"])
def test_private_elements_survive_implicit_headers(build, tmp_path, plain, vendor):
    """Without types in the file, pydicom's dictionary knows them through the creator."""
    images = _t2(build) + _diffusion(build, CLASSIC[vendor])
    for image in images:
        image.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    _require_same(load_study(build.save(tmp_path, images)), plain)


def test_enhanced_objects_with_all_b_values_give_the_same_volumes(build, tmp_path, plain):
    """Siemens XA: one object per series, b-value and directionality in the functional groups of each frame."""
    t2, diffusion = _t2(build), build.diffusion(DIFFUSION_NUMBER, b_values=B_VALUES)
    for image in diffusion:
        image.ImageType = TRACE
    objects = [build.enhanced(t2, PulseSequenceName="*tse2d1_25"), build.enhanced(diffusion)]
    _require_same(load_study(build.save(tmp_path, objects)), plain)


def test_enhanced_objects_of_one_b_value_each_make_one_protocol(build, tmp_path, plain):
    diffusion = build.diffusion(DIFFUSION_NUMBER, b_values=B_VALUES)
    stacks = [diffusion[start : start + 6] for start in (0, 6, 12)]
    objects = [build.enhanced(stack, InstanceNumber=number) for number, stack in enumerate(stacks)]
    _require_same(load_study(build.save(tmp_path, [build.enhanced(_t2(build)), *objects])), plain)


def _philips_frames(build) -> list[Dataset]:
    """Return traces with what Philips puts beside them in the series: three directions per b-value, and the map."""
    images = build.diffusion(DIFFUSION_NUMBER, b_values=B_VALUES)
    for b_value in B_VALUES[1:]:
        for direction in range(3):
            more = build.diffusion(DIFFUSION_NUMBER, b_values=(b_value,), signal=lambda *_: np.full((6, 7), 7))
            for image in more:
                image.SOPInstanceUID = build.uid(f"{b_value} {direction} {image.InstanceNumber}")
                image.DiffusionDirectionality = "DIRECTIONAL"
            images += more
    adc = build.diffusion(DIFFUSION_NUMBER, b_values=(1000.0,), ImageType=["ORIGINAL", "PRIMARY", "ADC", "UNSPECIFIED"])
    for image in adc:
        image.SOPInstanceUID = build.uid(f"adc {image.InstanceNumber}")
    for number, image in enumerate(images + adc, start=1):
        image.InstanceNumber = number
    return images + adc


@pytest.mark.parametrize("is_enhanced", [False, True])
def test_traces_are_taken_from_among_directions_and_maps(build, tmp_path, plain, is_enhanced):
    frames = _philips_frames(build)
    images = [build.enhanced(frames)] if is_enhanced else frames
    _require_same(load_study(build.save(tmp_path, _t2(build) + images)), plain)


def test_a_vendors_own_sequence_does_not_move_the_frames(build, tmp_path, plain):
    """Philips repeats the position, half a voxel off, and keeps the scale slope in a private sequence of each frame."""
    whole = build.enhanced(build.diffusion(DIFFUSION_NUMBER, b_values=B_VALUES))
    for frame in whole.PerFrameFunctionalGroupsSequence:
        item = build.item(ImagePositionPatient=[1.0, 2.0, 3.0], DiffusionBValue=77.0, PixelSpacing=[9, 9])
        item.add_new((0x2005, 0x0010), "LO", "Philips MR Imaging DD 001")
        item.add_new((0x2005, 0x100E), "FL", 0.5)
        frame.add_new((0x2005, 0x0014), "LO", "Philips MR Imaging DD 005")
        frame.add_new((0x2005, 0x140F), "SQ", [item])
        frame.PixelValueTransformationSequence = [build.item(RescaleSlope="0.5", RescaleIntercept="0")]
    found = load_study(build.save(tmp_path, [*_t2(build), whole]))
    for one, other in zip(found.dwi, plain.dwi, strict=True):
        np.testing.assert_allclose(one.voxels, 2.0 * other.voxels, rtol=1e-5)  # stored 0.5 / (0.5 0.5)
        np.testing.assert_array_equal(one.affine_ras_mm, other.affine_ras_mm)


def test_series_that_philips_scaled_differently_enter_one_fit(build, tmp_path, plain):
    """One series per b-value, each stretched to its own display range: signal = stored / scale slope."""
    images = _t2(build)
    for number, (b_value, scale) in enumerate(zip(B_VALUES, (0.5, 2.0, 8.0), strict=True), start=DIFFUSION_NUMBER):
        stack = build.diffusion(number, b_values=(b_value,), signal=_same_signal)
        for image in stack:
            image.RescaleSlope, image.RescaleIntercept = str(1.25 / scale), "0"
            image.add_new((0x2005, 0x0010), "LO", "Philips MR Imaging DD 001")
            image.add_new((0x2005, 0x100E), "UN", struct.pack("<f", scale))
            stored = np.frombuffer(image.PixelData, "<u2") * scale
            image.PixelData, image.BitsStored, image.HighBit = stored.astype("<u2").tobytes(), 16, 15
        images += stack
    together = _t2(build) + build.diffusion(DIFFUSION_NUMBER, b_values=B_VALUES, signal=_same_signal)
    expected = load_study(build.save(tmp_path / "together", together))
    found = load_study(build.save(tmp_path / "apart", images))
    assert found.b_values_acquired_s_per_mm2 == B_VALUES
    for one, other in zip(found.dwi, expected.dwi, strict=True):
        np.testing.assert_allclose(one.voxels, other.voxels, rtol=1e-5)


def _same_signal(index: int, b_value: float) -> np.ndarray:
    """Return even numbers that fall with b."""
    base = np.random.default_rng(index).integers(500, 2000, (6, 7))
    return 2 * np.round(base * np.exp(-b_value * 1e-3))


REFUSED = {
    "directions of Siemens": ("no_diffusion", {"SequenceName": "*ep_b800#7"}),
    "directions of Canon": ("no_diffusion", {"ImageComments": "b=800(0.445,0.000,0.895)"}),
    "tensors": ("no_diffusion", {"DiffusionBValue": 800.0, "DiffusionDirectionality": "BMATRIX"}),
    "a mosaic of Siemens": ("no_diffusion", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}),
    "a grid of UIH": ("no_diffusion", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "VFRAME"], "DiffusionBValue": 800.0}),
    "a comment that is no b-value": ("no_diffusion", {"ImageComments": "b=800 was planned"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_trace_is_refused_by_name(build, tmp_path, case):
    code, elements = REFUSED[case]
    images = build.diffusion(DIFFUSION_NUMBER, b_values=(None, None))
    for image in images:
        for keyword, value in elements.items():
            setattr(image, keyword, value)
    refused = explain_study(build.save(tmp_path, _t2(build) + images)).refused
    assert refused.code == code


def test_diffusion_at_b_zero_is_no_t2(build, tmp_path):
    """Philips calls echo-planar imaging SE; its EPI factor, or a description, tells it from a spin echo."""
    planar = build.series(5)
    for image in planar:
        image.add_new((0x2001, 0x0010), "LO", "Philips Imaging DD 001")
        image.add_new((0x2001, 0x1013), "SL", 63)
    named = build.series(6, SeriesDescription="DWI b0", SequenceName="")
    selection = explain_study(build.save(tmp_path, planar + named + build.diffusion(DIFFUSION_NUMBER)))
    assert selection.refused.code == "no_t2"


def test_an_enhanced_object_of_another_body_part_is_refused(build, tmp_path):
    region = build.item(CodeValue="12738006", CodingSchemeDesignator="SCT", CodeMeaning="Brain")
    objects = [
        build.enhanced(images, AnatomicRegionSequence=[region])
        for images in (_t2(build), build.diffusion(DIFFUSION_NUMBER))
    ]
    assert explain_study(build.save(tmp_path, objects)).refused.code == "other_body_part"


def test_a_missing_frame_is_named(build, tmp_path):
    t2 = _t2(build)
    folder = build.save(tmp_path, [build.enhanced(t2[:2] + t2[3:]), *build.diffusion(DIFFUSION_NUMBER)])
    assert "between frames 2 and 3 of image 1 in series 2" in explain_study(folder).refused.reason
