"""Looking a value up in one image's header, whatever the object: classic, Enhanced multi-frame, private block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from pydicom.datadict import private_dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from prostate_alm.imaging.scan import EXPLICIT, UNDEFINED_LENGTH, Encoding, Places, Scanner

DIFFUSION = 0x00189117  # MR Diffusion Sequence, which some classic objects have at top level
SHARED, PER_FRAME = 0x52009229, 0x52009230  # functional groups
ANATOMIC_REGION = 0x00082218
_FAULTS = (TypeError, ValueError, OverflowError, NotImplementedError, LookupError)  # of a value in its own type


class Layer:
    """The elements of one data set, by tag.

    Args:
        scanner: holds the bytes.
        places: where the elements are.
        end: where the data set ends.
        charset: Python's names of the character sets of its text.
        of_vendor: it is an item of a private sequence. Vendors repeat standard elements there with other values
            (Philips: a position that is half a voxel off), so only private elements are looked up in it.
    """

    __slots__ = ("_blocks", "_end", "_places", "_scanner", "charset", "of_vendor")

    def __init__(
        self, scanner: Scanner, places: Places, end: int, *, charset: tuple[str, ...] = (), of_vendor: bool = False
    ) -> None:
        self._scanner, self._places, self._end = scanner, places, end
        self._blocks: dict[tuple[int, str], list[int]] | None = None
        self.charset = charset
        self.of_vendor = of_vendor

    @classmethod
    def scan(cls, data: bytes, encoding: Encoding = EXPLICIT) -> Layer:
        r"""Return a data set in bytes as a layer.

        >>> Layer.scan(b"\x08\x00\x60\x00CS\x02\x00MR").value(0x00080060)
        'MR'
        """
        scanner = Scanner(data, encoding)
        return cls(scanner, scanner.elements(0, len(data))[0], len(data))

    @property
    def is_little_endian(self) -> bool:
        """Return the order of bytes in the data set."""
        return self._scanner.encoding.is_little_endian

    def raw(self, tag: int) -> bytes | None:
        """Return the bytes of an element, None when it is absent."""
        place = self._places.get(tag)
        if place is None or place[2] == UNDEFINED_LENGTH:
            return None
        return self._scanner.data[place[1] : place[1] + place[2]]

    def value(self, tag: int) -> Any:
        """Return an element's value, or None when it is absent or cannot be read as its own type."""
        raw = self.raw(tag)
        return None if raw is None else self._typed(tag, self._places[tag][0], raw)

    def sequence(self, tag: int) -> list[Layer]:
        """Return the items of a sequence, none when it is absent."""
        place = self._places.get(tag)
        if place is None or not self._scanner.is_sequence(place):
            return []
        scanner = self._scanner.within(place)
        is_private = bool(tag >> 16 & 1)
        layers = []
        for begin, end in scanner.items(place, self._end):
            places, _ = scanner.elements(begin, end)
            layers.append(Layer(scanner, places, end, charset=self.charset, of_vendor=is_private))
        return layers

    def sequences(self) -> list[int]:
        """Return the tags of the sequences."""
        return [tag for tag, place in self._places.items() if self._scanner.is_sequence(place)]

    def blocks(self, group: int, creator: str) -> Sequence[int]:
        """Return the block numbers (gggg,00xx) that `creator` reserved, whatever its case and blanks."""
        if self._blocks is None:
            self._blocks = {}
            for tag in self._places:
                if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
                    name = _creator_key(as_text(self.raw(tag) or b""))
                    self._blocks.setdefault((tag >> 16, name), []).append(tag & 0xFF)
        return self._blocks.get((group, _creator_key(creator)), ())

    def private(self, tag: int, creator: str) -> Any:
        """Return the value of a private element, typed if its type is known, else its bytes; None when absent."""
        raw = self.raw(tag)
        if raw is None:
            return None
        vr = self._places[tag][0]
        try:
            vr = vr or private_dictionary_VR(tag, creator).encode()
        except KeyError:
            vr = b"UN"
        typed = self._typed(tag, vr, raw)
        return raw if typed is None else typed

    def _typed(self, tag: int, vr: bytes | None, raw: bytes) -> Any:
        try:
            return _converted(tag, vr, raw, self.is_little_endian, self.charset or "iso8859")
        except _FAULTS:
            return None


