"""DICOM headers as frozen series: everything that selection and geometry need, read once, and no pixels."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
)

from prostate_alm.imaging.bvalue import find_b_value, sequence_name
from prostate_alm.imaging.header import Header, headers_of

logger = logging.getLogger(__name__)

Triple = tuple[float, ...]


class StudyRefused(ValueError):
    """A study that cannot be used: a stable `code` (docs/dicom.md lists them) and a `reason` of one line."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where the pixels of one image lie in its file.

    `offset` is None where only a decoder can tell (compressed, deflated); `dtype` is numpy's, with byte order.
    """

    path: Path = field(repr=False)  # folders may be named after patients
    frame: int
    offset: int | None
    dtype: str
    bits_stored: int
    slope: float
    intercept: float
    is_complete: bool


@dataclass(frozen=True, slots=True)
class Instance:
    """One image: a classic object, or one frame of a multi-frame object. Lengths in mm, times in ms."""

    pixels: Pixels
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
    position_mm: Triple | None  # LPS, centre of the first voxel
    orientation: Triple | None  # cosines along a row, then down a column
    pixel_spacing_mm: Triple | None  # between rows, between columns
    slice_thickness_mm: float | None
    b_value_s_per_mm2: float | None
    b_value_source: str
    directionality: str


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


def read_series(directory: Path) -> tuple[Series, ...]:
    """Return every series below a folder, headers only, whatever the files are called.

    Args:
        directory: a folder; its subfolders are read, symbolic links to folders are not followed.

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
    return read_folder(directory).series


def read_folder(directory: Path) -> Folder:
    """Return the series below a folder and the files in it that are not images; see `read_series`."""
    _require_folder(directory)
    found: dict[str, list[tuple[Series, Instance]]] = {}
    skipped: list[Skipped] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom on odd values; what matters of them is checked here
        for path in _files(directory):
            outcome = _read_file(path, directory=directory)
            if isinstance(outcome, Skipped):
                skipped.append(outcome)
                continue
            for series, instance in outcome:
                found.setdefault(series.uid, []).append((series, instance))
    series = sorted((_assembled(pairs) for pairs in found.values()), key=lambda one: (one.number, one.uid))
    logger.debug("%d series, %d files skipped", len(series), len(skipped))
    return Folder(tuple(series), tuple(skipped))


def _require_folder(directory: Path) -> None:
    """Refuse a path that is not a folder."""
    if not directory.exists():
        raise FileNotFoundError(f"study must be an existing folder, got {directory}. Check the path.")
    if not directory.is_dir():
        raise NotADirectoryError(f"study must be a folder of DICOM files, got the file {directory}. Name its folder.")


def _files(directory: Path) -> Iterator[Path]:
    """Yield the regular files below a folder, sorted."""
    for folder, subfolders, names in os.walk(directory):
        subfolders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                yield path


def _read_file(path: Path, *, directory: Path) -> Skipped | list[tuple[Series, Instance]]:
    """Return the images of one file, each with its series (without instances), or why there are none."""
    inside = path.relative_to(directory)
    try:
        with path.open("rb") as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
            if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
                return Skipped(inside, "a DICOMDIR lists files and is no image", is_broken_dicom=False)
            offset, is_complete = _pixel_offset(file, dataset)
        return list(_images(dataset, path=path, offset=offset, is_complete=is_complete))
    except InvalidDicomError:
        return Skipped(inside, "not DICOM", is_broken_dicom=False)
    except Exception as error:  # whatever a damaged file provokes, the others are still read
        return Skipped(inside, f"DICOM whose header cannot be read ({type(error).__name__})", is_broken_dicom=True)


