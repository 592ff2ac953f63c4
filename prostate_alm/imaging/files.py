"""The DICOM files below a folder: which files are DICOM, and what they say before their pixels."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom.charset import convert_encodings
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

from prostate_alm.imaging.header import Layer, as_text
from prostate_alm.imaging.scan import (
    EXPLICIT,
    LIMITS,
    UNDEFINED_LENGTH,
    BreaksOffError,
    DamagedError,
    Encoding,
    Places,
    Scanner,
    encoding_at,
    require_at_most,
)

LINKED_FOLDER = "a linked folder is not followed"
UNREADABLE_FOLDER = "a folder that cannot be read"
_MAGIC_OFFSET, _MAGIC, _DATA_OFFSET = 128, b"DICM", 132
_FIRST_BYTES = 1 << 19  # headers of single images are far shorter
_MEDIA_STORAGE_CLASS, _TRANSFER_SYNTAX, _CHARACTER_SET = 0x00020002, 0x00020010, 0x00080005
PIXEL_DATA = 0x7FE00010
_FIRST_GROUPS = (0x0002, 0x0008)  # a data set begins with one of them
_LONGEST_FIRST_VALUE = 1024  # bytes; character sets, group lengths and ImageType are far shorter
_IDENTIFIERS = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)  # class, object, study, series


def require_folder(directory: Path) -> None:
    """Raise `FileNotFoundError` for a path that leads nowhere, `NotADirectoryError` for one to a file."""
    if not directory.exists():
        raise FileNotFoundError(f"study must be an existing folder, got {directory}. Check the path.")
    if not directory.is_dir():
        raise NotADirectoryError(f"study must be a folder of DICOM files, got the file {directory}. Name its folder.")


def files_below(directory: Path) -> Iterator[Path]:
    """Yield the regular files below a folder, sorted; links to folders are not followed."""
    return (path for path, fault in entries_below(directory) if not fault)


def entries_below(directory: Path) -> Iterator[tuple[Path, str]]:
    """Yield what lies below a folder, sorted, each with the reason for which it is no file to read, '' for files."""
    closed: list[Path] = []
    for folder, subfolders, names in os.walk(directory, onerror=lambda error: closed.append(Path(error.filename))):
        subfolders.sort()
        yield from ((path, LINKED_FOLDER) for path in _linked(folder, subfolders))
        for name in sorted(names):
            path = Path(folder, name)
            yield path, "" if path.is_file() else "neither file nor folder"
    yield from ((path, UNREADABLE_FOLDER) for path in closed)


def _linked(folder: str, subfolders: list[str]) -> list[Path]:
    return [path for name in subfolders if (path := Path(folder, name)).is_symlink()]


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel element's value is: its length is None for one in fragments; `available` bytes are there."""

    offset: int
    length: int | None
    available: int


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a file says before its pixels.

    `syntax` is the transfer syntax that it names, '' for one that names none; `is_deflated` where its data set is
    deflated indeed; `pixels` is None where it has no integer pixel data.
    """

    top: Layer
    syntax: str
    is_deflated: bool
    pixels: PixelElement | None
    is_directory: bool = False  # a DICOMDIR, which lists other files


def read_header(file: BinaryIO) -> FileHeader:
    """Return what an open file says before its pixels.

    A file without the 128-byte preamble is read when it begins as a data set does and names its class, object, series
    and study, as files of old archives and of copied network streams do. Types and order of bytes are those that the
    first element is written in; they are right where the file says otherwise.

    Raises:
        InvalidDicomError: the file is not DICOM.
        BreaksOffError, DamagedError: its header is not whole.
        OverLimitError: its header is longer, or has more of anything, than `LIMITS`.
    """
    head = file.read(_FIRST_BYTES)
    has_magic = head[_MAGIC_OFFSET:_DATA_OFFSET] == _MAGIC
    if not has_magic and not begins_as_data_set(head):
        raise InvalidDicomError
    try:
        header = _whole_header(file, head, _DATA_OFFSET if has_magic else 0)
    except (BreaksOffError, DamagedError) as error:
        if has_magic:
            raise
        raise InvalidDicomError from error  # it only looks like DICOM
    if not has_magic and not all(header.top.raw(tag) for tag in _IDENTIFIERS):
        raise InvalidDicomError
    return header


def inflated(packed: bytes) -> bytes:
    """Return a deflated data set.

    Raises:
        BreaksOffError: the stream does not end.
        OverLimitError: it is longer than `LIMITS.inflated_bytes`.
        zlib.error: it is no such stream.

    Reference: DICOM PS3.5, A.5.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    data = stream.decompress(packed, LIMITS.inflated_bytes + 1)
    require_at_most(len(data), LIMITS.inflated_bytes, "bytes of a deflated file")
    if not stream.eof:
        raise BreaksOffError
    return data


