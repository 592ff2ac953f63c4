"""Looking a value up in one image's header, whatever the object: classic, Enhanced multi-frame, private block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag

from prostate_alm.imaging.scan import Places

DIFFUSION = 0x00189117  # MR Diffusion Sequence, which some classic objects have at top level
SHARED, PER_FRAME = 0x52009229, 0x52009230  # functional groups
ANATOMIC_REGION = 0x00082218
SEQUENCES = frozenset({DIFFUSION, SHARED, PER_FRAME, ANATOMIC_REGION})
"""The sequences that are looked into."""


class Layer:
    """The elements of one data set, by tag.

    Args:
        elements: raw or decoded elements.
        charset: Python's names of the character sets of raw text.
        is_little_endian: the order of bytes in the data set's file.
        dataset: where the elements are from, to type private ones by their creator's dictionary.
        of_vendor: it is an item of a private sequence. Vendors repeat standard elements there with other values
            (Philips: a position that is half a voxel off), so only private elements are looked up in it.
    """

    __slots__ = ("_blocks", "_charset", "_dataset", "_elements", "is_little_endian", "of_vendor")

    def __init__(
        self,
        elements: Mapping[int, RawDataElement | DataElement],
        *,
        charset: str | Sequence[str],
        is_little_endian: bool = True,
        dataset: Dataset | None = None,
        of_vendor: bool = False,
    ) -> None:
        self._elements = elements
        self._charset = charset if isinstance(charset, str) else tuple(charset)
        self._dataset = dataset
        self._blocks: dict[tuple[int, str], list[int]] | None = None
        self.is_little_endian = is_little_endian
        self.of_vendor = of_vendor

    @classmethod
    def of(cls, dataset: Dataset, *, of_vendor: bool = False) -> Layer:
        """Return a data set of pydicom as a layer."""
        return cls(
            {int(tag): element for tag, element in dataset.items()},  # tags of pydicom compare slowly
            charset=dataset.original_character_set,
            is_little_endian=dataset.original_encoding[1] is not False,
            dataset=dataset,
            of_vendor=of_vendor,
        )

    def value(self, tag: int) -> Any:
        """Return an element's value, or None when it is absent or cannot be read as its own type."""
        element = self._elements.get(tag)
        if not isinstance(element, RawDataElement):
            return None if element is None else element.value
        try:
            return _converted(
                tag, element.VR, element.value, element.is_implicit_VR, element.is_little_endian, self._charset
            )
        except (TypeError, ValueError, OverflowError, NotImplementedError):
            return None

    def sequence(self, tag: int) -> Sequence[Dataset]:
        """Return the items of a sequence, none when it is absent."""
        return self._dataset[tag].value or () if self._dataset is not None and tag in self._elements else ()

    def blocks(self, group: int, creator: str) -> Sequence[int]:
        """Return the block numbers (gggg,00xx) that `creator` reserved."""
        if self._blocks is None:
            self._blocks = {}
            for tag in self._elements:
                if tag >> 16 & 1 and 0x10 <= tag & 0xFFFF <= 0xFF:
                    name = as_text(self._elements[tag].value)
                    self._blocks.setdefault((tag >> 16, name), []).append(tag & 0xFF)
        return self._blocks.get((group, creator), ())

    def private(self, tag: int) -> Any:
        """Return the value of a private element, typed if its type is known, else its bytes; None when absent."""
        if tag not in self._elements:
            return None
        if self._dataset is None:
            typed = self.value(tag)
            return self._elements[tag].value if typed is None else typed
        try:
            return self._dataset[tag].value
        except (TypeError, ValueError, OverflowError, NotImplementedError):
            return self._elements[tag].value


class ScannedElements(Mapping[int, RawDataElement]):
    """Elements whose places in a file's bytes are known; each is cut out when it is asked for."""

    __slots__ = ("_data", "_places")

    def __init__(self, data: bytes, places: Places) -> None:
        self._data = data
        self._places = places

    def __getitem__(self, tag: int) -> RawDataElement:
        vr, begin, end = self._places[tag]
        return RawDataElement(BaseTag(tag), str(vr, "ascii"), end - begin, self._data[begin:end], begin, False, True)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, tag: object) -> bool:
        return tag in self._places

    def get(self, tag: int, default: Any = None) -> Any:
        """Return an element, or the default; without an exception, for most look-ups find nothing."""
        return self[tag] if tag in self._places else default


class Header:
    """The data sets that describe one image, innermost first: its own frame, what frames share, the top level."""

    __slots__ = ("_standard", "layers")

    def __init__(self, layers: Sequence[Dataset | Layer]) -> None:
        self.layers = tuple(one if isinstance(one, Layer) else Layer.of(one) for one in layers)
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
                if found is not None and found != "" and not (_is_several(found) and not found):
                    return found
        return None

    def text(self, *keywords: str) -> str:
        """Return a value as one line of text, several values joined by a backslash, '' when absent."""
        found = self.value(*keywords)
        if found is None:
            return ""
        parts = found if _is_several(found) else (found,)
        line = " ".join("\\".join(as_text(part) for part in parts).split())
        return line if line.isprintable() else "".join(filter(str.isprintable, line))  # no escapes on a terminal

    def numbers(self, *keywords: str, count: int) -> tuple[float, ...] | None:
        """Return a value of exactly `count` numbers, else None."""
        found = self.value(*keywords)
        parts = tuple(found) if _is_several(found) else (found,)
        values = tuple(as_number(part) for part in parts)
        complete = tuple(value for value in values if value is not None)
        return complete if len(complete) == len(values) == count else None

    def number(self, *keywords: str) -> float | None:
        """Return a value as a number (the first of several), else None."""
        return as_number(self.value(*keywords))

    def private(self, group: int, creator: str, element: int) -> Any:
        """Return the value at `element` of the block that `creator` reserved in `group`, wherever that block is."""
        for layer in self.layers:
            for block in layer.blocks(group, creator):
                found = layer.private((group << 16) | (block << 8) | element)
                if found not in (None, "", b""):
                    return found
        return None


def headers_of(data: Dataset | Layer) -> Iterator[Header]:
    """Yield one Header for a classic object and one per frame for an Enhanced multi-frame object."""
    top = data if isinstance(data, Layer) else Layer.of(data)
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
    if _is_several(value):
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


def _is_several(value: Any) -> bool:
    """Return whether a value is one of several; `isinstance` would take ten times as long for an abstract class."""
    return type(value) in (MultiValue, list)  # raw binary numbers become a list


def _macros(group: Dataset) -> tuple[Layer, ...]:
    """Return the functional group itself and the first item of each sequence within it."""
    items = (element for element in group if element.VR == "SQ" and element.value)
    return (Layer.of(group), *(Layer.of(element.value[0], of_vendor=element.tag.is_private) for element in items))


@lru_cache(maxsize=256)
def _tag(keyword: str) -> int:
    """Return the tag of a keyword, looked up once."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"keyword must be one of DICOM, got {keyword!r} in a look-up. Correct it.")
    return tag


@lru_cache(maxsize=8192)
def _converted(
    tag: int,
    vr: str | None,
    value: bytes | None,
    is_implicit_vr: bool,
    is_little_endian: bool,
    charset: str | tuple[str, ...],
) -> Any:
    """Return the typed value of raw bytes; cached, since the files of a series repeat nearly all of them."""
    raw = RawDataElement(BaseTag(tag), vr, len(value or b""), value, 0, is_implicit_vr, is_little_endian)
    return convert_raw_data_element(raw, encoding=charset if isinstance(charset, str) else list(charset)).value
