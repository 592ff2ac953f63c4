"""What the header says of an image's pixels: where they lie, whether all are there, and what a stored value means."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from prostate_alm.imaging.files import FileHeader, PixelElement
from prostate_alm.imaging.header import Header, as_number, as_text

LOSSLESS_SYNTAXES = frozenset(
    {RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL}
)
EITHER_SYNTAXES = frozenset({JPEGLSNearLossless, JPEG2000})  # the header must say that nothing was lost
NATIVE_SYNTAXES = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
_OVERLAY_BIT_POSITION = 0x60000102
_PHILIPS = "Philips MR Imaging DD 001"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the values of an image cannot be used: the code of the refusal, what must be, what was found, what to do."""

    code: str
    rule: str
    found: str
    advice: str = "Send the series again from its archive."

    def at(self, place: str) -> str:
        """Return the reason of a refusal in one line."""
        return f"{self.rule}, got {self.found} in {place}. {self.advice}"


@dataclass(frozen=True, slots=True)
class Rescale:
    """signal = slope × stored + intercept; `scale` is Philips' scale slope, which both are divided by."""

    slope: float = 1.0
    intercept: float = 0.0
    scale: float | None = None

    @property
    def factors(self) -> tuple[float, float]:
        """Return slope and intercept with the scale: signal = (stored RS + RI) / (RS SS) where there is one."""
        if self.scale is None:
            return self.slope, self.intercept
        return 1.0 / self.scale, self.intercept / (self.slope * self.scale)


@dataclass(frozen=True, slots=True)
class Pixels:
    """The stored values of one image: where they lie, what their bits mean, and what is wrong with them.

    `offset` and `length` are of the pixel element's value, in the inflated stream where `is_deflated`; `length` is None
    for fragments. `padding` and `extremes` are stored values: the range that is no image, the smallest and the largest.
    """

    path: Path = field(repr=False)  # folders may be named after patients
    frame: int
    frames: int
    syntax: str
    is_deflated: bool
    offset: int
    length: int | None
    dtype: str
    bits_stored: int
    high_bit: int
    rescale: Rescale
    padding: tuple[int, int] | None
    extremes: tuple[int, int] | None
    has_overlay: bool  # in the bits that are not stored
    is_complete: bool
    is_lossy: bool
    fault: Fault | None

    @property
    def slope(self) -> float:
        """Return the slope from stored values to signal."""
        return self.rescale.factors[0]

    @property
    def intercept(self) -> float:
        """Return the signal of a stored 0."""
        return self.rescale.factors[1]


def pixels_of(header: Header, path: Path, *, frame: int, file: FileHeader) -> Pixels:
    """Return where one image's stored values lie and what they mean.

    Native pixels are complete when the element holds rows × columns × frames, compressed ones when their fragments end
    with a delimiter.

    Reference: DICOM PS3.3 C.7.6.3, C.7.6.16.2.9, C.11.1; PS3.5 8.1.
    """
    element = file.pixels or PixelElement(0, 0, 0)
    allocated = count(header, "BitsAllocated")
    stored = count(header, "BitsStored") or allocated
    order = "<" if header.top.is_little_endian else ">"
    is_signed = count(header, "PixelRepresentation") == 1
    rescale, fault = _rescale(header)
    high = header.number("HighBit")
    return Pixels(
        path=path,
        frame=frame,
        frames=count(header, "NumberOfFrames") or 1,
        syntax=file.syntax,
        is_deflated=file.is_deflated,
        offset=element.offset,
        length=element.length,
        dtype=f"{order}{'i' if is_signed else 'u'}{max(allocated // 8, 1)}",
        bits_stored=stored,
        high_bit=stored - 1 if high is None else int(high),
        rescale=rescale,
        padding=_stored_range(header, "PixelPaddingValue", "PixelPaddingRangeLimit", is_signed=is_signed),
        extremes=_stored_range(
            header, "SmallestImagePixelValue", "LargestImagePixelValue", is_signed=is_signed, needs_both=True
        ),
        has_overlay=bool(header.top.value(_OVERLAY_BIT_POSITION)),
        is_complete=_is_complete(header, path, file),
        is_lossy=_is_lossy(header, file.syntax),
        fault=_form_fault(header, file, high=high) or fault,
    )


