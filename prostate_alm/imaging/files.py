"""The DICOM files below a folder: which files are DICOM, and their headers without pixels."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.valuerep import VR

_MAGIC_OFFSET, _MAGIC = 128, b"DICM"
_FIRST_GROUPS = (0x0002, 0x0008)  # a data set begins with one of them
_LONGEST_FIRST_VALUE = 1024  # bytes; character sets, group lengths and ImageType are far shorter
_IDENTIFIERS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")


def require_folder(directory: Path) -> None:
    """Refuse a path that is not a folder."""
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


def read_header(file: BinaryIO) -> FileDataset:
    """Return the data set of an open file up to its pixels; the file is left standing in front of them.

    A file without the 128-byte preamble is read when it begins as a data set does and names its class, object, series
    and study, as files of old archives and of copied network streams do.

    Raises:
        InvalidDicomError: the file is not DICOM.
        Exception: whatever a damaged header provokes.
    """
    head = file.read(_MAGIC_OFFSET + len(_MAGIC))
    has_magic = head[_MAGIC_OFFSET:] == _MAGIC
    if not has_magic and not begins_as_data_set(head):
        raise InvalidDicomError
    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=not has_magic)
    if not has_magic and not all(dataset.get(keyword) for keyword in _IDENTIFIERS):
        raise InvalidDicomError
    return dataset


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
