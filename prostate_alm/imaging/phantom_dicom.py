"""Writing a synthetic series as DICOM files in the manner of three vendors.

What is the same in all files of a series is encoded once; only what differs from file to file is encoded again.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from prostate_alm.imaging.phantom_protocol import Protocol, b_value_header, sequence_header
from prostate_alm.imaging.phantom_signal import Grid

FIXED_DATE, FIXED_TIME = "20000101", "120000"  # plainly not a real visit
IMPLEMENTATION_UID = "2.25.187364908201743650918273645091827364509"


@dataclass(frozen=True)
class Stack:
    """Parallel slices: pixels (slices, rows, columns), their grid (patient's frame), the b-value in their headers."""

    pixels: NDArray[np.uint16]
    grid: Grid
    b_value_s_per_mm2: float | None


@dataclass(frozen=True)
class Series:
    """One series: its role, its number, its stacks, and the b-values that the study acquired."""

    role: str
    number: int
    stacks: tuple[Stack, ...]
    b_values_s_per_mm2: tuple[float, ...]


def derived_uid(*parts: object) -> str:
    """Derive a unique identifier under 2.25 that depends on its parts alone; always 44 characters.

    Args:
        parts: anything that tells objects apart.

    Returns:
        The identifier: 2.25 and a number of 39 digits, below 2^128.

    Reference:
        DICOM PS3.5 B.2; ITU-T X.667.

    >>> len(derived_uid("study", 1)), derived_uid("study", 1) == derived_uid("study", 1)
    (44, True)
    """
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    floor = 10**38
    return f"2.25.{floor + int.from_bytes(digest, 'big') % (2**128 - floor)}"


def write_series(series: Series, directory: Path, *, identifier: str, uid_key: str, protocol: Protocol) -> list[Path]:
    """Write one series into its own folder below `directory`.

    Args:
        series: what to write.
        directory: folder of the study; made where absent.
        identifier: patient id, such as PHANTOM-0001.
        uid_key: text from which all identifiers are derived.
        protocol: whose manner of writing.

    Returns:
        The files, in the order of their instance numbers.

    Reference:
        DICOM PS3.3 A.4, PS3.10 section 7.
    """
    folder = directory / f"{series.number:02d}-{series.role.replace(' ', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    common = _encode(_series_header(series, identifier=identifier, uid_key=uid_key, protocol=protocol))
    paths: list[Path] = []
    for stack in series.stacks:
        constant = common | _encode(_stack_header(series, stack, protocol))
        order = range(stack.grid.shape[0])
        for position in reversed(order) if protocol.descending else order:
            number = len(paths) + 1
            uid = derived_uid(uid_key, "instance", series.number, number)
            varying = _encode(_instance_header(stack, position, number=number, uid=uid))
            body = b"".join(encoded for _, encoded in sorted((constant | varying).items()))
            path = folder / f"{number:04d}.dcm"
            path.write_bytes(_preamble(uid) + body)
            paths.append(path)
    return paths


def _preamble(uid: str) -> bytes:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = "PROSTATE_ALM"
    stream = DicomBytesIO()
    write_file_meta_info(stream, meta)
    return bytes(128) + b"DICM" + stream.getvalue()


def _encode(dataset: Dataset) -> dict[int, bytes]:
    """Bytes of every element in explicit VR little endian, by tag."""
    encoded: dict[int, bytes] = {}
    for element in dataset:
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = True, False
        write_data_element(stream, element, "iso8859")
        encoded[int(element.tag)] = stream.getvalue()
    return encoded


def _series_header(series: Series, *, identifier: str, uid_key: str, protocol: Protocol) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.InstanceCreationDate = dataset.StudyDate = dataset.SeriesDate = FIXED_DATE
    dataset.AcquisitionDate = dataset.ContentDate = FIXED_DATE
    dataset.InstanceCreationTime = dataset.StudyTime = dataset.SeriesTime = FIXED_TIME
    dataset.AcquisitionTime = dataset.ContentTime = FIXED_TIME
    dataset.SOPClassUID = MRImageStorage
    dataset.Modality = "MR"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.Manufacturer = protocol.manufacturer
    dataset.ManufacturerModelName = "Synthetic 3T"
    dataset.StudyDescription = "MR prostate phantom"
    dataset.PatientName = "^".join(identifier.split("-", 1))
    dataset.PatientID = identifier
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "M"
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = "Synthetic, never a patient"
    dataset.BodyPartExamined = "PROSTATE"
    dataset.MagneticFieldStrength = "3"
    dataset.ImagedNucleus = "1H"
    dataset.SoftwareVersions = "prostate-alm phantom"
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = derived_uid(uid_key, "study")
    dataset.SeriesInstanceUID = derived_uid(uid_key, "series", series.number)
    dataset.FrameOfReferenceUID = derived_uid(uid_key, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.StudyID = "1"
    dataset.SeriesNumber = series.number
    dataset.AcquisitionNumber = 1
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.update(_pixel_header())
    return dataset


def _pixel_header() -> Dataset:
    dataset = Dataset()
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    return dataset


def _stack_header(series: Series, stack: Stack, protocol: Protocol) -> Dataset:
    """Return what all slices of one stack share: sequence, orientation, spacing, b-value."""
    dataset = sequence_header(
        series.role,
        protocol,
        b_value_s_per_mm2=stack.b_value_s_per_mm2,
        acquired_s_per_mm2=series.b_values_s_per_mm2,
    )
    column_mm, row_mm, slice_mm = stack.grid.spacing_mm
    _, rows, columns = stack.grid.shape
    directions = stack.grid.steps_mm[:2] / np.array([[column_mm], [row_mm]])
    thickness_mm = min(slice_mm, 6.0)  # a localizer leaves gaps
    dataset.MRAcquisitionType = "2D"
    dataset.ImageOrientationPatient = [_decimal(value) for value in directions.ravel()]
    dataset.PixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    dataset.SliceThickness, dataset.SpacingBetweenSlices = _decimal(thickness_mm), _decimal(slice_mm)
    dataset.Rows, dataset.Columns = rows, columns
    if stack.b_value_s_per_mm2 is not None:
        dataset.update(b_value_header(protocol, stack.b_value_s_per_mm2))
    return dataset


def _instance_header(stack: Stack, position: int, *, number: int, uid: str) -> Dataset:
    """Return what differs from file to file."""
    pixels, grid = stack.pixels[position], stack.grid
    corner_mm = grid.origin_mm + position * grid.steps_mm[2]
    normal = np.cross(grid.steps_mm[0], grid.steps_mm[1])
    dataset = Dataset()
    dataset.SOPInstanceUID = uid
    dataset.InstanceNumber = number
    dataset.ImagePositionPatient = [_decimal(value) for value in corner_mm]
    dataset.SliceLocation = _decimal(corner_mm @ normal / np.linalg.norm(normal))
    low, high = int(pixels.min()), int(pixels.max())
    dataset.add_new(0x00280106, "US", low)
    dataset.add_new(0x00280107, "US", high)
    dataset.WindowCenter, dataset.WindowWidth = str(high // 2), str(max(high, 1))
    dataset.add(DataElement(0x7FE00010, "OW", pixels.astype("<u2").tobytes()))
    return dataset


def _decimal(value: float) -> str:
    """Format at most 16 characters; rounding noise below a nanometre becomes 0."""
    return format_number_as_ds(round(float(value), 12) + 0.0)
