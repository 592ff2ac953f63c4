"""The DICOM files below a folder: which files are DICOM, and their headers without pixels."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.charset import convert_encodings
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pydicom.valuerep import VR

from prostate_alm.imaging.header import SEQUENCES, Layer, ScannedElements, as_text
from prostate_alm.imaging.scan import UnusualFileError, scan_elements

_MAGIC_OFFSET, _MAGIC, _DATA_OFFSET = 128, b"DICM", 132
_LONGEST_SCAN = 1 << 19  # bytes; headers of single images are far shorter
_MEDIA_STORAGE_CLASS, _TRANSFER_SYNTAX, _CHARACTER_SET = 0x00020002, 0x00020010, 0x00080005
_NOT_SCANNED = (ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
_FIRST_GROUPS = (0x0002, 0x0008)  # a data set begins with one of them
_LONGEST_FIRST_VALUE = 1024  # bytes; character sets, group lengths and ImageType are far shorter
_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def require_folder(directory: Path) -> None:
    """Raise `FileNotFoundError` for a path that leads nowhere, `NotADirectoryError` for one to a file."""
    if not directory.exists():
        raise FileNotFoundError(f"study must be an existing folder, got {directory}. Check the path.")
    if not directory.is_dir():
        raise NotADirectoryError(f"study must be a folder of DICOM files, got the file {directory}. Name its folder.")


def files_below(directory: Path) -> Iterator[Path]:
    """Yield the regular files below a folder, sorted; links to folders are not followed."""
    for folder, subfolders, names in os.walk(directory):
        subfolders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                yield path


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a file says before its pixels: its elements, its transfer syntax, and where the pixel element begins."""

    top: Layer
    syntax: UID
    pixels_at: int
    is_directory: bool  # a DICOMDIR, which lists other files


def read_header(file: BinaryIO) -> FileHeader:
    """Return what an open file says before its pixels.

    A file without the 128-byte preamble is read when it begins as a data set does and names its class, object, series
    and study, as files of old archives and of copied network streams do.

    Raises:
        InvalidDicomError: the file is not DICOM.
        Exception: whatever a damaged header provokes.
    """
    data = file.read(_LONGEST_SCAN)
    has_magic = data[_MAGIC_OFFSET:_DATA_OFFSET] == _MAGIC
    if not has_magic and not begins_as_data_set(data):
        raise InvalidDicomError
    try:
        return _scanned(data, _DATA_OFFSET if has_magic else 0)
    except UnusualFileError:
        file.seek(0)
        return _parsed(file, has_magic=has_magic)


def _scanned(data: bytes, start: int) -> FileHeader:
    """Return the header of a file that is explicit little endian and well formed."""
    places, stop = scan_elements(data, start, needed=SEQUENCES)
    if stop == _LONGEST_SCAN:
        raise UnusualFileError  # the file may go on
    elements = ScannedElements(data, places)
    named = elements.get(_TRANSFER_SYNTAX)
    syntax = UID(as_text(named.value)) if named else None
    if syntax is None or syntax in _NOT_SCANNED or not syntax.is_transfer_syntax or syntax.is_implicit_VR:
        raise UnusualFileError
    charset = elements.get(_CHARACTER_SET)
    names = as_text(charset.value).split("\\") if charset else None
    top = Layer(elements, charset=convert_encodings(names))
    is_directory = top.value(_MEDIA_STORAGE_CLASS) == MediaStorageDirectoryStorage
    return FileHeader(top, syntax, stop, is_directory)


def _parsed(file: BinaryIO, *, has_magic: bool) -> FileHeader:
    """Return the header of any other file, through pydicom."""
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=not has_magic)
    if not has_magic and not all(dataset.get(keyword) for keyword in _IDENTIFIERS):
        raise InvalidDicomError
    stop = file.tell()
    is_directory = dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage
    return FileHeader(Layer.of(dataset), transfer_syntax(dataset), stop, is_directory)


def begins_as_data_set(head: bytes) -> bool:
    r"""Return whether bytes begin with a plausible first element: group 2 or 8, a known type, a short value.

    >>> begins_as_data_set(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"), begins_as_data_set(b"some text without meaning")
    (True, False)
    """
    if len(head) < 8:
        return False
    for order in "<>":
        group, _, vr, length = struct.unpack_from(f"{order}HH2sH", head)
        if group in _FIRST_GROUPS and vr.decode("latin-1") in VR.__members__ and length <= _LONGEST_FIRST_VALUE:
            return True
    group, _, length = struct.unpack_from("<HHI", head)
    return group in _FIRST_GROUPS and length <= _LONGEST_FIRST_VALUE


def transfer_syntax(dataset: FileDataset) -> UID:
    """Return the transfer syntax that a file names, else the uncompressed one that its header is written in."""
    named = dataset.file_meta.get("TransferSyntaxUID")
    if named:
        return UID(named)
    is_implicit, is_little_endian = dataset.original_encoding
    if not is_little_endian:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if is_implicit else ExplicitVRLittleEndian
