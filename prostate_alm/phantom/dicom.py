"""Writing a synthetic series as DICOM files in the manner of three vendors.

What is the same in all files of a series is encoded once; only what differs from file to file is encoded again.
"""

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from prostate_alm.phantom.protocol import Protocol, b_value_header, sequence_header
from prostate_alm.phantom.render import Grid

FIXED_DATE, FIXED_TIME = "20000101", "120000"  # plainly not a real visit
IMPLEMENTATION_UID = "2.25.187364908201743650918273645091827364509"
PLACEHOLDER_UID = "2.25." + "9" * 39


@dataclass(frozen=True)
class PhantomStack:
    """Parallel slices: pixels (slices, rows, columns), their grid (patient's frame), the b-value in their headers."""

    pixels: NDArray[np.uint16]
    grid: Grid
    b_value_s_per_mm2: float | None


@dataclass(frozen=True)
class PhantomSeries:
    """One series: its role, its number, its stacks, and the b-values that the study acquired."""

    role: str
    number: int
    stacks: tuple[PhantomStack, ...]
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


def write_files(
    series: list[PhantomSeries], directory: Path, *, identifier: str, uid_key: str, protocol: Protocol
) -> list[Path]:
    """Write the series of one study, each into its own folder below `directory`.

    Args:
        series: what to write, in the order of their numbers.
        directory: folder of the study; made where absent.
        identifier: patient id, such as PHANTOM-0001.
        uid_key: text from which all identifiers are derived.
        protocol: whose manner of writing.

    Returns:
        The files, series by series in the order of their instance numbers.

    Reference:
        DICOM PS3.3 A.4, PS3.10 section 7.
    """
    of_study = _encode(_study_header(identifier, uid_key, protocol=protocol))
    preamble = _preamble()
    paths: list[Path] = []
    for one in series:
        folder = directory / f"{one.number:02d}-{one.role.replace(' ', '-')}"
        folder.mkdir(parents=True)
        of_series = of_study | _encode(_series_header(one, uid_key))
        slices = _slices(one, protocol=protocol)
        for number, (stack, position) in enumerate(slices, start=1):
            if position == slices[0][1]:  # a stack begins
                of_stack = of_series | _encode(_stack_header(one, stack, protocol=protocol))
            uid = derived_uid(uid_key, "instance", one.number, number)
            elements = of_stack | _instance_elements(stack, position, number=number, uid=uid)
            paths.append(folder / f"{number:04d}.dcm")
            body = b"".join(encoded for _, encoded in sorted(elements.items()))
            paths[-1].write_bytes(preamble.replace(PLACEHOLDER_UID.encode(), uid.encode()) + body)
    return paths


def _slices(series: PhantomSeries, *, protocol: Protocol) -> list[tuple[PhantomStack, int]]:
    """List stack and position of every file, in the order of their instance numbers."""
    step = -1 if protocol.descending else 1
    return [(stack, position) for stack in series.stacks for position in range(stack.grid.shape[0])[::step]]


def _preamble() -> bytes:
    """Return preamble and file meta information with a placeholder that is as long as every identifier."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = UID(PLACEHOLDER_UID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = "PROSTATE_ALM"
    stream = DicomBytesIO()
    write_file_meta_info(stream, meta)
    return bytes(128) + b"DICM" + stream.getvalue()


def _encode(dataset: Dataset) -> dict[int, bytes]:
    """Encode every element in explicit VR little endian, by tag."""
    encoded: dict[int, bytes] = {}
    for element in dataset:
        stream = DicomBytesIO()
        stream.is_little_endian, stream.is_implicit_VR = True, False
        write_data_element(stream, element, "iso8859")
        encoded[int(element.tag)] = stream.getvalue()
    return encoded


def _element(tag: int, vr: str, value: bytes) -> bytes:
    """Encode one element as `_encode` does, 50 times faster; text is padded to an even length with a space."""
    padded = value + b" " * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    length = struct.pack("<HI", 0, len(padded)) if vr == "OW" else struct.pack("<H", len(padded))
    return head + length + padded


def _study_header(identifier: str, uid_key: str, *, protocol: Protocol) -> Dataset:
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
    dataset.FrameOfReferenceUID = derived_uid(uid_key, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.StudyID = "1"
    dataset.AcquisitionNumber = 1
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.MRAcquisitionType = "2D"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    return dataset


def _series_header(series: PhantomSeries, uid_key: str) -> Dataset:
    dataset = Dataset()
    dataset.SeriesInstanceUID = derived_uid(uid_key, "series", series.number)
    dataset.SeriesNumber = series.number
    return dataset


def _stack_header(series: PhantomSeries, stack: PhantomStack, *, protocol: Protocol) -> Dataset:
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
    dataset.ImageOrientationPatient = [_decimal(value) for value in directions.ravel()]
    dataset.PixelSpacing = [_decimal(row_mm), _decimal(column_mm)]
    dataset.SliceThickness, dataset.SpacingBetweenSlices = _decimal(thickness_mm), _decimal(slice_mm)
    dataset.Rows, dataset.Columns = rows, columns
    if stack.b_value_s_per_mm2 is not None:
        dataset.update(b_value_header(protocol, stack.b_value_s_per_mm2))
    return dataset


def _instance_elements(stack: PhantomStack, position: int, *, number: int, uid: str) -> dict[int, bytes]:
    """Encode what differs from file to file."""
    pixels, grid = stack.pixels[position], stack.grid
    corner_mm = grid.origin_mm + position * grid.steps_mm[2]
    normal = np.cross(grid.steps_mm[0], grid.steps_mm[1])
    location_mm = float(corner_mm @ normal / np.linalg.norm(normal))
    low, high = int(pixels.min()), int(pixels.max())
    place = "\\".join(_decimal(value) for value in corner_mm)
    elements = {
        0x00080018: ("UI", uid.encode()),
        0x00200013: ("IS", str(number).encode()),
        0x00200032: ("DS", place.encode()),
        0x00201041: ("DS", _decimal(location_mm).encode()),
        0x00280106: ("US", struct.pack("<H", low)),
        0x00280107: ("US", struct.pack("<H", high)),
        0x00281050: ("DS", str(high // 2).encode()),
        0x00281051: ("DS", str(max(high, 1)).encode()),
        0x7FE00010: ("OW", pixels.astype("<u2").tobytes()),
    }
    return {tag: _element(tag, vr, value) for tag, (vr, value) in elements.items()}


def _decimal(value: float) -> str:
    """Format at most 16 characters; rounding noise below a nanometre becomes 0."""
    return format_number_as_ds(round(float(value), 12) + 0.0)
