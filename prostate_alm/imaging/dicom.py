"""DICOM headers as frozen series: everything that selection and geometry need, read once, and no pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from prostate_alm.imaging.files import FileHeader, read_header
from prostate_alm.imaging.header import ANATOMIC_REGION, Header, headers_of
from prostate_alm.imaging.kinds import (
    component_of,
    contrast_of,
    find_b_value,
    gradient_of,
    own_name,
    phase_encoding,
    planned_slices,
    scanning_sequence,
    sequence_name,
)
from prostate_alm.imaging.pixels import Pixels, pixels_of
from prostate_alm.imaging.rulebook import Rules
from prostate_alm.imaging.scan import OverLimitError

Numbers = tuple[float, ...]
EMPTY, NOT_DICOM = "empty", "not DICOM"


class StudyRefused(ValueError):
    """A study that cannot be used: a stable `code` (docs/dicom.md lists them) and a `reason` of one line."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)  # both, so that it can be pickled from a worker process
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Instance:
    """One image: a classic object, or one frame of a multi-frame object. Lengths in mm, times in ms."""

    pixels: Pixels
    is_image: bool  # raw data and presentation states have no pixels
    series_uid: str
    sop_instance_uid: str
    instance_number: int
    image_type: tuple[str, ...]
    sequence_name: str
    scanning_sequence: str
    echo_time_ms: float | None
    repetition_time_ms: float | None
    acquired_at: str  # YYYYMMDDHHMMSS.ffffff, '' when unknown; text order is time order
    frame_of_reference_uid: str
    rows: int
    columns: int
    position_mm: Numbers | None  # LPS, centre of the first voxel
    orientation: Numbers | None  # cosines along a row, then down a column
    pixel_spacing_mm: Numbers | None  # between rows, between columns
    slice_thickness_mm: float | None
    slice_location_mm: float | None  # along the normal, from an origin of the vendor's choice
    b_value_s_per_mm2: float | None
    b_value_source: str
    directionality: str
    component: str  # magnitude, phase, real or imaginary; see `component_of`
    contrast: str  # plain, fat_suppressed, ...; see `contrast_of`
    derivation: str  # how it was derived, in words
    is_3d: bool
    spacing_between_slices_mm: float | None  # as planned, centre to centre
    planned_slices: int | None
    acquisition_number: int
    phase_encoding: str  # ROW or COL, and + or - where the header says it
    kind: str = "none"  # none, adc, computed, direction or trace; see `image_kind`


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Objects of a series that are not used, in words; `is_doubtful` where they may have been meant to be."""

    what: str
    is_doubtful: bool


@dataclass(frozen=True, slots=True)
class Series:
    """All images of one series, in an order that depends on their content alone."""

    number: int
    uid: str
    study_uid: str
    patient_key: str = field(repr=False)  # a digest: good for equality and for nothing else
    description: str
    name: str = field(repr=False)  # the description beyond the name of the protocol
    modality: str
    manufacturer: str
    field_strength_t: float | None
    body_part: str
    patient_sex: str
    instances: tuple[Instance, ...] = field(repr=False)
    conflicting_copies: int = 0  # objects of which there are copies that differ
    left_out: tuple[LeftOut, ...] = ()

    @property
    def b_values_s_per_mm2(self) -> tuple[float, ...]:
        """Return the distinct b-values found in the headers, ascending."""
        found = {one.b_value_s_per_mm2 for one in self.instances}
        return tuple(sorted(value for value in found if value is not None))

    @property
    def acquired_at(self) -> str:
        """Return when the first image was acquired, '' when unknown."""
        return min((one.acquired_at for one in self.instances), default="")


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not read as an image: its path within the folder and why.

    `code` is that of the refusal where it may have held a part of the study, '' where it does not matter.
    """

    path: Path = field(repr=False)
    reason: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds: its series, and the files that were left out."""

    series: tuple[Series, ...]
    skipped: tuple[Skipped, ...]


def read_file(path: Path, directory: Path, rules: Rules) -> Skipped | list[tuple[Series, Instance]]:
    """Return the images of one file, each with its series (without instances), or why there are none."""
    inside = path.relative_to(directory)
    try:
        with path.open("rb") as file:
            header = read_header(file)
        if header.is_directory:
            return Skipped(inside, "a DICOMDIR lists files and is no image")
        top = Header((header.top,))
        if _is_broken(top, header):
            return Skipped(inside, "DICOM that breaks off in its header", "truncated")
        series = _series(top)
        return [
            (
                series,
                _instance(
                    one,
                    series,
                    pixels_of(one, path, frame=frame, file=header),
                    rules,
                    is_image=header.pixels is not None,
                ),
            )
            for frame, one in enumerate(headers_of(header.top))
        ]
    except InvalidDicomError:
        return Skipped(inside, NOT_DICOM if path.stat().st_size else EMPTY)
    except OSError as error:
        return Skipped(inside, f"a file that cannot be read ({error.strerror})", "unreadable_file")
    except OverLimitError as error:
        return Skipped(inside, f"DICOM beyond all limits: {error}", "oversized_study")
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file provokes, the others are still read
        return Skipped(inside, f"DICOM whose header cannot be read ({type(error).__name__})", "truncated")


def _is_broken(header: Header, file: FileHeader) -> bool:
    """Return whether a file breaks off in its header: no identifiers, or an MR image without its pixels."""
    lacks_pixels = header.text("SOPClassUID") in (MRImageStorage, EnhancedMRImageStorage) and file.pixels is None
    return lacks_pixels or not header.text("StudyInstanceUID") or not header.text("SeriesInstanceUID")


def _series(header: Header) -> Series:
    """Return what all images of a series share."""
    patient = header.text("PatientID") or header.text("PatientName")
    return Series(
        number=int(header.number("SeriesNumber") or 0),
        uid=header.text("SeriesInstanceUID"),
        study_uid=header.text("StudyInstanceUID"),
        patient_key=hashlib.sha256(patient.encode()).hexdigest(),
        description=header.text("SeriesDescription", "ProtocolName"),
        name=own_name(header.text("SeriesDescription"), header.text("ProtocolName")),
        modality=header.text("Modality"),
        manufacturer=header.text("Manufacturer"),
        field_strength_t=header.number("MagneticFieldStrength"),
        body_part=_body_part(header),
        patient_sex=header.text("PatientSex").upper(),
        instances=(),
    )


def _instance(header: Header, series: Series, pixels: Pixels, rules: Rules, *, is_image: bool) -> Instance:
    """Return one image's header, frozen."""
    b_value = find_b_value(header, rules=rules)
    image_type = tuple(header.text("FrameType", "ImageType").upper().split("\\"))
    return Instance(
        pixels=pixels,
        is_image=is_image and header.number("Rows") is not None,
        series_uid=series.uid,
        sop_instance_uid=header.text("SOPInstanceUID"),
        instance_number=int(header.number("InstanceNumber") or 0),
        image_type=image_type,
        sequence_name=sequence_name(header),
        scanning_sequence=scanning_sequence(header),
        echo_time_ms=header.number("EchoTime", "EffectiveEchoTime"),
        repetition_time_ms=header.number("RepetitionTime"),
        acquired_at=_acquired_at(header),
        frame_of_reference_uid=header.text("FrameOfReferenceUID"),
        rows=int(header.number("Rows") or 0),
        columns=int(header.number("Columns") or 0),
        position_mm=header.numbers("ImagePositionPatient", count=3),
        orientation=header.numbers("ImageOrientationPatient", count=6),
        pixel_spacing_mm=header.numbers("PixelSpacing", count=2),
        slice_thickness_mm=header.number("SliceThickness"),
        slice_location_mm=header.number("SliceLocation"),
        b_value_s_per_mm2=b_value.b_value_s_per_mm2,
        b_value_source=b_value.source,
        directionality=b_value.directionality or (gradient_of(header) if b_value.b_value_s_per_mm2 else ""),
        component=component_of(header, image_type, series.description, rules),
        contrast=contrast_of(header, image_type, series.description, rules),
        derivation=header.text("DerivationDescription"),
        is_3d=header.text("MRAcquisitionType") == "3D",
        spacing_between_slices_mm=header.number("SpacingBetweenSlices"),
        planned_slices=planned_slices(header),
        acquisition_number=int(header.number("AcquisitionNumber") or 0),
        phase_encoding=phase_encoding(header),
    )


def _body_part(header: Header) -> str:
    """Return the body part in capitals: the classic word, else the meaning of an Enhanced object's anatomic region."""
    named = header.text("BodyPartExamined")
    regions = [] if named else header.top.sequence(ANATOMIC_REGION)
    return (named or (Header(regions[:1]).text("CodeMeaning") if regions else "")).upper()


def _acquired_at(header: Header) -> str:
    """Return the time of acquisition as text that sorts by time, '' when the header holds none."""
    moment = header.text("FrameAcquisitionDateTime", "AcquisitionDateTime")
    if moment:
        return moment
    time = header.text("AcquisitionTime", "SeriesTime")
    return header.text("AcquisitionDate", "SeriesDate", "StudyDate") + time if time else ""
