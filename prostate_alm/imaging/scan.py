"""The elements of a data set in bytes: where they are, in any of DICOM's encodings, and nothing of them copied.

A header costs what is asked of it: sequences are stepped over and taken apart on demand, each within `Limits`,
the most that files of strangers may cost: asked before anything is allocated.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


class OverLimitError(ValueError):
    """A file that promises or holds more than any image of a study does; the message is one line."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a study may hold, far above what scanners write, and what the process that reads it may take."""

    header_bytes: int = 32 * 2**20  # before the pixels of one file; the longest Enhanced ones have 20 MiB
    inflated_bytes: int = 256 * 2**20  # of a deflated file
    elements: int = 2_000_000  # of one header, those of its items included
    items: int = 10_000  # of one sequence: frames of an Enhanced object
    depth: int = 32  # sequences within sequences
    matrix: int = 4096  # rows, and columns
    voxels: int = 48 * 2**20  # of all images of a study that are used
    memory_bytes: int = 640 * 2**20  # beyond what the reading process starts with
    computing_s: int = 8  # of one step: the headers of a study, or its pixels
    waiting_s: int = 600  # for one step: a disk may be slow


LIMITS = Limits()


def require_at_most(found: int, limit: int, what: str) -> None:
    """Refuse more than a limit.

    Raises:
        OverLimitError: it is more.

    >>> require_at_most(20_000, LIMITS.matrix, "rows")
    Traceback (most recent call last):
    ...
    prostate_alm.imaging.scan.OverLimitError: rows must be at most 4096, got 20000
    """
    if found > limit:
        raise OverLimitError(f"{what} must be at most {limit}, got {found}")


_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_GROUP = 0x7FE00008  # the first of float, double and integer pixel data
SHORT_TYPES = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_TYPES = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())

Place = tuple[bytes | None, int, int]
"""Type (None where it is implicit), where the value begins, its length, which may be undefined."""
Places = dict[int, Place]


class BreaksOffError(ValueError):
    """Bytes that end within an element."""


class DamagedError(ValueError):
    """Bytes that are no elements."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set is written: whether types are implicit, and the order of bytes."""

    is_implicit: bool
    is_little_endian: bool = True


EXPLICIT, IMPLICIT = Encoding(is_implicit=False), Encoding(is_implicit=True)


def encoding_at(data: bytes, at: int) -> Encoding:
    r"""Return the encoding that the first element of a data set is written in, whatever the file says.

    The group of the smaller number is meant: 0008 and not 0800.

    Reference: DICOM PS3.5, 7.1.

    >>> encoding_at(b"\x08\x00\x60\x00CS\x02\x00MR", 0), encoding_at(b"\x08\x00\x60\x00\x02\x00\x00\x00MR", 0)
    (Encoding(is_implicit=False, is_little_endian=True), Encoding(is_implicit=True, is_little_endian=True))
    """
    if data[at + 4 : at + 6] not in SHORT_TYPES | LONG_TYPES:
        return IMPLICIT
    group = data[at : at + 2]
    return Encoding(is_implicit=False, is_little_endian=int.from_bytes(group, "little") <= int.from_bytes(group, "big"))


