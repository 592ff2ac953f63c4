"""DICOM headers as frozen series: everything that selection and geometry need, read once, and no pixels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom.errors import InvalidDicomError
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from prostate_alm.imaging.apart import StoppedError, call_apart
from prostate_alm.imaging.bvalue import find_b_value, sequence_name
from prostate_alm.imaging.files import UNREADABLE_FOLDER, FileHeader, entries_below, read_header, require_folder
from prostate_alm.imaging.header import ANATOMIC_REGION, Header, as_number, headers_of
from prostate_alm.imaging.kinds import image_kind
from prostate_alm.imaging.limits import OverLimitError
from prostate_alm.imaging.pixels import Pixels, pixels_of
from prostate_alm.imaging.rulebook import Rules, default_rules
from prostate_alm.imaging.signal import read_signal

logger = logging.getLogger(__name__)

Numbers = tuple[float, ...]
COPY_TOLERANCE = 1e-3  # mm, or of a cosine
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
    sop_instance_uid: str
    instance_number: int
    image_type: tuple[str, ...]
    sequence_name: str
    scanning_sequence: str
    scan_options: str
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
    kind: str = "none"  # none, adc, computed, direction or trace; see `image_kind`


@dataclass(frozen=True, slots=True)
class Series:
    """All images of one series, in an order that depends on their content alone."""

    number: int
    uid: str
    study_uid: str
    patient_key: str = field(repr=False)  # a digest: good for equality and for nothing else
    description: str
    modality: str
    manufacturer: str
    field_strength_t: float | None
    body_part: str
    instances: tuple[Instance, ...] = field(repr=False)
    conflicting_copies: int = 0  # objects of which there are copies that differ

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
    """Return the series below a folder and the files in it that are not images; see `read_series`.

    The files are read in a process of their own (`apart.py`); one that stops it is the only one that the folder skips.
    """
    require_folder(directory)
    try:
        return call_apart(_folder, directory, rules or default_rules())
    except StoppedError as error:
        return Folder((), (Skipped(Path(), error.reason, error.code),))


def _folder(directory: Path, rules: Rules) -> Folder:
    """Return what `read_folder` does, read in this process."""
    found: dict[tuple[str, str, str], list[tuple[Series, Instance]]] = {}
    skipped: list[Skipped] = []
    for path, fault in entries_below(directory):
        outcome = _other_entry(path, fault, directory=directory) if fault else _read_file(path, directory, rules)
        if isinstance(outcome, Skipped):
            skipped.append(outcome)
            continue
        for series, instance in outcome:
            found.setdefault((series.patient_key, series.study_uid, series.uid), []).append((series, instance))
    assembled = (_assembled(pairs, rules) for pairs in found.values())
    ordered = tuple(sorted(assembled, key=lambda one: (one.number, one.uid)))
    folder = Folder(ordered, tuple(skipped))
    logger.debug("%d series, %d files skipped", len(ordered), len(skipped))
    return replace(folder, skipped=tuple(_judged(one, _kinds_of_names(folder), directory) for one in skipped))


def _other_entry(path: Path, fault: str, *, directory: Path) -> Skipped:
    """Return a link, a device or a folder that cannot be read; only the last can hide a part of the study."""
    code = "unreadable_file" if fault == UNREADABLE_FOLDER else ""
    return Skipped(path.relative_to(directory), fault, code)


def _kinds_of_names(folder: Folder) -> frozenset[tuple[Path, str]]:
    """Return the folders of the images, each with the suffixes of their names."""
    paths = (image.pixels.path for series in folder.series for image in series.instances)
    return frozenset((path.parent, path.suffix) for path in paths)


def _judged(skipped: Skipped, kinds: frozenset[tuple[Path, str]], directory: Path) -> Skipped:
    """Return a file that is no DICOM, as a lost image where it is empty or binary and named as images beside it."""
    path = directory / skipped.path
    if skipped.code or skipped.reason not in (EMPTY, NOT_DICOM) or (path.parent, path.suffix) not in kinds:
        return skipped
    with path.open("rb") as file:
        is_text = b"\0" not in (head := file.read(256)) and bool(head)
    return skipped if is_text else replace(skipped, reason=f"{skipped.reason}, between images", code="truncated")


def _read_file(path: Path, directory: Path, rules: Rules) -> Skipped | list[tuple[Series, Instance]]:
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
            (series, _instance(one, pixels_of(one, path, frame=frame, file=header), rules))
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
        modality=header.text("Modality"),
        manufacturer=header.text("Manufacturer"),
        field_strength_t=header.number("MagneticFieldStrength"),
        body_part=_body_part(header),
        instances=(),
    )


def _instance(header: Header, pixels: Pixels, rules: Rules) -> Instance:
    """Return one image's header, frozen."""
    b_value = find_b_value(header, rules=rules)
    return Instance(
        pixels=pixels,
        sop_instance_uid=header.text("SOPInstanceUID"),
        instance_number=int(header.number("InstanceNumber") or 0),
        image_type=tuple(header.text("FrameType", "ImageType").upper().split("\\")),
        sequence_name=sequence_name(header),
        scanning_sequence=_scanning_sequence(header),
        scan_options=header.text("ScanOptions") or _enhanced_options(header),
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
        directionality=b_value.directionality,
    )


def _body_part(header: Header) -> str:
    """Return the body part in capitals: the classic word, else the meaning of an Enhanced object's anatomic region."""
    named = header.text("BodyPartExamined")
    regions = [] if named else header.top.sequence(ANATOMIC_REGION)
    return (named or (Header(regions[:1]).text("CodeMeaning") if regions else "")).upper()


def _enhanced_options(header: Header) -> str:
    """Return FS for an Enhanced object whose fat is suppressed, as the scan options of a classic one say it."""
    return "FS" if "FAT" in header.text("SpectrallySelectedSuppression") else ""


def _scanning_sequence(header: Header) -> str:
    """Return the scanning sequence in the words of a classic object: SE, GR, EP.

    Philips calls an echo-planar spin echo SE and gives its EPI factor in a private element.
    """
    spelled = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE\\GR"}
    named = header.text("ScanningSequence") or spelled.get(header.text("EchoPulseSequence"), "")
    factor = as_number(header.private(0x2001, "Philips Imaging DD 001", 0x13))
    is_planar = header.text("EchoPlanarPulseSequence") == "YES" or (factor is not None and factor > 1)
    return f"{named}\\EP" if is_planar else named


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
    series = min((series for series, _ in ordered), key=repr)
    series = replace(series, instances=tuple(distinct.values()), conflicting_copies=len(conflicts))
    return replace(series, instances=_with_kinds(series, rules))


def _with_kinds(series: Series, rules: Rules) -> tuple[Instance, ...]:
    """Return the images of a series, each with its kind.

    Philips, GE and UIH write b = 0 into every MR image, so b = 0 alone does not make diffusion.
    """
    has_weighting = any(value > 0 for value in series.b_values_s_per_mm2)
    kinds = (
        image_kind(
            one.image_type,
            series.description,
            is_diffusion_weighted=one.b_value_s_per_mm2 is not None
            and (has_weighting or "EP" in one.scanning_sequence),
            sequence_name=one.sequence_name,
            directionality=one.directionality,
            rules=rules,
        )
        for one in series.instances
    )
    return tuple(replace(one, kind=kind) for one, kind in zip(series.instances, kinds, strict=True))


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
