"""The b-value of one image, in whichever place its vendor keeps it."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

from prostate_alm.imaging.header import Header, as_number, as_text

B_VALUE_LIMIT_S_PER_MM2 = 10_000.0  # no clinical protocol reaches it; above, the number is something else
GE_BIAS = 1_000_000_000  # added by GE to mark a b-value that differs from the prescribed one


@dataclass(frozen=True, slots=True)
class PrivateElement:
    """An element of a private block: found through its creator, read as `vr` when only bytes are left of it."""

    vendor: str
    group: int
    creator: str
    element: int
    vr: str

    @property
    def source(self) -> str:
        """Return the place in words, with xx for the block number, which differs from file to file."""
        return f"{self.vendor} ({self.group:04X},xx{self.element:02X})"


B_VALUE_ELEMENTS = (
    PrivateElement("Siemens", 0x0019, "SIEMENS MR HEADER", 0x0C, "IS"),
    PrivateElement("GE", 0x0043, "GEMS_PARM_01", 0x39, "IS"),
    PrivateElement("Philips", 0x2001, "Philips Imaging DD 001", 0x03, "FL"),
    PrivateElement("UIH", 0x0065, "Image Private Header", 0x09, "FD"),
)
DIRECTIONALITY_ELEMENTS = (
    PrivateElement("Siemens", 0x0019, "SIEMENS MR HEADER", 0x0D, "CS"),
    PrivateElement("Philips", 0x2001, "Philips Imaging DD 001", 0x04, "CS"),
)
DIRECTIONALITY_WORDS = {
    "I": "ISOTROPIC",  # Philips: isotropic; the others are the axes of the gradient
    **dict.fromkeys("PMSO", "DIRECTIONAL"),
}
_SEQUENCE_NAME = re.compile(r"_b(?P<b>\d+)(?:_(?P<upper>\d+)|(?P<direction>#\d+)|t)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BValue:
    """The b-value of one image (None: none found), where it was found, and the direction it stands for."""

    b_value_s_per_mm2: float | None
    source: str
    directionality: str


def find_b_value(header: Header) -> BValue:
    """Return the b-value from the standard element, else the vendor's private one, else the sequence name.

    Args:
        header: what describes one image.

    Returns:
        The value in s/mm², rounded to integers as scanners print it; `b_value_s_per_mm2` is None and `source`
        '' when no place holds one. `directionality` is ISOTROPIC, DIRECTIONAL, NONE, BMATRIX or ''.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> image = Dataset()
        >>> image.DiffusionBValue = 800.0
        >>> find_b_value(Header((image,)))
        BValue(b_value_s_per_mm2=800.0, source='standard (0018,9087)', directionality='')
    """
    standard = plausible_b_value(header.number("DiffusionBValue"))
    if standard is not None:
        return BValue(standard, "standard (0018,9087)", _directionality(header))
    for element in B_VALUE_ELEMENTS:
        value = plausible_b_value(as_number(_decoded(_private(header, element), vr=element.vr)))
        if value is not None:
            return BValue(value, element.source, _directionality(header))
    named = b_value_in_sequence_name(sequence_name(header))
    return BValue(named, "sequence name" if named is not None else "", _directionality(header))


def plausible_b_value(value: float | None) -> float | None:
    """Return a b-value without GE's bias, rounded to an integer, or None when it cannot be one.

    >>> plausible_b_value(1000001400.0), plausible_b_value(49.9998), plausible_b_value(-1.0)
    (1400.0, 50.0, None)
    """
    if value is None or value < 0:
        return None
    unbiased = float(round(value % GE_BIAS))
    return unbiased if unbiased <= B_VALUE_LIMIT_S_PER_MM2 else None


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


def _directionality(header: Header) -> str:
    """Return the diffusion directionality: the standard element, private ones, the sequence name, else ''."""
    standard = header.text("DiffusionDirectionality").upper()
    if standard:
        return standard
    for element in DIRECTIONALITY_ELEMENTS:
        word = as_text(_private(header, element) or "").upper()
        if word:
            return DIRECTIONALITY_WORDS.get(word, word)
    match = _SEQUENCE_NAME.search(sequence_name(header))
    return "DIRECTIONAL" if match and match["direction"] else ""


def _private(header: Header, element: PrivateElement) -> Any:
    """Return the raw value of a private element, or None."""
    return header.private(element.group, element.creator, element.element)


def _decoded(value: Any, *, vr: str) -> Any:
    """Return binary numbers that lost their type (UN, OB) as numbers; everything else as it is."""
    if not isinstance(value, bytes):
        return value
    if vr == "FL" and len(value) >= 4:
        return float(struct.unpack_from("<f", value)[0])
    if vr == "FD" and len(value) >= 8:
        return float(struct.unpack_from("<d", value)[0])
    return value
