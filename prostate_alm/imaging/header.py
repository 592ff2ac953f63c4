"""Looking a value up in one image's header, whatever the object: classic, Enhanced multi-frame, private block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

_DIFFUSION = 0x00189117  # MR Diffusion Sequence, which some classic objects have at top level
_SHARED = 0x52009229
_PER_FRAME = 0x52009230


@dataclass(frozen=True, slots=True)
class Header:
    """The data sets that describe one image, innermost first: its own frame, what frames share, the top level."""

    layers: tuple[Dataset, ...]

    def value(self, *keywords: str) -> Any:
        """Return the first value that is present and not empty, trying the keywords in order, else None."""
        for keyword in keywords:
            for layer in self.layers:
                found = _quietly(layer, keyword)
                if found is not None and found != "" and not (isinstance(found, MultiValue) and not found):
                    return found
        return None

    def text(self, *keywords: str) -> str:
        """Return a value as one line of text, several values joined by a backslash, '' when absent."""
        found = self.value(*keywords)
        if found is None:
            return ""
        parts = found if isinstance(found, MultiValue) else (found,)
        line = " ".join("\\".join(as_text(part) for part in parts).split())
        return "".join(filter(str.isprintable, line))  # no escape sequences on a terminal

    def numbers(self, *keywords: str, count: int) -> tuple[float, ...] | None:
        """Return a value of exactly `count` numbers, else None."""
        found = self.value(*keywords)
        parts = tuple(found) if isinstance(found, MultiValue) else (found,)
        values = tuple(as_number(part) for part in parts)
        complete = tuple(value for value in values if value is not None)
        return complete if len(complete) == len(values) == count else None

    def number(self, *keywords: str) -> float | None:
        """Return a value as a number (the first of several), else None."""
        return as_number(self.value(*keywords))

    def private(self, group: int, creator: str, element: int) -> Any:
        """Return the value at `element` of the block that `creator` reserved in `group`, wherever that block is."""
        for layer in self.layers:
            for block in _blocks(layer, group, creator):
                found = layer.get((group << 16) | (block << 8) | element)
                if found is not None and found.value not in (None, "", b""):
                    return found.value
        return None


def headers_of(dataset: Dataset) -> Iterator[Header]:
    """Yield one Header for a classic object and one per frame for an Enhanced multi-frame object."""
    if _PER_FRAME not in dataset:
        diffusion = dataset[_DIFFUSION].value if _DIFFUSION in dataset else ()
        yield Header((*diffusion[:1], dataset))
        return
    shared = dataset[_SHARED].value if _SHARED in dataset else ()
    common = _macros(shared[0]) if shared else ()
    for frame in dataset[_PER_FRAME].value:
        yield Header((*_macros(frame), *common, dataset))


def as_number(value: Any) -> float | None:
    r"""Return a header value as a float: a number, the first of several, text, or bytes that hold text.

    >>> as_number(b"400 "), as_number(b"1000001400\\8\\0\\0"), as_number("nan"), as_number(None)
    (400.0, 1000001400.0, None, None)
    """
    if isinstance(value, MultiValue):
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


def _macros(group: Dataset) -> tuple[Dataset, ...]:
    """Return the functional group itself and the first item of each sequence within it."""
    return (group, *(element.value[0] for element in group if element.VR == "SQ" and element.value))


def _blocks(layer: Dataset, group: int, creator: str) -> Iterator[int]:
    """Yield the block numbers (gggg,00xx) that `creator` reserved in this data set."""
    for tag in layer.keys():  # noqa: SIM118 - iterating a Dataset itself would decode every element
        if tag >> 16 == group and 0x10 <= tag & 0xFFFF <= 0xFF and as_text(layer[tag].value) == creator:
            yield tag & 0xFF


def _quietly(layer: Dataset, keyword: str) -> Any:
    """Return an element's value, or None when it is absent or cannot be read as its own type."""
    tag = _tag(keyword)
    if tag not in layer:
        return None
    element: Any = layer.get_item(tag)
    if not isinstance(element, RawDataElement):
        return element.value
    charset = layer.original_character_set
    try:
        anywhere = element._replace(value_tell=0)  # the place in the file is no part of the value
        return _converted(anywhere, charset if isinstance(charset, str) else tuple(charset))
    except (TypeError, ValueError, OverflowError, NotImplementedError):
        return None


@lru_cache(maxsize=256)
def _tag(keyword: str) -> BaseTag:
    """Return the tag of a keyword, looked up once."""
    return Tag(keyword)


@lru_cache(maxsize=4096)
def _converted(raw: RawDataElement, charset: str | tuple[str, ...]) -> Any:
    """Return the typed value of raw bytes; cached, since the files of a series repeat nearly all of them."""
    return convert_raw_data_element(raw, encoding=charset if isinstance(charset, str) else list(charset)).value