def data_set_at(data: bytes) -> int:
    """Return where the data set of a file begins, behind its meta information."""
    start = _DATA_OFFSET if data[_MAGIC_OFFSET:_DATA_OFFSET] == _MAGIC else 0
    return _meta(data, start)[2]


def _whole_header(file: BinaryIO, head: bytes, start: int) -> FileHeader:
    """Return the header, of which the first bytes are there; most files need no more."""
    try:
        size = os.fstat(file.fileno()).st_size
        scanner, meta, at = _meta(head, start)
        syntax = as_text(Layer(scanner, meta, at).raw(_TRANSFER_SYNTAX) or b"")
        if syntax == DeflatedExplicitVRLittleEndian and not begins_as_data_set(head[at : at + 8]):
            file.seek(at)
            data = inflated(file.read(LIMITS.inflated_bytes))
            return _of_data_set(data, 0, len(data), (scanner, meta, at), syntax, is_deflated=True)
        return _of_data_set(head, at, size, (scanner, meta, at), syntax, is_deflated=False)
    except BreaksOffError:
        if len(head) >= min(size, LIMITS.header_bytes + _FIRST_BYTES):
            require_at_most(size if len(head) < size else 0, LIMITS.header_bytes, "bytes of a header")
            raise
        file.seek(0)
        return _whole_header(file, file.read(LIMITS.header_bytes + _FIRST_BYTES), start)


def _meta(data: bytes, start: int) -> tuple[Scanner, Places, int]:
    """Return the meta information, which is explicit little endian, and where the data set begins."""
    scanner = Scanner(data, encoding_at(data, start) if data[start : start + 2] == b"\x02\x00" else EXPLICIT)
    return scanner, *scanner.meta_elements(start, len(data))


def _of_data_set(
    data: bytes, at: int, size: int, meta: tuple[Scanner, Places, int], syntax: str, *, is_deflated: bool
) -> FileHeader:
    """Return the header of the data set that begins at an offset."""
    encoding = encoding_at(data, at)
    scanner = Scanner(data, encoding)
    places, stop = scanner.elements(at, len(data))
    if stop >= len(data) < size:
        raise BreaksOffError  # the header goes on behind the bytes at hand
    charset = as_text(Layer(scanner, places, stop).raw(_CHARACTER_SET) or b"")
    top = Layer(scanner, places, stop, charset=_encodings(charset))
    media_class = as_text(Layer(meta[0], meta[1], meta[2]).raw(_MEDIA_STORAGE_CLASS) or b"")
    return FileHeader(
        top=top,
        syntax=syntax or _written_in(encoding),
        is_deflated=is_deflated,
        pixels=_pixel_element(scanner, stop, size) if stop < len(data) else None,
        is_directory=media_class == MediaStorageDirectoryStorage,
    )


def _pixel_element(scanner: Scanner, at: int, size: int) -> PixelElement | None:
    try:
        tag, _, begin, length = scanner.element_at(at, len(scanner.data))
    except BreaksOffError:
        return None
    if tag != PIXEL_DATA or begin >= size:
        return None
    return PixelElement(begin, None if length == UNDEFINED_LENGTH else length, size - begin)


def _encodings(charset: str) -> tuple[str, ...]:
    """Return Python's names of DICOM's character sets; one that does not exist is read as the default."""
    return tuple(convert_encodings(charset.split("\\") if charset else None))


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


def _written_in(encoding: Encoding) -> UID:
    """Return the uncompressed transfer syntax of an encoding."""
    if not encoding.is_little_endian:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if encoding.is_implicit else ExplicitVRLittleEndian