def _pixel_offset(file: BinaryIO, dataset: FileDataset) -> tuple[int | None, bool]:
    """Return where native pixels start (None: a decoder is needed) and whether all of them are there.

    pydicom stopped in front of the pixel element, so the file stands there.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        return None, True  # pydicom inflated all of it; a short stream has already failed
    start = file.tell()
    value = start + (8 if syntax.is_implicit_VR else 12)
    size = file.seek(0, os.SEEK_END)
    if syntax.is_encapsulated:
        return None, _fragments_complete(file, value)
    return value, size - value >= _native_bytes(dataset) > 0


def _native_bytes(dataset: FileDataset) -> int:
    """Return how many bytes the uncompressed pixels of a file take, 0 when it holds no image."""
    samples = int(dataset.get("NumberOfFrames") or 1) * int(dataset.get("SamplesPerPixel") or 1)
    pixels = int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0)
    return samples * pixels * int(dataset.get("BitsAllocated") or 0) // 8


def _fragments_complete(file: BinaryIO, start: int) -> bool:
    """Return whether the fragments of compressed pixels end with their delimiter."""
    file.seek(start)
    while len(item := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", item)
        if (group, element) == (0xFFFE, 0xE0DD):
            return True
        file.seek(length, os.SEEK_CUR)
    return False


def _images(
    dataset: FileDataset, *, path: Path, offset: int | None, is_complete: bool
) -> Iterator[tuple[Series, Instance]]:
    """Yield the images of a data set, each with its series (still without instances)."""
    top = Header((dataset,))
    series = _series(top)
    if not dataset.get("Rows") and top.text("SOPClassUID") not in (MRImageStorage, EnhancedMRImageStorage):
        is_complete = True  # a report or a raw-data object: no image, but whole
    for frame, header in enumerate(headers_of(dataset)):
        yield series, _instance(header, _pixels(header, path, frame=frame, offset=offset, is_complete=is_complete))


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
        body_part=header.text("BodyPartExamined").upper(),
        instances=(),
    )


def _instance(header: Header, pixels: Pixels) -> Instance:
    """Return one image's header, frozen."""
    b_value = find_b_value(header)
    return Instance(
        pixels=pixels,
        sop_instance_uid=header.text("SOPInstanceUID"),
        instance_number=int(header.number("InstanceNumber") or 0),
        image_type=tuple(header.text("FrameType", "ImageType").upper().split("\\")),
        sequence_name=sequence_name(header),
        scanning_sequence=header.text("ScanningSequence") or _enhanced_sequence(header),
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


def _enhanced_sequence(header: Header) -> str:
    """Return the scanning sequence of an Enhanced object in the words of a classic one: SE, GR, EP."""
    words = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE\\GR"}
    echo = words.get(header.text("EchoPulseSequence"), "")
    return f"{echo}\\EP" if header.text("EchoPlanarPulseSequence") == "YES" else echo


def _acquired_at(header: Header) -> str:
    """Return the time of acquisition as text that sorts by time, '' when the header holds none."""
    moment = header.text("FrameAcquisitionDateTime", "AcquisitionDateTime")
    if moment:
        return moment
    time = header.text("AcquisitionTime", "SeriesTime")
    return header.text("AcquisitionDate", "SeriesDate", "StudyDate") + time if time else ""


def _pixels(header: Header, path: Path, *, frame: int, offset: int | None, is_complete: bool) -> Pixels:
    """Return where one image's stored values lie and how they turn into signal."""
    allocated = int(header.number("BitsAllocated") or 0)
    order = "<" if header.layers[-1].is_little_endian else ">"
    kind = "i" if header.number("PixelRepresentation") else "u"
    slope, intercept = _rescale(header)
    frame_bytes = int(header.number("Rows") or 0) * int(header.number("Columns") or 0) * allocated // 8
    return Pixels(
        path=path,
        frame=frame,
        offset=None if offset is None else offset + frame * frame_bytes,
        dtype=f"{order}{kind}{allocated // 8}",
        bits_stored=int(header.number("BitsStored") or allocated),
        slope=slope,
        intercept=intercept,
        is_complete=is_complete,
    )


def _rescale(header: Header) -> tuple[float, float]:
    """Return slope and intercept from stored values to signal.

    Philips rescales each series to its own display range; only with the private scale slope can images of
    two series be compared: signal = (stored RS + RI) / (RS SS).
    """
    slope = header.number("RescaleSlope")
    slope = 1.0 if slope is None else slope
    intercept = header.number("RescaleIntercept") or 0.0
    scale = _philips_scale_slope(header)
    return (1.0 / scale, intercept / (slope * scale)) if scale and slope else (slope, intercept)


def _philips_scale_slope(header: Header) -> float | None:
    """Return Philips' scale slope (2005,xx0E), None for other vendors."""
    value = header.private(0x2005, "Philips MR Imaging DD 001", 0x0E)
    if isinstance(value, bytes):
        return float(struct.unpack_from("<f", value)[0]) if len(value) >= 4 else None
    return None if value is None else float(value)


def _assembled(pairs: Iterable[tuple[Series, Instance]]) -> Series:
    """Return one series with its distinct images in an order that ignores files: the first copy of each object."""
    ordered = sorted(pairs, key=lambda pair: _order(pair[1]))
    distinct: dict[tuple[str, int], Instance] = {}
    for _, instance in ordered:
        distinct.setdefault((instance.sop_instance_uid, instance.pixels.frame), instance)
    series = min((series for series, _ in ordered), key=repr)
    return replace(series, instances=tuple(distinct.values()))


def _order(instance: Instance) -> tuple[int, str, int, bool, str]:
    """Return a sort key of content alone; whole copies come before broken ones."""
    return (
        instance.instance_number,
        instance.sop_instance_uid,
        instance.pixels.frame,
        not instance.pixels.is_complete,
        repr(instance),  # paths are not part of it
    )
