"""A fast look at the header of the usual file: explicit little endian, well formed, one image.

pydicom spends most of its time on sequences that nobody asks for. Here they are stepped over, and only the places of
the other elements are kept. Whatever is unusual is left to pydicom: there is one reader whose judgement counts.
"""

from __future__ import annotations

import struct
from collections.abc import Set

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_DATA, _FIRST_OF_PIXEL_GROUP = 0x7FE00010, 0x7FE00000
_SHORT_TYPES = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_TYPES = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_ELEMENT, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<I")

Places = dict[int, tuple[bytes, int, int]]
"""For each tag: type, and where its value begins and ends."""


class UnusualFileError(ValueError):
    """Bytes that this reader leaves to pydicom."""


def scan_elements(data: bytes, start: int, *, needed: Set[int] = frozenset()) -> tuple[Places, int]:
    r"""Return where the elements of an explicit little-endian data set are, without sequences, and where it stops.

    Args:
        data: a file, or its beginning as far as the pixels.
        start: offset of the first element.
        needed: tags of sequences that must not be stepped over.

    Returns:
        The places, and the offset of the pixel element or of the end of the data.

    Raises:
        UnusualFileError: the bytes break off, or hold something else than plain elements and sequences.

    Reference: DICOM PS3.5, 7.1.2 and 7.5.

    Example:
        >>> places, stop = scan_elements(b"\x08\x00\x60\x00CS\x02\x00MR", 0)
        >>> places, stop
        ({524384: (b'CS', 8, 10)}, 10)
    """
    places: Places = {}
    at = start
    while at < len(data):
        tag, vr, begin, length = _element_at(data, at)
        if tag >= _FIRST_OF_PIXEL_GROUP:
            if tag != _PIXEL_DATA:
                raise UnusualFileError
            return places, at
        if vr == b"SQ" or length == _UNDEFINED_LENGTH:
            if tag in needed:
                raise UnusualFileError
            at = _after_value(data, vr, begin, length)
            continue
        at = begin + length
        places[tag] = vr, begin, at
    if at != len(data):
        raise UnusualFileError
    return places, at


def _element_at(data: bytes, at: int) -> tuple[int, bytes, int, int]:
    """Return tag, type, offset and length of the value of one element."""
    try:
        group, element, vr, length = _ELEMENT.unpack_from(data, at)
        if vr in _SHORT_TYPES:
            return group << 16 | element, vr, at + 8, length
        if vr in _LONG_TYPES:
            return group << 16 | element, vr, at + 12, _LENGTH.unpack_from(data, at + 8)[0]
    except struct.error as error:
        raise UnusualFileError from error
    raise UnusualFileError


def _after_value(data: bytes, vr: bytes, begin: int, length: int) -> int:
    """Return the offset behind a value; one of undefined length must be a sequence of explicit items."""
    if length != _UNDEFINED_LENGTH:
        return begin + length
    if vr != b"SQ":
        raise UnusualFileError  # UN of undefined length holds implicit elements
    at = begin
    while True:
        tag, length = _delimiter_at(data, at)
        if tag == _SEQUENCE_END:
            return at + 8
        if tag != _ITEM:
            raise UnusualFileError
        at = at + 8 + length if length != _UNDEFINED_LENGTH else _after_item(data, at + 8)


def _after_item(data: bytes, at: int) -> int:
    """Return the offset behind the elements of an item of undefined length."""
    while True:
        tag, _ = _delimiter_at(data, at)
        if tag == _ITEM_END:
            return at + 8
        _, vr, begin, length = _element_at(data, at)
        at = _after_value(data, vr, begin, length)


def _delimiter_at(data: bytes, at: int) -> tuple[int, int]:
    """Return tag and length of an item or delimiter, which have no type."""
    try:
        group, element, length = struct.unpack_from("<HHI", data, at)
    except struct.error as error:
        raise UnusualFileError from error
    return group << 16 | element, length
