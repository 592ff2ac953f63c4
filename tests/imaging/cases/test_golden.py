"""The golden table of the selection: one small builder for each kind of study that hospitals send.

A case bends the plain study of `build` (T2 in series 2, diffusion at b 50, 400, 800 in series 3). To add one:
a function that returns images, under `@case` with the reason, which names the DICOM part, and what must come out where
it differs from the plain study. Truth is DICOM's meaning of the element, or what its vendor documents.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RawDataStorage, SecondaryCaptureImageStorage

from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import load_selection

DOCS = Path(__file__).resolve().parents[3] / "docs" / "dicom.md"
B_VALUES = (50.0, 400.0, 800.0)
SAGITTAL = [0, 1, 0, 0, 0, -1]


@dataclass(frozen=True)
class Case:
    """What must come of a study: the series taken with their b-values, or a code; roles of series; warnings."""

    images: Callable[[Any], list[Dataset]]
    why: str
    refused: str | None = None
    t2: int = 2
    dwi: dict[int, tuple[float, ...]] = field(default_factory=lambda: {3: B_VALUES})
    roles: dict[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    says: str = ""
    has_plain_voxels: bool = False


CASES: dict[str, Case] = {}


def case(why: str, **expected: Any):
    """Enter a builder into the table."""

    def enter(images):
        CASES[images.__name__.strip("_")] = Case(images, why, **expected)
        return images

    return enter


def _bent(images: list[Dataset], **elements: Any) -> list[Dataset]:
    for image in images:
        for keyword, value in elements.items():
            setattr(image, keyword, value)
    return images


def _private(images: list[Dataset], group: int, creator: str, element: int, vr: str, value: Any) -> list[Dataset]:
    for image in images:
        image.private_block(group, creator, create=True).add_new(element, vr, value)
    return images


def _own(b, images: list[Dataset], tag: str) -> list[Dataset]:
    """Return copies as objects of their own."""
    return [_bent([one], SOPInstanceUID=b.uid(f"{tag} {one.SOPInstanceUID}"))[0] for one in images]


def _rival(b, **changes: Any) -> list[Dataset]:
    """Return the plain study with a later T2 in series 9, which would be taken if it were as good."""
    return b.study() + b.series(9, **changes)


def _undirected(b, **elements: Any) -> list[Dataset]:
    """Return diffusion whose ImageType does not say that it is a trace."""
    return b.diffusion(3, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"], **elements)


# What an image is: component
_OTHER = {"roles": {9: "other"}}


@case("PS3.3 C.8.3.1.1.1: vendors add values to ImageType; Siemens' third is M, P, R or I", **_OTHER)
def _phase_image_of_siemens(b):
    return _rival(b, ImageType=["ORIGINAL", "PRIMARY", "P", "ND"])


@case("Philips writes the component with the sequence", **_OTHER)
def _imaginary_image_of_philips(b):
    return _rival(b, ImageType=["ORIGINAL", "PRIMARY", "I_SE", "I", "SE"])


@case("GE: (0043,xx2F) is 0 magnitude, 1 phase, 2 real, 3 imaginary", **_OTHER)
def _real_image_of_ge(b):
    return b.study() + _private(
        b.series(9, ImageType=["ORIGINAL", "PRIMARY", "OTHER"]), 0x43, "GEMS_PARM_01", 0x2F, "SS", 2
    )


@case("PS3.3 C.8.13.3.1, Complex Image Component (0008,9208)", **_OTHER)
def _phase_image_in_an_enhanced_object(b):
    return [*b.study(), b.enhanced(b.series(9, ImageType=["ORIGINAL", "PRIMARY"]), ComplexImageComponent="PHASE")]


@case("magnitude and phase of a diffusion series under one Series Instance UID", has_plain_voxels=True)
def _phase_beside_magnitude_in_one_diffusion_series(b):
    phase = _own(b, b.diffusion(3, ImageType=["ORIGINAL", "PRIMARY", "P", "DIFFUSION"]), "phase")
    return b.study() + phase


# What an image is: contrast
@case("PS3.3 C.8.3.1: Scanning Sequence IR is inversion recovery: STIR", **_OTHER)
def _stir_by_its_scanning_sequence(b):
    return _rival(b, ScanningSequence=["SE", "IR"], InversionTime=180.0)


@case("PS3.3 C.8.3.1: an Inversion Time of 180 ms nulls fat, whatever the scanning sequence says", **_OTHER)
def _stir_by_its_inversion_time(b):
    return _rival(b, InversionTime=180.0)


@case("PS3.3 C.8.13.3.1: Acquisition Contrast (0008,9209)", **_OTHER)
def _stir_of_an_enhanced_object(b):
    return [*b.study(), b.enhanced(b.series(9), AcquisitionContrast="STIR")]


@case("Siemens: turbo inversion recovery by its sequence name", **_OTHER)
def _stir_by_its_sequence_name(b):
    return _rival(b, SequenceName="*tir2d1_15")


@case("a map of relaxation times is no image", roles={9: "adc"})
def _t2_map(b):
    return _rival(b, SeriesDescription="T2 map")


@case("STIR alone is no T2", refused="no_t2", says="inversion recovery")
def _stir_alone(b):
    return b.series(2, ScanningSequence=["SE", "IR"]) + b.diffusion(3)


@case("Siemens: a value FAT in ImageType", **_OTHER)
def _fat_of_a_dixon(b):
    return _rival(b, ImageType=["ORIGINAL", "PRIMARY", "DIXON", "FAT"])


@case("GE names the parts of a Dixon image before the description", **_OTHER)
def _fat_of_a_dixon_by_its_name(b):
    return _rival(b, SeriesDescription="FAT: Ax T2 FLEX")


@case("PS3.3 C.8.13.5.5: water was suppressed, fat remains", **_OTHER)
def _fat_by_suppressed_water(b):
    return [*b.study(), b.enhanced(b.series(9), SpectrallySelectedSuppression="WATER")]


FAT_SUPPRESSED = {
    "Scan Options FS": {"ScanOptions": "FS"},
    "Scan Options of GE": {"ScanOptions": ["FAST_GEMS", "FATSAT_GEMS"]},
    "English": {"SeriesDescription": "Ax T2 fat sat"},
    "German": {"SeriesDescription": "t2_tse_tra_fettgesättigt", "SpecificCharacterSet": "ISO_IR 100"},
    "French": {"SeriesDescription": "AX T2 sat graisse"},
    "Italian": {"SeriesDescription": "T2 TSE sat grasso"},
    "Spanish": {"SeriesDescription": "T2 TSE supresion de grasa"},
    "Portuguese": {"SeriesDescription": "T2 sat gordura"},
    "Dutch": {"SeriesDescription": "T2 TSE vetonderdrukking"},
    "SPAIR": {"SeriesDescription": "T2W_SPAIR_ax"},
    "Dixon water": {"ImageType": ["ORIGINAL", "PRIMARY", "DIXON", "WATER"]},
}
for _name, _change in FAT_SUPPRESSED.items():
    CASES[f"fat suppressed: {_name}"] = Case(
        lambda b, change=_change: _rival(b, **change), "plain T2 is what the model saw", roles={9: "t2_unused"}
    )


@case("without a plain one it is used, and told", warnings=("t2_contrast",))
def _fat_suppressed_alone(b):
    return b.series(2, ScanOptions="FS") + b.diffusion(3)


@case("a name may deny it", t2=9)
def _without_fat_saturation_by_its_name(b):
    return _rival(b, SeriesDescription="t2_tse_tra_ohne FS")


# What an image is: derived, computed, direction
COMPUTED = ["DWI extrapolated b1400", "SynB 1400", "sDWI", "b1400 berechnet", "berekend b1400", "hBVal", "b calculée"]
MAPS = ["Carte CDA", "ADC-Karte", "Mapa de difusion", "Mappa diffusione", "Diffusionskoeffizient", "ADC kaart", "ADC"]
for _names, _role in ((COMPUTED, "computed_b"), (MAPS, "adc")):
    for _text in _names:
        CASES[f"{_role}: {_text}"] = Case(
            lambda b, text=_text: (
                b.study()
                + b.diffusion(
                    9,
                    b_values=(1400.0,),
                    ImageType=["DERIVED", "PRIMARY"],
                    SeriesDescription=text,
                    SpecificCharacterSet="ISO_IR 100",
                )
            ),
            "names of workstations; ImageType DERIVED says nothing more",
            roles={9: _role},
        )


@case("PS3.3 C.7.6.1.1.2: SECONDARY was made from other images, which are in the fit already", roles={9: "dwi_unused"})
def _derived_b_value_without_a_telling_name(b):
    return b.study() + b.diffusion(9, b_values=(1400.0,), ImageType=["DERIVED", "SECONDARY"])


@case("ORIGINAL with a b-value was acquired, whatever it is called", has_plain_voxels=True)
def _diffusion_named_with_its_map(b):
    return b.series(2) + b.diffusion(3, SeriesDescription="Ax DWI/ADC")


@case("the protocol is called after its map; traces begin with the protocol's name", has_plain_voxels=True)
def _protocol_named_with_calc(b):
    name = "DWI_calc"
    return b.series(2) + b.diffusion(3, ProtocolName=name, SeriesDescription=f"{name}_TRACEW")


@case("PS3.3 C.8.13.5.9: a unit vector in (0018,9089) is a direction", refused="no_diffusion")
def _one_direction_by_its_vector(b):
    return b.series(2) + b.diffusion(3, DiffusionGradientOrientation=[0.0, 0.0, 1.0])


@case("PS3.3 C.8.13.5.9: the vector lies in the item of (0018,9076)", refused="no_diffusion")
def _one_direction_by_its_nested_vector(b):
    item = b.item(DiffusionGradientOrientation=[0.0, 1.0, 0.0])
    return b.series(2) + _undirected(b, DiffusionGradientDirectionSequence=[item])


@case("Siemens: (0019,xx0E) is the gradient's unit vector", refused="no_diffusion")
def _one_direction_by_the_vector_of_siemens(b):
    return b.series(2) + _private(_undirected(b), 0x19, "SIEMENS MR HEADER", 0x0E, "FD", [0.0, 0.6, 0.8])


@case("the same where de-identification left bytes", refused="no_diffusion")
def _one_direction_by_the_bytes_of_siemens(b):
    return b.series(2) + _private(
        _undirected(b), 0x19, "SIEMENS MR HEADER", 0x0E, "UN", struct.pack("<3d", 0.0, 0.6, 0.8)
    )


@case("Philips: (2005,xxB0) to B2 are the gradient's unit vector", refused="no_diffusion")
def _one_direction_by_the_vector_of_philips(b):
    images = _undirected(b)
    for element, value in ((0xB0, 1.0), (0xB1, 0.0), (0xB2, 0.0)):
        _private(images, 0x2005, "Philips MR Imaging DD 001", element, "FL", value)
    return b.series(2) + images


@case("GE: (0019,xxBB) to BD are the gradient's unit vector", refused="no_diffusion")
def _one_direction_by_the_vector_of_ge(b):
    images = _undirected(b)
    for element, value in ((0xBB, "0"), (0xBC, "1"), (0xBD, "0")):
        _private(images, 0x19, "GEMS_ACQU_01", element, "DS", value)
    return b.series(2) + images


@case("a vector of zeros is that of an isotropic image", has_plain_voxels=True)
def _no_direction_by_the_vector_of_uih(b):
    return b.series(2) + _private(_undirected(b), 0x65, "Image Private Header", 0x37, "FD", [0.0, 0.0, 0.0])


@case("GE: (0021,xx5A) 4 is right to left", refused="no_diffusion")
def _one_direction_of_ge(b):
    return b.series(2) + _private(b.diffusion(3), 0x21, "GEMS_RELA_01", 0x5A, "SL", 4)


@case("GE: (0043,xx30) 15 is the combined image, 3 to 5 are directions", has_plain_voxels=True)
def _combined_and_directions_of_ge(b):
    combined = _private(b.study(), 0x43, "GEMS_PARM_01", 0x30, "SS", 15)
    single = [_own(b, b.diffusion(3, b_values=B_VALUES[1:]), str(flag)) for flag in (3, 4, 5)]
    flagged = (
        _private(images, 0x43, "GEMS_PARM_01", 0x30, "SS", n) for n, images in zip((3, 4, 5), single, strict=True)
    )
    return combined + [image for images in flagged for image in images]


@case("b = 0 has no direction, however it is labelled", dwi={3: (0.0, 800.0)})
def _b_zero_labelled_as_a_direction(b):
    dwi = b.diffusion(3, b_values=(0.0, 800.0))
    _bent(dwi[:6], DiffusionDirectionality="DIRECTIONAL")
    return b.series(2) + dwi


@case("GE writes b 0 into gradient-echo time series", roles={9: "dynamic"})
def _perfusion(b):
    return b.study() + b.diffusion(9, b_values=(0.0,) * 4, ScanningSequence=["EP", "GR"], EchoTime=30.0)


@case("3D spin echoes have nominal echo times beyond 250 ms", has_plain_voxels=True)
def _t2_3d_of_a_long_echo_time(b):
    return b.series(2, EchoTime=320.0, MRAcquisitionType="3D") + b.diffusion(3)


@case("the reason leads to the limit", refused="no_t2", says="t2_echo_time_ms")
def _t2_of_a_long_echo_time(b):
    return b.series(2, EchoTime=320.0) + b.diffusion(3)


@case("a turbo spin echo is T2, whatever it was planned for", has_plain_voxels=True)
def _t2_named_for_diffusion(b):
    return b.series(2, SeriesDescription="t2_tse_tra_nach_Diff") + b.diffusion(3)


# Where the b-value is
@case("Hitachi: (0029,xx30) of MMCPrivate", has_plain_voxels=True)
def _b_value_of_hitachi(b):
    dwi = b.diffusion(3)
    for image in dwi:
        value = image.DiffusionBValue
        del image.DiffusionBValue
        _private([image], 0x29, "MMCPrivate", 0x30, "FD", value)
    return b.series(2) + dwi


@case("Toshiba leaves the element out at b = 0", dwi={3: (0.0, 800.0)})
def _b_zero_of_toshiba(b):
    dwi = _bent(b.diffusion(3, b_values=(0.0, 800.0)), Manufacturer="TOSHIBA_MEC")
    for image in dwi[:6]:
        del image.DiffusionBValue
    return b.series(2) + dwi


@case("others do not: an image without a b-value is not b = 0", refused="one_b_value")
def _b_zero_of_nobody(b):
    dwi = b.diffusion(3, b_values=(0.0, 800.0))
    for image in dwi[:6]:
        del image.DiffusionBValue
    return b.series(2) + dwi


@case("the place of the b-values can be named", refused="no_diffusion", says="--rules", dwi={})
def _b_value_in_the_description_only(b):
    return b.series(2) + b.diffusion(3, b_values=(None,), SeriesDescription="DWI b=800")


# Which images belong together
@case("an export of Philips holds an object without pixels in each series", has_plain_voxels=True)
def _raw_objects_in_the_series(b):
    extra = []
    for image in (b.series(2)[0], b.diffusion(3)[0]):
        for keyword in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            delattr(image, keyword)
        extra += _own(b, _bent([image], SOPClassUID=RawDataStorage), "raw")
    return b.study() + extra


@case("one planning image in another plane", warnings=("images_left_out",), has_plain_voxels=True)
def _one_sagittal_image(b):
    return b.study() + _own(b, b.series(2, ImageOrientationPatient=SAGITTAL)[:1], "key")


@case("a screenshot in the series", warnings=("images_left_out",), has_plain_voxels=True)
def _a_secondary_capture_in_the_series(b):
    (image,) = _own(b, b.series(2)[:1], "capture")
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient"):
        delattr(image, keyword)
    image.SOPClassUID = SecondaryCaptureImageStorage
    return [*b.study(), image]


def _halves(b, images: list[Dataset], *, per_stack: int) -> list[Dataset]:
    upper = [one for index, one in enumerate(images) if index % per_stack >= per_stack // 2]
    _bent(upper, SeriesInstanceUID=b.uid("half"))
    return images


@case("one acquisition under two Series Instance UIDs", has_plain_voxels=True)
def _halves_of_t2(b):
    return _halves(b, b.series(2, slices=12), per_stack=12) + b.diffusion(3, slices=12)


@case("one acquisition under two Series Instance UIDs", has_plain_voxels=True)
def _halves_of_diffusion(b):
    return b.series(2, slices=12) + _halves(b, b.diffusion(3, slices=12), per_stack=12)


@case("acquired twice in one series: acquisition numbers tell")
def _repeat_in_one_series(b):
    again = _own(b, _bent(b.series(2), AcquisitionNumber=2), "again")
    return _bent(b.series(2), AcquisitionNumber=1) + again + b.diffusion(3)


@case("a later repeat that was aborted is no candidate", roles={9: "t2_unused"})
def _aborted_repeat(b):
    return b.study(slices=12) + b.series(9, slices=5)


@case("a later repeat that lost a slice gives way, and is told", warnings=("preferred_images_unusable",))
def _repeat_that_lost_a_slice(b):
    return b.study() + b.series(9)[:3] + b.series(9)[4:]


@case("PS3.3 C.8.3.1: Spacing Between Slices (0018,0088) was 3 mm", refused="missing_slice", says="(0018,0088)")
def _every_second_slice_gone(b):
    return b.series(2, slices=12, SpacingBetweenSlices=3.0)[::2] + b.diffusion(3, slices=12)


@case("without a plan, gaps as wide as slices are told", warnings=("slices_may_be_missing",))
def _every_second_slice_gone_without_a_plan(b):
    return b.series(2, slices=12)[::2] + b.diffusion(3, slices=12)


@case("numbers begin at 2", warnings=("slices_may_be_missing",))
def _an_end_slice_gone(b):
    return b.series(2)[1:] + b.diffusion(3)


@case("numbers of diffusion lack the last slice of each b-value but the highest", warnings=("slices_may_be_missing",))
def _an_end_slice_of_diffusion_gone(b):
    return b.series(2) + [one for index, one in enumerate(b.diffusion(3)) if index % 6 != 5]


@case("T2 and diffusion lie on the same slices but for one", warnings=("slices_may_be_missing",))
def _another_end_slice_gone(b):
    axial = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return b.series(2, ImageOrientationPatient=axial)[:-1] + b.diffusion(3, ImageOrientationPatient=axial)


@case("Philips: (2001,xx18) slices were planned", warnings=("slices_may_be_missing",))
def _fewer_slices_than_planned(b):
    return _private(b.series(2), 0x2001, "Philips Imaging DD 001", 0x18, "SL", 9) + b.diffusion(3)


@case("half of the gland has no diffusion", warnings=("coverage_differs",))
def _half_of_diffusion(b):
    kept = [one for index, one in enumerate(b.diffusion(3, slices=20)) if index % 20 < 11]
    return b.series(2, slices=20) + kept


@case("half of the gland has no T2", warnings=("coverage_differs",))
def _half_of_t2(b):
    return b.series(2, slices=20)[9:] + b.diffusion(3, slices=20)


@case("concatenations: odd and even slices under two Series Instance UIDs", has_plain_voxels=True)
def _concatenations_of_t2(b):
    t2 = b.series(2, slices=12)
    _bent(t2[1::2], SeriesInstanceUID=b.uid("odd"), SeriesNumber=12)
    return t2 + b.diffusion(3, slices=12)


@case("two echoes in one series, one of them T2")
def _dual_echo(b):
    return b.study() + _own(b, b.series(2, EchoTime=15.0), "proton density")


@case("an interleaved second stack is no part of the first", t2=9)
def _repeat_half_a_slice_higher(b):
    return b.study() + b.series(9, origin_mm=(-5.0, -4.0, 1.5))


# Which is taken
@case("finer pixels, but not the gland", roles={9: "t2_unused"})
def _zoom(b):
    zoom = b.series(9, PixelSpacing=[0.3, 0.3])
    return b.study(slices=14) + zoom


@case("finer pixels, but of another region", roles={9: "t2_unused"}, says="no_overlap")
def _t2_of_another_region(b):
    return _rival(b, PixelSpacing=[0.3, 0.3], origin_mm=(-5.0, -4.0, 250.0))


_LEFT = {"roles": {9: "dwi_unused"}, "warnings": ("b_values_left_out",), "has_plain_voxels": True}


@case("what remains suffices", **_LEFT)
def _further_b_value_on_another_grid(b):
    return b.study() + b.diffusion(9, b_values=(1400.0,), origin_mm=(-4.0, -3.0, 1.5))


@case("what remains suffices", **_LEFT)
def _further_b_value_with_fewer_slices(b):
    return b.study() + b.diffusion(9, b_values=(1400.0,), slices=5)


@case("b 50 was acquired twice", dwi={3: B_VALUES[1:]}, warnings=("b_values_left_out",))
def _lowest_b_value_twice(b):
    return b.study() + _own(b, b.diffusion(3, b_values=(50.0,)), "twice")


@case("b = 0 has no direction: each repeat of it is the same measurement", dwi={3: (0.0, 800.0)})
def _b_zero_three_times(b):
    repeats = [one for tag in ("2", "3") for one in _own(b, b.diffusion(3, b_values=(0.0,)), tag)]
    return b.series(2) + b.diffusion(3, b_values=(0.0, 800.0)) + repeats


@case("above 0 several images at a position may be directions", refused="no_diffusion", dwi={})
def _b_800_twice(b):
    images = b.diffusion(3, b_values=(0.0, 800.0), ImageType=["ORIGINAL", "PRIMARY", "M", "ND"])
    return b.series(2) + images + _own(b, b.diffusion(3, b_values=(800.0,)), "2")


@case("S0 depends on the echo time", refused="one_b_value", says="echo times")
def _echo_time_by_b_value(b):
    dwi = b.diffusion(3)
    for index, time in enumerate((58.0, 70.0, 85.0)):
        _bent(dwi[6 * index : 6 * index + 6], EchoTime=time)
    return b.series(2) + dwi


@case("a difference of 1 s/mm2 is noise", refused="one_b_value", says="200")
def _b_values_too_close(b):
    return b.series(2) + b.diffusion(3, b_values=(0.0, 1.0))


_BLIP = {"roles": {9: "dwi_unused"}, "has_plain_voxels": True}


@case("distorted the other way, by its name", **_BLIP)
def _reversed_b_zero_by_its_name(b):
    return b.study() + b.diffusion(9, b_values=(0.0,), SeriesDescription="ep2d_diff_tra_PA")


@case("PS3.3 C.8.3.1: In-plane Phase Encoding Direction (0018,1312)", **_BLIP)
def _b_zero_of_another_axis(b):
    swapped = b.diffusion(9, b_values=(0.0,), InPlanePhaseEncodingDirection="ROW")
    return _bent(b.study(), InPlanePhaseEncodingDirection="COL") + swapped


@case("echo times that differ by a rounding are one contrast", has_plain_voxels=True)
def _echo_times_of_a_rounding(b):
    t2 = b.series(2)
    _bent(t2[::2], EchoTime=104.02)
    return t2 + b.diffusion(3)


@case("PS3.3 C.7.6.2.1.2: Slice Location says that two images changed places", warnings=("positions_disagree",))
def _exchanged_positions(b):
    images = b.study()
    for index, image in enumerate(images[:6]):
        image.SliceLocation = 3.0 * index
    one, other = images[2:4]
    one.ImagePositionPatient, other.ImagePositionPatient = other.ImagePositionPatient, one.ImagePositionPatient
    return images


@case("PS3.3 C.7.6.1: numbers that rise with the position but for two images", warnings=("positions_disagree",))
def _exchanged_positions_without_locations(b):
    images = b.study()
    one, other = images[2:4]
    one.ImagePositionPatient, other.ImagePositionPatient = other.ImagePositionPatient, one.ImagePositionPatient
    return images


@case("every second slice was counted first, as interleaved acquisitions are", has_plain_voxels=True)
def _interleaved_numbers(b):
    images = b.study()
    for image, number in zip(images[:6], (1, 4, 2, 5, 3, 6), strict=True):
        image.InstanceNumber = number
    return images


@case("Slice Location falls where positions rise, as some vendors count", has_plain_voxels=True)
def _falling_locations(b):
    images = b.study()
    for index, image in enumerate(images[:6]):
        image.SliceLocation = -3.0 * index
    return images


# What a study cannot be
@case("PS3.3 C.7.1.1: Patient's Sex (0010,0040)", warnings=("patient_not_male",), has_plain_voxels=True)
def _a_woman(b):
    return _bent(b.study(), PatientSex="F")


@case("T2 and diffusion of different days", warnings=("different_days",), has_plain_voxels=True)
def _two_days(b):
    return b.series(2) + b.diffusion(3, AcquisitionDate="20240105")


@case("one session over midnight", has_plain_voxels=True)
def _over_midnight(b):
    t2 = b.series(2, AcquisitionDate="20240101", AcquisitionTime="235000")
    return t2 + b.diffusion(3, AcquisitionTime="001000")


@pytest.fixture(scope="module")
def plain_voxels(build, tmp_path_factory):
    """Return the voxels of the plain study of 6 or 12 slices."""
    voxels = {}
    for slices in (6, 12):
        folder = build.save(tmp_path_factory.mktemp("plain"), build.study(slices=slices))
        voxels[slices] = _voxels(explain_study(folder))
    return voxels


def _voxels(selection) -> list[np.ndarray]:
    volumes = load_selection(selection)
    return [one.voxels for one in (volumes.t2, *volumes.dwi)]


@pytest.mark.parametrize("name", CASES)
def test_the_golden_table(build, written, plain_voxels, name):
    expected = CASES[name]
    selection = explain_study(written(expected.images(build)))
    assert (selection.refused and selection.refused.code) == expected.refused, selection.to_text()
    assert expected.says in selection.to_text()
    roles = {one.series.number: one.role for one in selection.series}
    assert expected.roles.items() <= roles.items(), selection.to_text()
    assert tuple(one.code for one in selection.doubts) == expected.warnings, selection.to_text()
    if expected.refused is None:
        assert selection.t2.number == expected.t2
        assert {one.series.number: one.b_values_s_per_mm2 for one in selection.dwi} == expected.dwi
        found = _voxels(selection)
        for one, other in zip(found, plain_voxels[found[0].shape[2]], strict=True) if expected.has_plain_voxels else ():
            np.testing.assert_array_equal(one, other)


def test_every_documented_warning_is_reached_by_a_case():
    section = DOCS.read_text(encoding="utf-8").split("## Warnings")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    assert set(documented) == {code for one in CASES.values() for code in one.warnings}
