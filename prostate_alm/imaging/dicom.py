"""DICOM headers as frozen series: everything that selection and geometry need, read once, and no pixels."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom.errors import InvalidDicomError
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from prostate_alm.imaging.bvalue import find_b_value, sequence_name
from prostate_alm.imaging.files import files_below, read_header, require_folder
from prostate_alm.imaging.header import ANATOMIC_REGION, Header, headers_of
from prostate_alm.imaging.kinds import (
    component_of,
    contrast_of,
    has_gradient,
    image_kind,
    own_name,
    phase_encoding,
    planned_slices,
    scanning_sequence,
)
from prostate_alm.imaging.pixels import PixelData, Pixels, find_pixel_data, pixels_of, read_signal
from prostate_alm.imaging.rulebook import Rules, default_rules

logger = logging.getLogger(__name__)

Numbers = tuple[float, ...]
_NO_B_MEANS_ZERO = ("TOSHIBA", "CANON")
COPY_TOLERANCE = 1e-3  # mm, or of a cosine


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
    """A file that was not read as an image: its path within the folder and why."""

    path: Path = field(repr=False)
    reason: str
    is_broken_dicom: bool


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds: its series, and the files that were left out."""

    series: tuple[Series, ...]
    skipped: tuple[Skipped, ...]


def read_series(directory: Path, *, rules: Rules | None = None) -> tuple[Series, ...]:
    """Return every series below a folder, headers only, whatever the files are called.

    Args:
        directory: a folder; its subfolders are read, symbolic links to folders are not followed.
        rules: where b-values are and what marks a map; `rules.json` when None.

    Returns:
        Series by number, then uid; empty when nothing is DICOM. `read_folder` also names the skipped files.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: the path is a file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     read_series(Path(empty))
        ()
    """
    return read_folder(directory, rules=rules).series


def read_folder(directory: Path, *, rules: Rules | None = None) -> Folder:
    """Return the series below a folder and the files in it that are not images; see `read_series`."""
    rules = rules or default_rules()
    require_folder(directory)
    found: dict[tuple[str, str, str], list[tuple[Series, Instance]]] = {}
    skipped: list[Skipped] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom on odd values; what matters of them is checked here
        for path in files_below(directory):
            outcome = _read_file(path, directory=directory, rules=rules)
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
                continue
            for series, instance in outcome:
                found.setdefault((series.patient_key, series.study_uid, series.uid), []).append((series, instance))
    assembled = (_assembled(pairs, rules) for pairs in found.values())
    ordered = tuple(sorted(assembled, key=lambda one: (one.number, one.uid)))
    logger.debug("%d series, %d files skipped", len(ordered), len(skipped))
    return Folder(ordered, tuple(skipped))


def _read_file(path: Path, *, directory: Path, rules: Rules) -> Skipped | list[tuple[Series, Instance]]:
    """Return the images of one file, each with its series (without instances), or why there are none."""
    inside = path.relative_to(directory)
    try:
        with path.open("rb") as file:
            header = read_header(file)
            data = find_pixel_data(file, header)
        if header.is_directory:
            return Skipped(inside, "a DICOMDIR lists files and is no image", is_broken_dicom=False)
        top = Header((header.top,))
        if _is_broken(top, data):
            return Skipped(inside, "DICOM that breaks off in its header", is_broken_dicom=True)
        series = _series(top)
        return [
            (
                series,
                _instance(one, series, pixels_of(one, path, frame=frame, data=data), rules, is_image=data.is_present),
            )
            for frame, one in enumerate(headers_of(header.top))
        ]
    except InvalidDicomError:
        return Skipped(inside, "not DICOM", is_broken_dicom=False)
    except Exception as error:  # whatever a damaged file provokes, the others are still read
        return Skipped(inside, f"DICOM whose header cannot be read ({type(error).__name__})", is_broken_dicom=True)


def _is_broken(header: Header, data: PixelData) -> bool:
    """Return whether a file breaks off in its header: no identifiers, or an MR image without its pixels."""
    lacks_pixels = header.text("SOPClassUID") in (MRImageStorage, EnhancedMRImageStorage) and not data.is_present
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
        b_value_s_per_mm2=b_value.b_value_s_per_mm2,
        b_value_source=b_value.source,
        directionality=b_value.directionality or ("DIRECTIONAL" if has_gradient(header) else ""),
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
    regions = () if named else header.top.sequence(ANATOMIC_REGION)
    return (named or (Header(regions[:1]).text("CodeMeaning") if regions else "")).upper()


def _acquired_at(header: Header) -> str:
    """Return the time of acquisition as text that sorts by time, '' when the header holds none."""
    moment = header.text("FrameAcquisitionDateTime", "AcquisitionDateTime")
    if moment:
        return moment
    time = header.text("AcquisitionTime", "SeriesTime")
    return header.text("AcquisitionDate", "SeriesDate", "StudyDate") + time if time else ""