def count(header: Header, keyword: str) -> int:
    """Return a whole number of the header, 0 when absent."""
    return int(header.number(keyword) or 0)


def native_bytes(header: Header) -> int:
    """Return how many bytes the uncompressed pixels of a file take."""
    samples = count(header, "SamplesPerPixel") or 1
    frames = count(header, "NumberOfFrames") or 1
    return frames * samples * count(header, "Rows") * count(header, "Columns") * count(header, "BitsAllocated") // 8


def _is_complete(header: Header, path: Path, file: FileHeader) -> bool:
    """Return whether all bytes are there that the header promises."""
    if file.pixels is None:
        return False
    if file.pixels.length is None:
        return _fragments_end(path, file.pixels.offset)
    return file.pixels.available >= max(file.pixels.length, native_bytes(header))


def _fragments_end(path: Path, start: int) -> bool:
    """Return whether the fragments of compressed pixels end with their delimiter."""
    with path.open("rb") as file:
        file.seek(start)
        while len(item := file.read(8)) == 8:
            group, element, length = struct.unpack("<HHL", item)
            if (group, element) == (0xFFFE, 0xE0DD):
                return True
            file.seek(length, 1)
    return False


def _is_lossy(header: Header, syntax: str) -> bool:
    """Return whether compression has lost information, now or before (0028,2110); unknown counts as lost."""
    said = header.text("LossyImageCompression")
    if said == "01" or syntax in NATIVE_SYNTAXES | LOSSLESS_SYNTAXES or not _is_known(syntax):
        return said == "01"
    return not (syntax in EITHER_SYNTAXES and said == "00")


def _is_known(syntax: str) -> bool:
    """Return whether a transfer syntax is one of DICOM's."""
    uid = UID(syntax)
    return uid.is_transfer_syntax and not uid.is_private


_Rule = tuple[str, bool, str, str, str]
"""A code, whether its rule holds, the rule, what was found, and what to do."""


def _form_fault(header: Header, file: FileHeader, *, high: float | None) -> Fault | None:
    """Return what is wrong with the form of the pixels: their element, bits, or photometric interpretation."""
    if file.pixels is None:
        return None
    rules = (*_element_rules(header, file, file.pixels.length), *_value_rules(header, high=high))
    return next((Fault(code, rule, found, advice) for code, holds, rule, found, advice in rules if not holds), None)


def _element_rules(header: Header, file: FileHeader, length: int | None) -> tuple[_Rule, ...]:
    size, is_native = native_bytes(header), file.syntax in NATIVE_SYNTAXES
    name = file.syntax if _is_known(file.syntax) else "an unknown one"
    return (
        (
            "undecodable_pixels",
            _is_known(file.syntax) and not (is_native and length is None),
            "transfer syntax must be one of DICOM, and the one that the pixels are written in",
            f"fragments of {name}" if is_native else f"{name} ({_printable_uid(file.syntax)})",
            "Send it uncompressed.",
        ),
        (
            "damaged_pixels",
            length is None or is_native or length in (size, size + size % 2),
            "pixels in no fragments must fill rows × columns × frames",
            f"{length} bytes for {size}",
            "Send the series again from its archive.",
        ),
        (
            "damaged_pixels",
            length is None or not is_native or length - length % 2 <= size + size % 2,
            "the pixel element must hold rows × columns × frames and no more",
            f"{length} bytes for {size}",
            "Send the series again from its archive.",
        ),
    )


