"""The b-value of one image, in whichever place its vendor keeps it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from prostate_alm.imaging.header import Header, as_number, as_text
from prostate_alm.imaging.rulebook import PrivateElement, Rules, TextPlace, default_rules

GE_BIAS = 1_000_000_000  # added by GE to mark a b-value that differs from the prescribed one
_BINARY = {"FL": "<f", "FD": "<d", "US": "<H", "SS": "<h", "UL": "<I", "SL": "<i"}
_SEQUENCE_NAME = re.compile(r"_b(?P<b>\d+)(?:_(?P<upper>\d+)|(?P<direction>#\d+)|t)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BValue:
    """The b-value of one image (None: none found), where it was found, and the direction it stands for."""

    b_value_s_per_mm2: float | None
    source: str
    directionality: str


def find_b_value(header: Header, *, rules: Rules | None = None) -> BValue:
    """Return the b-value from the standard element, else a private one, a text or the sequence name.

    Args:
        header: what describes one image.
        rules: the places to look at; `rules.json` when None.

    Returns:
        The value in s/mm², rounded to integers as scanners print it; `b_value_s_per_mm2` is None and `source`
        '' when no place holds one. `directionality` is ISOTROPIC, DIRECTIONAL, NONE, BMATRIX or ''.

    Example:
        >>> from prostate_alm.imaging.header import Layer
        >>> image = Layer.scan(struct.pack("<HH2sHd", 0x0018, 0x9087, b"FD", 8, 800.0))
        >>> find_b_value(Header((image,)))
        BValue(b_value_s_per_mm2=800.0, source='standard (0018,9087)', directionality='')
    """
    rules = rules or default_rules()
    limit = rules.b_value_limit_s_per_mm2
    standard = plausible_b_value(header.number("DiffusionBValue"), limit_s_per_mm2=limit)
    if standard is not None:
        return BValue(standard, "standard (0018,9087)", _directionality(header, rules))
    for element in rules.b_value_elements:
        number = as_number(unpacked(_private(header, element), vr=element.vr))
        value = plausible_b_value(number, limit_s_per_mm2=limit)
        if value is not None:
            return BValue(value, element.source, _directionality(header, rules))
    for place in rules.b_value_texts:
        number, is_direction = _in_text(header, place)
        value = plausible_b_value(number, limit_s_per_mm2=limit)
        if value is not None:
            directionality = "DIRECTIONAL" if is_direction else _directionality(header, rules)
            return BValue(value, f"{place.vendor} {place.keyword}", directionality)
    named = b_value_in_sequence_name(sequence_name(header))
    return BValue(named, "sequence name" if named is not None else "", _directionality(header, rules))


def plausible_b_value(value: float | None, *, limit_s_per_mm2: float = GE_BIAS) -> float | None:
    """Return a b-value without GE's bias, rounded to an integer, or None when it cannot be one.

    >>> plausible_b_value(1000001400.0), plausible_b_value(49.9998), plausible_b_value(-1.0)
    (1400.0, 50.0, None)
    """
    if value is None or value < 0:
        return None
    unbiased = float(round(value % GE_BIAS))
    return unbiased if unbiased <= limit_s_per_mm2 else None


def b_value_in_sequence_name(name: str) -> float | None:
    """Return the b-value of a Siemens sequence name; a range names a map or a computed image and has none.

    >>> b_value_in_sequence_name("*ep_b800t"), b_value_in_sequence_name("*ep_b50_800")
    (800.0, None)
    """
    match = _SEQUENCE_NAME.search(name)
    return plausible_b_value(float(match["b"])) if match and not match["upper"] else None


def is_b_value_range(name: str) -> bool:
    """Return whether a sequence name holds a range of b-values: an ADC map or a computed image.

    >>> is_b_value_range("*ep_b50_800"), is_b_value_range("*ep_b50t"), is_b_value_range("*tse2d1_25")
    (True, False, False)
    """
    match = _SEQUENCE_NAME.search(name)
    return bool(match and match["upper"])


def sequence_name(header: Header) -> str:
    """Return the name of the pulse sequence (its element differs between classic and Enhanced objects)."""
    return header.text("SequenceName", "PulseSequenceName")


def unpacked(value: Any, *, vr: str) -> Any:
    """Return binary numbers that lost their type (UN, OB) as numbers; everything else as it is.

    >>> unpacked(struct.pack("<2f", 0.5, 1.0), vr="FL"), unpacked(b"400 ", vr="IS"), unpacked(3.0, vr="FL")
    ([0.5, 1.0], b'400 ', 3.0)
    """
    layout = _BINARY.get(vr)
    if not isinstance(value, bytes) or layout is None:
        return value
    size = struct.calcsize(layout)
    return [one for (one,) in struct.iter_unpack(layout, value[: len(value) // size * size])] or value


def _directionality(header: Header, rules: Rules) -> str:
    """Return the diffusion directionality: the standard element, private ones, the sequence name, else ''."""
    standard = header.text("DiffusionDirectionality").upper()
    if standard:
        return standard
    for element in rules.directionality_elements:
        word = as_text(_private(header, element) or "").upper()
        told = element.words.get(word, word)
        if told:
            return told
    match = _SEQUENCE_NAME.search(sequence_name(header))
    return "DIRECTIONAL" if match and match["direction"] else ""


def _in_text(header: Header, place: TextPlace) -> tuple[float | None, bool]:
    """Return the b-value that a text holds, and whether the text also names a direction."""
    match = re.search(place.pattern, header.text(place.keyword), re.IGNORECASE)
    if match is None:
        return None, False
    parts = match.groupdict().get("direction") or ""
    return as_number(match["b"]), any(as_number(part) != 0 for part in parts.split(",") if part.strip())


def _private(header: Header, element: PrivateElement) -> Any:
    """Return the raw value of a private element, or None."""
    return header.private(element.group, element.creator, element.element)
