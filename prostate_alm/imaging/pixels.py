"""Where the pixels of an image lie in its file, whether all are there, and how stored values become signal."""

from __future__ import annotations

import os
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from prostate_alm.imaging.files import FileHeader
from prostate_alm.imaging.header import Header

LOSSLESS_SYNTAXES = frozenset(
    {RLELossless, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL}
)
EITHER_SYNTAXES = frozenset({JPEGLSNearLossless, JPEG2000})  # the header must say that nothing was lost
_UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PixelData:
    """The pixel element of a file: `offset` is where native values start, None where only a decoder can tell."""

    is_present: bool
    is_complete: bool
    offset: int | None
    is_lossy: bool = False


@dataclass(frozen=True, slots=True)
class Pixels:
    """The stored values of one image: `dtype` is numpy's, with byte order; signal = slope × stored + intercept."""

    path: Path = field(repr=False)  # folders may be named after patients
    frame: int
    offset: int | None
    dtype: str
    bits_stored: int
    slope: float
    intercept: float
    is_complete: bool
    is_lossy: bool


def find_pixel_data(file: BinaryIO, header: FileHeader) -> PixelData:
    """Return where the pixel element of an open file is.

    Native pixels are complete when the file is long enough for rows × columns × frames, compressed ones when
    their fragments end with a delimiter.
    """
    top, syntax = Header((header.top,)), header.syntax
    if syntax == DeflatedExplicitVRLittleEndian:
        # a short stream fails while inflating
        return PixelData(is_present=True, is_complete=True, offset=None, is_lossy=_is_lossy(top, syntax))
    value = header.pixels_at + (8 if syntax.is_implicit_VR else 12)
    size = file.seek(0, os.SEEK_END)
    if size <= value:
        return PixelData(is_present=False, is_complete=False, offset=None)
    if syntax.is_encapsulated or _has_undefined_length(file, value, is_little_endian=syntax.is_little_endian):
        is_complete, offset = _fragments_end(file, value), None
    else:
        is_complete, offset = size - value >= _native_bytes(top), value
    return PixelData(is_present=True, is_complete=is_complete, offset=offset, is_lossy=_is_lossy(top, syntax))


def pixels_of(header: Header, path: Path, *, frame: int, data: PixelData) -> Pixels:
    """Return where one image's stored values lie and how they turn into signal."""
    allocated = _count(header, "BitsAllocated")
    order = "<" if header.top.is_little_endian else ">"
    kind = "i" if header.number("PixelRepresentation") else "u"
    slope, intercept = _rescale(header)
    frame_bytes = _count(header, "Rows") * _count(header, "Columns") * allocated // 8
    return Pixels(
        path=path,
        frame=frame,
        offset=None if data.offset is None else data.offset + frame * frame_bytes,
        dtype=f"{order}{kind}{allocated // 8}",
        bits_stored=_count(header, "BitsStored") or allocated,
        slope=slope,
        intercept=intercept,
        is_complete=data.is_complete,
        is_lossy=data.is_lossy,
    )


def read_signal(pixels: Pixels, *, rows: int, columns: int) -> NDArray[np.float32]:
    """Return the signal of one image, (rows, columns) float32.

    Raises:
        Exception: whatever the decoder of a compressed transfer syntax raises; ValueError for missing bytes.
    """
    return SignalReader().read(pixels, rows=rows, columns=columns)


class SignalReader:
    """Reads the signal of one image after another; a file with many compressed frames is parsed once."""

    def __init__(self) -> None:
        self._opened: tuple[Path, FileDataset] | None = None

    def read(self, pixels: Pixels, *, rows: int, columns: int) -> NDArray[np.float32]:
        """Return the signal of one image, (rows, columns), rescaled as its header says; see `read_signal`.

        Raises:
            ValueError: the pixels are of another shape.
            Exception: as `read_signal`.
        """
        native = pixels.offset is not None
        values = _native(pixels, rows=rows, columns=columns) if native else self._decoded(pixels)
        if values.shape != (rows, columns):
            raise ValueError(f"pixels must be {rows} x {columns} of one sample, got {values.shape}. Send them again.")
        signal: NDArray[np.float32] = values.astype(np.float32)
        if (pixels.slope, pixels.intercept) != (1.0, 0.0):
            signal = signal * np.float32(pixels.slope) + np.float32(pixels.intercept)
        return signal

    def _decoded(self, pixels: Pixels) -> NDArray[Any]:
        """Return values through pydicom's decoders."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on odd headers; the values themselves either decode or raise
            if self._opened is None or self._opened[0] != pixels.path:
                self._opened = pixels.path, pydicom.dcmread(pixels.path)
            return pixel_array(self._opened[1], index=pixels.frame)


def _native(pixels: Pixels, *, rows: int, columns: int) -> NDArray[Any]:
    """Return uncompressed values straight from the file, unused high bits removed."""
    values = np.fromfile(pixels.path, dtype=pixels.dtype, count=rows * columns, offset=pixels.offset or 0)
    unused = values.dtype.itemsize * 8 - pixels.bits_stored
    if unused:
        values = (values << unused) >> unused  # keeps the sign of signed values
    return values.reshape(rows, columns)


def _native_bytes(header: Header) -> int:
    """Return how many bytes the uncompressed pixels of a file take."""
    frames = _count(header, "NumberOfFrames") or 1
    samples = _count(header, "SamplesPerPixel") or 1
    return frames * samples * _count(header, "Rows") * _count(header, "Columns") * _count(header, "BitsAllocated") // 8


def _has_undefined_length(file: BinaryIO, value: int, *, is_little_endian: bool) -> bool:
    """Return whether the pixel element is compressed, whatever the transfer syntax says: its length is undefined."""
    file.seek(value - 4)
    length = int.from_bytes(file.read(4), "little" if is_little_endian else "big")
    return length == _UNDEFINED_LENGTH


def _is_lossy(header: Header, syntax: UID) -> bool:
    """Return whether compression has lost information, now or before (0028,2110); unknown counts as lost."""
    said = header.text("LossyImageCompression")
    if said == "01" or not syntax.is_encapsulated or syntax in LOSSLESS_SYNTAXES:
        return said == "01"
    return not (syntax in EITHER_SYNTAXES and said == "00")


def _fragments_end(file: BinaryIO, start: int) -> bool:
    """Return whether the fragments of compressed pixels end with their delimiter."""
    file.seek(start)
    while len(item := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", item)
        if (group, element) == (0xFFFE, 0xE0DD):
            return True
        file.seek(length, os.SEEK_CUR)
    return False


def _rescale(header: Header) -> tuple[float, float]:
    """Return slope and intercept from stored values to signal.

    Philips rescales each series to its own display range; only with the private scale slope can images of
    two series be compared: signal = (stored RS + RI) / (RS SS).
    """
    given = header.number("RescaleSlope")
    slope = 1.0 if given is None else given
    intercept = header.number("RescaleIntercept") or 0.0
    scale = _philips_scale_slope(header)
    return (1.0 / scale, intercept / (slope * scale)) if scale and slope else (slope, intercept)


def _philips_scale_slope(header: Header) -> float | None:
    """Return Philips' scale slope (2005,xx0E), None for other vendors."""
    value = header.private(0x2005, "Philips MR Imaging DD 001", 0x0E)
    if isinstance(value, bytes):
        return float(struct.unpack_from("<f", value)[0]) if len(value) >= 4 else None
    return None if value is None else float(value)


def _count(header: Header, keyword: str) -> int:
    """Return a whole number of the header, 0 when absent."""
    return int(header.number(keyword) or 0)