def _assembled(pairs: Iterable[tuple[Series, Instance]], rules: Rules) -> Series:
    """Return one series with its distinct images in an order that ignores files: the first copy of each object."""
    ordered = sorted(pairs, key=lambda pair: _order(pair[1]))
    distinct: dict[tuple[str, int, int], Instance] = {}
    conflicts = set()
    for index, (_, instance) in enumerate(ordered):
        uid = instance.sop_instance_uid
        key = (uid, instance.pixels.frame, 0 if uid else index)  # without an identifier nothing is a copy
        kept = distinct.setdefault(key, instance)
        if kept is not instance and not _is_copy(instance, kept):
            conflicts.add(uid)
    heads = Counter(series for series, instance in ordered if instance.is_image) or Counter(one for one, _ in ordered)
    series = min(heads, key=lambda one: (-heads[one], repr(one)))  # of most images: other objects lack a description
    series = replace(series, instances=tuple(distinct.values()), conflicting_copies=len(conflicts))
    return replace(series, instances=_with_kinds(series, rules))


def _with_kinds(series: Series, rules: Rules) -> tuple[Instance, ...]:
    """Return the images of a series, each with its kind.

    Philips, GE and UIH write b = 0 into every MR image, so b = 0 alone makes diffusion only of echo-planar spin
    echoes. b = 0 has no direction, however it is labelled.
    """
    images = _with_zero_b(series)
    has_weighting = any((one.b_value_s_per_mm2 or 0) > 0 for one in images)
    return tuple(replace(one, kind=_kind(one, series, rules, has_weighting=has_weighting)) for one in images)


def _kind(image: Instance, series: Series, rules: Rules, *, has_weighting: bool) -> str:
    """Return what an image of a series is with respect to diffusion."""
    is_planar = "EP" in image.scanning_sequence and "GR" not in image.scanning_sequence
    return image_kind(
        image.image_type,
        f"{series.name}\\{image.derivation}",
        is_diffusion_weighted=image.b_value_s_per_mm2 is not None and (has_weighting or is_planar),
        sequence_name=image.sequence_name,
        directionality=image.directionality if image.b_value_s_per_mm2 else "",
        rules=rules,
    )


def _with_zero_b(series: Series) -> tuple[Instance, ...]:
    """Return the images of a series, with b = 0 where Toshiba and Canon mean it by leaving the element out."""
    weighted = {_likeness(one) for one in series.instances if one.b_value_s_per_mm2}
    if not weighted or not series.manufacturer.upper().startswith(_NO_B_MEANS_ZERO):
        return series.instances
    return tuple(
        replace(one, b_value_s_per_mm2=0.0, b_value_source="b = 0, which has no element,")
        if one.b_value_s_per_mm2 is None and _likeness(one) in weighted
        else one
        for one in series.instances
    )


def _likeness(image: Instance) -> tuple[object, ...]:
    """Return what images of one diffusion acquisition share."""
    return (image.image_type, image.scanning_sequence, image.echo_time_ms, image.rows, image.columns)


def _is_copy(other: Instance, kept: Instance) -> bool:
    """Return whether two objects of one identifier are the same image, whatever their transfer syntaxes.

    Copies that break off or that cannot be decoded are not compared.
    """
    if _facts(other) != _facts(kept) or not _same_place(other, kept):
        return False
    if not (kept.rows and kept.pixels.is_complete and other.pixels.is_complete):
        return True
    try:
        first, second = (read_signal(one.pixels, rows=one.rows, columns=one.columns) for one in (kept, other))
    except Exception:  # each decoder plug-in has its own exceptions; the one that is used raises them again
        return True
    return np.array_equal(first, second)


def _facts(image: Instance) -> tuple[object, ...]:
    """Return what copies of an image must share to the letter: all that decides how it is used."""
    return (
        (image.rows, image.columns, image.frame_of_reference_uid, image.image_type, image.scanning_sequence),
        (image.sequence_name, image.echo_time_ms, image.b_value_s_per_mm2, image.directionality),
    )


def _same_place(first: Instance, second: Instance) -> bool:
    """Return whether two images lie at one place, but for decimals that an archive has printed anew."""
    for name in ("position_mm", "orientation", "pixel_spacing_mm"):
        one, other = getattr(first, name), getattr(second, name)
        if (one is None) != (other is None):
            return False
        if one is not None and any(abs(a - b) > COPY_TOLERANCE for a, b in zip(one, other, strict=True)):
            return False
    return True


def _order(instance: Instance) -> tuple[int, str, int, bool, str]:
    """Return a sort key of content alone; whole copies come before broken ones."""
    return (
        instance.instance_number,
        instance.sop_instance_uid,
        instance.pixels.frame,
        not instance.pixels.is_complete,
        repr(instance),  # paths are not part of it
    )