def _value_rules(header: Header, *, high: float | None) -> tuple[_Rule, ...]:
    allocated, stored = count(header, "BitsAllocated"), count(header, "BitsStored")
    photometric, samples = header.text("PhotometricInterpretation"), count(header, "SamplesPerPixel")
    top_bit = (stored or allocated) - 1 if high is None else int(high)
    return (
        (
            "other_values",
            samples in (0, 1) and photometric in ("", "MONOCHROME2"),
            "pixels must be one sample that is brighter for more signal (MONOCHROME2)",
            f"{samples} of {photometric or 'no photometric interpretation'}",
            "Send the original images.",
        ),
        (
            "other_values",
            allocated in (8, 16, 32) and 0 <= stored <= allocated and (stored or allocated) - 1 <= top_bit < allocated,
            "8, 16 or 32 bits must be allocated, and those that are stored lie within them",
            f"{allocated} allocated, {stored} stored, the highest at {top_bit}",
            "Send the series again from its archive.",
        ),
    )


def _printable_uid(text: str) -> str:
    return "".join(one for one in text if one in "0123456789.")[:64]


def _rescale(header: Header) -> tuple[Rescale, Fault | None]:
    """Return how stored values become signal, and what is wrong with it.

    Philips rescales each series to its own display range; only with the private scale slope can images of two series
    be compared. An absent slope is 1 (PS3.3 C.11.1 wants both or neither); an unreadable one is no slope of 1.
    """
    slope, slope_fault = _decimal(header, "RescaleSlope", absent=1.0)
    intercept, intercept_fault = _decimal(header, "RescaleIntercept", absent=0.0)
    scale, scale_fault = _philips_scale_slope(header)
    fault = slope_fault or intercept_fault or scale_fault
    if fault is None and slope <= 0:
        fault = Fault("unreadable_rescale", "rescale slope must be above 0", f"{slope:g}")
    if fault is None and header.top.sequence(0x00283000):
        fault = Fault("unreadable_rescale", "values must be rescaled by a slope", "a look-up table of the modality")
    return (Rescale(), fault) if fault else (Rescale(slope, intercept, scale), None)


def _decimal(header: Header, keyword: str, *, absent: float) -> tuple[float, Fault | None]:
    """Return one number of the header; one that is there and unreadable is a fault."""
    raw = header.raw(keyword)
    if raw is None:
        return absent, None
    text = as_text(raw)
    if not text:
        return absent, None
    value = as_number(text) if "\\" not in text else None
    if value is not None:
        return value, None
    name = "slope" if keyword == "RescaleSlope" else "intercept"
    return absent, Fault("unreadable_rescale", f"rescale {name} must be one number", "something else")


def _philips_scale_slope(header: Header) -> tuple[float | None, Fault | None]:
    """Return Philips' scale slope (2005,xx0E), None for other vendors."""
    value = header.private(0x2005, _PHILIPS, 0x0E)
    if value is None:
        return None, None
    if isinstance(value, bytes) and len(value) >= 4:
        value = struct.unpack_from("<f" if header.top.is_little_endian else ">f", value)[0]
    number = as_number(value)
    if number is not None and number > 0:
        return number, None
    return None, Fault("unreadable_rescale", "Philips' scale slope must be above 0", "something else")


def _stored_range(
    header: Header, first: str, second: str, *, is_signed: bool, needs_both: bool = False
) -> tuple[int, int] | None:
    """Return two stored values of the header, ascending; the second is optional unless both are needed."""
    one, other = (_stored(header.raw(keyword), header, is_signed=is_signed) for keyword in (first, second))
    if one is None or (needs_both and other is None):
        return None
    other = one if other is None else other
    return (one, other) if needs_both else (min(one, other), max(one, other))


def _stored(raw: bytes | None, header: Header, *, is_signed: bool) -> int | None:
    """Return a stored value: 16 bits with or without sign as the pixels are, whatever its element says."""
    if raw is None or len(raw) not in (2, 4):
        return None
    return int.from_bytes(raw, "little" if header.top.is_little_endian else "big", signed=is_signed)