class Header:
    """The data sets that describe one image, innermost first: its own frame, what frames share, the top level."""

    __slots__ = ("_standard", "layers")

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self._standard = tuple(one for one in self.layers if not one.of_vendor)

    @property
    def top(self) -> Layer:
        """Return the top-level data set."""
        return self.layers[-1]

    def value(self, *keywords: str) -> Any:
        """Return the first value that is present and not empty, trying the keywords in order, else None."""
        for keyword in keywords:
            tag = _tag(keyword)
            for layer in self._standard:
                found = layer.value(tag)
                if found is not None and found != "" and not (is_several(found) and not found):
                    return found
        return None

    def text(self, *keywords: str) -> str:
        """Return a value as one line of text, several values joined by a backslash, '' when absent."""
        found = self.value(*keywords)
        if found is None:
            return ""
        parts = found if is_several(found) else (found,)
        line = " ".join("\\".join(as_text(part) for part in parts).split())
        return line if line.isprintable() else "".join(filter(str.isprintable, line))  # no escapes on a terminal

    def numbers(self, *keywords: str, count: int) -> tuple[float, ...] | None:
        """Return a value of exactly `count` numbers, else None."""
        found = self.value(*keywords)
        parts = tuple(found) if is_several(found) else (found,)
        values = tuple(as_number(part) for part in parts)
        complete = tuple(value for value in values if value is not None)
        return complete if len(complete) == len(values) == count else None

    def number(self, *keywords: str) -> float | None:
        """Return a value as a number (the first of several), else None."""
        return as_number(self.value(*keywords))

    def raw(self, keyword: str) -> bytes | None:
        """Return the bytes of the first value that is there and not empty, readable or not, else None."""
        found = (layer.raw(_tag(keyword)) for layer in self._standard)
        return next(filter(None, found), None)

    def private(self, group: int, creator: str, element: int) -> Any:
        """Return the value at `element` of the block that `creator` reserved in `group`, wherever that block is."""
        for layer in self.layers:
            for block in layer.blocks(group, creator):
                found = layer.private((group << 16) | (block << 8) | element, creator)
                if found not in (None, "", b""):
                    return found
        return None


def headers_of(top: Layer) -> Iterator[Header]:
    """Yield one Header for a classic object and one per frame for an Enhanced multi-frame object."""
    frames = top.sequence(PER_FRAME)
    if not frames:
        yield Header((*top.sequence(DIFFUSION)[:1], top))
        return
    shared = top.sequence(SHARED)
    common = _macros(shared[0]) if shared else ()
    for frame in frames:
        yield Header((*_macros(frame), *common, top))


def as_number(value: Any) -> float | None:
    r"""Return a header value as a float: a number, the first of several, text, or bytes that hold text.

    >>> as_number(b"400 "), as_number(b"1000001400\\8\\0\\0"), as_number("nan"), as_number(None)
    (400.0, 1000001400.0, None, None)
    """
    if is_several(value):
        value = value[0] if value else None
    if value is None:
        return None
    try:
        number = float(as_text(value).split("\\")[0]) if isinstance(value, bytes | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def as_text(value: Any) -> str:
    """Return a header value as text without its padding; bytes are read as ASCII."""
    text = value.decode("ascii", errors="replace") if isinstance(value, bytes) else str(value)
    return text.strip("\0 \t\r\n")


def is_several(value: Any) -> bool:
    """Return whether a value is one of several; `isinstance` would take ten times as long for an abstract class."""
    return type(value) in (MultiValue, list)  # raw binary numbers become a list


def _macros(group: Layer) -> tuple[Layer, ...]:
    """Return the functional group itself and the first item of each sequence within it."""
    items = (item for tag in group.sequences() for item in group.sequence(tag)[:1])
    return (group, *items)


@lru_cache(maxsize=1024)
def _creator_key(name: str) -> str:
    """Return a private creator as it is compared.

    >>> _creator_key(" PHILIPS  Imaging DD 001 ") == _creator_key("Philips Imaging DD 001")
    True
    """
    return "".join(name.split()).casefold()


@lru_cache(maxsize=256)
def _tag(keyword: str) -> int:
    """Return the tag of a keyword, looked up once."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"keyword must be one of DICOM, got {keyword!r} in a look-up. Correct it.")
    return tag


@lru_cache(maxsize=8192)
def _converted(tag: int, vr: bytes | None, value: bytes, is_little_endian: bool, charset: str | tuple[str, ...]) -> Any:
    """Return the typed value of raw bytes; cached, since the files of a series repeat nearly all of them."""
    named = None if vr is None else vr.decode("ascii")
    raw = RawDataElement(BaseTag(tag), named, len(value), value, 0, vr is None, is_little_endian)
    return convert_raw_data_element(raw, encoding=charset if isinstance(charset, str) else list(charset)).value
