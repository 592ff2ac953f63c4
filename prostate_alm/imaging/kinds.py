"""What one image is: b-value, component, contrast, and its kind of diffusion image; a series may mix several kinds.

Elements made for the purpose are believed first, then ImageType, then the vendors' own, and names last. A protocol's
name is no name of an image: the map and the computed image carry that of the acquisition they come from.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prostate_alm.imaging.header import Header, as_number, as_text, is_several
from prostate_alm.imaging.rulebook import PrivateElement, Rules, TextPlace, default_rules, found_in

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


MAGNITUDE = "magnitude"
PLAIN = "plain"
IMAGED = {PLAIN: 3, "in_phase": 2, "fat_suppressed": 1, "opposed_phase": 0}
"""The contrasts that serve as T2, the greatest best: fat only lies around the gland, but the model saw it bright."""

_COMPONENTS = {
    **dict.fromkeys(("M", "MAGNITUDE", "MAG"), MAGNITUDE),
    **dict.fromkeys(("P", "PHASE", "PHASE MAP", "PHASEMAP"), "phase"),
    **dict.fromkeys(("R", "REAL", "CR"), "real"),  # Philips: CR is real with its phase corrected
    **dict.fromkeys(("I", "IMAGINARY", "IMAG"), "imaginary"),
}
_GE_COMPONENTS = {1: "phase", 2: "real", 3: "imaginary"}  # (0043,xx2F); 0 is magnitude
_PARTS_OF_DIXON = {
    **dict.fromkeys(("FAT", "F", "FAT_FRACTION", "FF", "FATFRACTION", "PDFF"), "fat"),
    **dict.fromkeys(("WATER", "W"), "fat_suppressed"),
    **dict.fromkeys(("IN_PHASE", "IN", "IP", "INPHASE"), "in_phase"),
    **dict.fromkeys(("OPP_PHASE", "OUT_PHASE", "OPP", "OUT", "OP", "OUTPHASE", "OPPPHASE"), "opposed_phase"),
}
_STIR_INVERSION_MS = (80.0, 300.0)  # fat is nulled at 150 to 230 ms, from 1 to 3 T
_CSA_POLARITY, _CSA_VALUE = b"PhaseEncodingDirectionPositive\0", 100  # bytes from an entry's name to its first value
_LEAST_OF_A_DIRECTION = 0.5  # length of a gradient's unit vector; an isotropic image has none
_DIRECTIONS, _ORIENTATION = 0x00189076, 0x00189089
_VENDORS_VECTORS: tuple[tuple[int, str, tuple[int, ...], str], ...] = (
    (0x0019, "SIEMENS MR HEADER", (0x0E,), "FD"),
    (0x2005, "Philips MR Imaging DD 001", (0xB0, 0xB1, 0xB2), "FL"),
    (0x0065, "Image Private Header", (0x37,), "FD"),
    (0x0019, "GEMS_ACQU_01", (0xBB, 0xBC, 0xBD), "DS"),
)
"""Group, creator, the element of three numbers or the three of one, and their type where a file has lost it."""


def component_of(header: Header, image_type: Sequence[str], description: str, rules: Rules) -> str:
    """Return which part of the complex signal an image shows: magnitude, phase, real or imaginary.

    Enhanced objects say it in (0008,9208); Siemens and UIH in a value of ImageType (M, P, R, I), Philips in one like
    `M_SE`, GE in (0043,xx2F). Who says nothing shows the magnitude.

    Reference: DICOM PS3.3 C.8.13.3.1 (Complex Image Component), C.8.3.1.1.1 (ImageType of MR).

    Example:
        >>> from prostate_alm.imaging.rulebook import default_rules
        >>> component_of(Header(()), ("ORIGINAL", "PRIMARY", "R_SE", "R", "SE"), "", default_rules())
        'real'
    """
    told = _COMPONENTS.get(header.text("ComplexImageComponent").upper())
    if told:
        return told
    found = {_COMPONENTS.get(word) or _COMPONENTS.get(_before_underscore(word)) for word in image_type[2:]} - {None}
    if found:
        return min(name for name in found if name is not None) if MAGNITUDE not in found else MAGNITUDE
    number = as_number(header.private(0x0043, "GEMS_PARM_01", 0x2F))
    if number is not None:
        return _GE_COMPONENTS.get(int(number), MAGNITUDE)
    return "phase" if found_in(description, rules.phase_patterns) else MAGNITUDE


def contrast_of(header: Header, image_type: Sequence[str], description: str, rules: Rules) -> str:
    """Return what is done to the signal of fat: plain, fat_suppressed, inversion, or a part of a Dixon image.

    Reference: DICOM PS3.3 C.8.3.1 (Scanning Sequence, Scan Options, Inversion Time), C.8.13.5.5 (Enhanced:
    Inversion Recovery, Spectrally Selected Suppression, Spectrally Selected Excitation), C.8.13.3.1
    (Acquisition Contrast).
    """
    if _is_inverted(header, description, rules):
        return "inversion"
    suppressed = header.text("SpectrallySelectedSuppression").upper()
    if suppressed == "WATER" or "FAT" in header.text("SpectrallySelectedExcitation").upper():
        return "fat"
    part = _part_of_dixon(image_type, description, rules)
    if part:
        return part
    if suppressed:
        return "fat_suppressed" if "FAT" in suppressed else PLAIN
    return "fat_suppressed" if _is_fat_suppressed(header, description, rules) else PLAIN


def image_kind(
    image_type: Sequence[str],
    names: str,
    *,
    is_diffusion_weighted: bool,
    sequence_name: str,
    directionality: str,
    rules: Rules,
) -> str:
    """Return what one image is with respect to diffusion: none, adc, computed, direction or trace.

    ImageType is believed when it says ADC, not when it says TRACEW: computed images carry that, too. An image that
    is ORIGINAL was acquired, whatever it is called.

    Args:
        image_type: words of ImageType or FrameType, in capitals.
        names: the series' description and (0008,2111), how the image was derived.
        is_diffusion_weighted: it has a b-value that means diffusion.
        sequence_name: name of the pulse sequence.
        directionality: as `find_b_value` returns it.
        rules: words that mark maps and computed images.

    Example:
        >>> from prostate_alm.imaging.rulebook import default_rules
        >>> told = {"sequence_name": "*ep_b50_800", "directionality": "", "rules": default_rules()}
        >>> image_kind(("DERIVED", "TRACEW"), "ep2d_diff", is_diffusion_weighted=True, **told)
        'computed'
    """
    is_trace = any(word.startswith("TRACE") for word in image_type)
    is_acquired = image_type[:1] == ("ORIGINAL",) and is_diffusion_weighted
    if not set(rules.map_image_types).isdisjoint(image_type):
        return "adc"
    if not is_trace and not is_acquired and found_in(names, rules.adc_patterns):
        return "adc"
    if not is_diffusion_weighted:
        return "none"
    if is_b_value_range(sequence_name) or found_in("\\".join((*image_type, names)), rules.computed_patterns):
        return "computed"
    is_direction = directionality == "DIRECTIONAL" or (directionality == "BMATRIX" and not is_trace)
    return "direction" if is_direction else "trace"


def gradient_of(header: Header) -> str:
    """Return DIRECTIONAL or BMATRIX where a vector names the direction of an image's diffusion gradient, else ''.

    BMATRIX for the vendors' own: an image that calls itself a trace may have kept the vector of one of its parts. An
    isotropic image has none, or zeros.

    Reference: DICOM PS3.3 C.8.13.5.9, Diffusion Gradient Orientation (0018,9089), at the top or in (0018,9076).
    """
    nested = (item.value(_ORIENTATION) for layer in header.layers for item in layer.sequence(_DIRECTIONS))
    if any(_is_direction([value]) for value in (header.value("DiffusionGradientOrientation"), *nested)):
        return "DIRECTIONAL"
    for group, creator, elements, vr in _VENDORS_VECTORS:
        if _is_direction([unpacked(header.private(group, creator, element), vr=vr) for element in elements]):
            return "BMATRIX"
    return ""


def own_name(description: str, protocol: str) -> str:
    """Return what the description of a series says beyond the name of its protocol, which its maps carry, too.

    >>> own_name("DWI with ADC_TRACEW", "DWI with ADC"), own_name("ADC", "DWI"), own_name("", "ADC")
    ('_TRACEW', 'ADC', '')
    """
    return description.removeprefix(protocol) or description


def scanning_sequence(header: Header) -> str:
    """Return the scanning sequence in the words of a classic object: SE, GR, EP.

    Philips calls an echo-planar spin echo SE and gives its EPI factor in a private element.
    """
    spelled = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE\\GR"}
    named = header.text("ScanningSequence") or spelled.get(header.text("EchoPulseSequence"), "")
    factor = as_number(header.private(0x2001, "Philips Imaging DD 001", 0x13))
    is_planar = header.text("EchoPlanarPulseSequence") == "YES" or (factor is not None and factor > 1)
    return f"{named}\\EP" if is_planar else named


def planned_slices(header: Header) -> int | None:
    """Return how many slices the scanner planned: Philips (2001,xx18), GE (0021,xx4F); others do not say it."""
    for group, creator, element in ((0x2001, "Philips Imaging DD 001", 0x18), (0x0021, "GEMS_RELA_01", 0x4F)):
        number = as_number(header.private(group, creator, element))
        if number is not None and number > 0:
            return int(number)
    return None


def phase_encoding(header: Header) -> str:
    """Return the axis of phase encoding and, where the header says it, its direction, which distortion follows."""
    axis = header.text("InPlanePhaseEncodingDirection").upper()[:3]
    reordering = header.text("RectilinearPhaseEncodeReordering").upper()  # GE
    sign = {"LINEAR": "+", "REVERSE_LINEAR": "-"}.get(reordering, "")
    csa = header.private(0x0029, "SIEMENS CSA HEADER", 0x10)
    if isinstance(csa, bytes):
        start = csa.find(_CSA_POLARITY)
        told = csa[start + _CSA_VALUE : start + _CSA_VALUE + 1] if start >= 0 else b""
        sign = {b"1": "+", b"0": "-"}.get(told, sign)
    return axis + sign


def _is_inverted(header: Header, description: str, rules: Rules) -> bool:
    """Return whether an inversion pulse prepared the image: STIR, TIRM, FLAIR."""
    if header.text("InversionRecovery") == "YES" or "IR" in header.text("ScanningSequence").split("\\"):
        return True
    if header.text("AcquisitionContrast").upper() in ("STIR", "FLUID_ATTENUATED"):
        return True
    delay_ms = header.number("InversionTime", "InversionTimes")
    if delay_ms is not None and _STIR_INVERSION_MS[0] <= delay_ms <= _STIR_INVERSION_MS[1]:
        return header.text("InversionRecovery") != "NO" and "SPAIR" not in description.upper()
    return found_in(f"{description}\\{sequence_name(header)}", rules.inversion_patterns)


def _part_of_dixon(image_type: Sequence[str], description: str, rules: Rules) -> str:
    """Return which image of a Dixon acquisition this is, '' where it is none."""
    for word in image_type[2:]:
        if word in _PARTS_OF_DIXON:
            return _PARTS_OF_DIXON[word]
    named = {
        "fat": rules.fat_image_patterns,
        "fat_suppressed": rules.water_image_patterns,
        "opposed_phase": rules.opposed_phase_patterns,
    }
    return next((name for name, patterns in named.items() if found_in(description, patterns)), "")


def _is_fat_suppressed(header: Header, description: str, rules: Rules) -> bool:
    """Return whether fat was suppressed, by the scan options, Philips's SPIR (2001,xx21) or the name."""
    options = {word.strip().upper() for word in header.text("ScanOptions").split("\\")}
    if not options.isdisjoint(rules.fat_suppression_options):
        return True
    if as_text(header.private(0x2001, "Philips Imaging DD 001", 0x21) or "").upper() in ("Y", "YES"):
        return True
    is_denied = found_in(description, rules.not_fat_suppressed_patterns)
    return not is_denied and found_in(description, rules.fat_suppressed_patterns)


def _before_underscore(word: str) -> str:
    """Return M of M_SE, where Philips adds the sequence to the component."""
    head, underscore, _ = word.partition("_")
    return head if underscore and len(head) == 1 else ""


def _is_direction(values: Sequence[Any]) -> bool:
    """Return whether values, one of three numbers or three of one, are a vector of a length above 0."""
    parts = [as_number(part) for value in values for part in (value if is_several(value) else (value,))]
    numbers = [one for one in parts if one is not None]
    return len(numbers) == len(parts) == 3 and math.hypot(*numbers) > _LEAST_OF_A_DIRECTION