class Scanner:
    """Finds the elements of a data set in bytes.

    Args:
        data: a file, or its beginning.
        encoding: how the data set is written.
        limits: what is refused.
    """

    __slots__ = ("_element", "_long", "_steps", "data", "encoding", "limits")

    def __init__(self, data: bytes, encoding: Encoding, limits: Limits = LIMITS) -> None:
        order = "<" if encoding.is_little_endian else ">"
        self.data, self.encoding, self.limits = data, encoding, limits
        self._element = struct.Struct(f"{order}HHI" if encoding.is_implicit else f"{order}HH2sH")
        self._long = struct.Struct(f"{order}I")
        self._steps = 0

    def elements(self, at: int, end: int) -> tuple[Places, int]:
        r"""Return the elements from `at` to the pixels or to the end, and where that is.

        Raises:
            BreaksOffError: an element goes on behind the end.
            DamagedError: the bytes are no elements.
            OverLimitError: more of anything than `limits`.

        Reference: DICOM PS3.5, 7.1 and 7.5.

        Example:
            >>> Scanner(b"\x08\x00\x60\x00CS\x02\x00MR", EXPLICIT).elements(0, 10)
            ({524384: (b'CS', 8, 2)}, 10)
        """
        places: Places = {}
        while at < end:
            tag, vr, begin, length = self.element_at(at, end)
            if tag >= PIXEL_GROUP:
                return places, at
            places[tag] = vr, begin, length
            at = self._after(vr, begin, length, end, depth=0) if length == UNDEFINED_LENGTH else begin + length
        if at > end:
            raise BreaksOffError
        return places, at

    def meta_elements(self, at: int, end: int) -> tuple[Places, int]:
        """Return the elements of group 2 and where they end; what follows may be written in another encoding."""
        places: Places = {}
        while at < end and self.data[at : at + 2] == b"\x02\x00":
            tag, vr, begin, length = self.element_at(at, end)
            places[tag], at = (vr, begin, length), begin + length
        if at > end:
            raise BreaksOffError
        return places, at

    def element_at(self, at: int, end: int) -> tuple[int, bytes | None, int, int]:
        """Return tag, type, offset and length of the value of one element; an undefined length is a large number."""
        self._steps += 1
        if self._steps > self.limits.elements:
            require_at_most(self._steps, self.limits.elements, "elements of a header")
        try:
            if self.encoding.is_implicit:
                group, element, length = self._element.unpack_from(self.data, at)
                return group << 16 | element, None, at + 8, length
            group, element, vr, length = self._element.unpack_from(self.data, at)
            if vr in SHORT_TYPES:
                return group << 16 | element, vr, at + 8, length
            if vr in LONG_TYPES:
                return group << 16 | element, vr, at + 12, self._long.unpack_from(self.data, at + 8)[0]
        except struct.error as error:
            raise BreaksOffError from error
        if not any(self.data[at:end]):  # padded
            return PIXEL_GROUP, None, end, 0
        raise DamagedError

    def items(self, place: Place, end: int) -> list[tuple[int, int]]:
        """Return where the data sets of a sequence begin and end."""
        _, at, length = place
        end = end if length == UNDEFINED_LENGTH else at + length
        found: list[tuple[int, int]] = []
        while at < end:
            tag, size = self._delimiter_at(at)
            if tag == _SEQUENCE_END:
                break
            begin = at + 8
            at = self._after_item(tag, begin, size, end, depth=1)
            found.append((begin, at if size != UNDEFINED_LENGTH else at - 8))
            require_at_most(len(found), self.limits.items, "items of a sequence")
        return found

    def is_sequence(self, place: Place) -> bool:
        """Return whether a value is a sequence; where no type says so, its first bytes do."""
        vr, begin, length = place
        if vr not in (b"SQ", b"UN", None):
            return False
        order = "<" if self.encoding.is_little_endian else ">"
        return length >= 8 and self.data[begin : begin + 4] == struct.pack(f"{order}HH", 0xFFFE, 0xE000)

    def within(self, place: Place) -> Scanner:
        """Return the scanner of a sequence's items: those of unknown type are implicit (PS3.5, 6.2.2)."""
        return Scanner(self.data, IMPLICIT, self.limits) if place[0] == b"UN" else self

    def _after(self, vr: bytes | None, begin: int, length: int, end: int, *, depth: int) -> int:
        """Return the offset behind a value."""
        if length != UNDEFINED_LENGTH:
            return begin + length
        if vr not in (b"SQ", b"UN", None):
            raise DamagedError
        require_at_most(depth + 1, self.limits.depth, "sequences within sequences")
        scanner = self.within((vr, begin, length))
        at, count = begin, 0
        while True:
            tag, size = self._delimiter_at(at)
            if tag == _SEQUENCE_END:
                return at + 8
            at = scanner._after_item(tag, at + 8, size, end, depth=depth + 1)
            count += 1
            require_at_most(count, self.limits.items, "items of a sequence")

    def _after_item(self, tag: int, at: int, size: int, end: int, *, depth: int) -> int:
        """Return the offset behind an item."""
        if tag != _ITEM:
            raise DamagedError
        if size != UNDEFINED_LENGTH:
            return at + size
        while True:
            inner, _ = self._delimiter_at(at)
            if inner == _ITEM_END:
                return at + 8
            _, vr, begin, length = self.element_at(at, end)
            at = self._after(vr, begin, length, end, depth=depth)

    def _delimiter_at(self, at: int) -> tuple[int, int]:
        """Return tag and length of an item or delimiter, which have no type."""
        order = "<" if self.encoding.is_little_endian else ">"
        try:
            group, element, length = struct.unpack_from(f"{order}HHI", self.data, at)
        except struct.error as error:
            raise BreaksOffError from error
        return group << 16 | element, length
