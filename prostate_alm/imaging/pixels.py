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
from pydicom.uid import DeflatedExplicitVRLittleEndian

from prostate_alm.imaging.header import Header


@dataclass(frozen=True, slots=True)
class PixelData:
    """The pixel element of a file: `offset` is where native values start, None where only a decoder can tell."""

    is_present: bool
    is_complete: bool
    offset: int | None


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


def find_pixel_data(file: BinaryIO, dataset: FileDataset) -> PixelData:
    """Return where the pixel element is; the file must stand where pydicom stopped, in front of it.

    Native pixels are complete when the file is long enough for rows × columns × frames, compressed ones when
    their fragments end with a delimiter.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == DeflatedExplicitVRLittleEndian:
        return PixelData(is_present=True, is_complete=True, offset=None)  # a short stream fails while inflating
    start = file.tell()
    value = start + (8 if syntax.is_implicit_VR else 12)
    size = file.seek(0, os.SEEK_END)
    if size <= value:
        return PixelData(is_present=False, is_complete=False, offset=None)
    if syntax.is_encapsulated:
        return PixelData(is_present=True, is_complete=_fragments_end(file, value), offset=None)
    return PixelData(is_present=True, is_complete=size - value >= _native_bytes(Header((dataset,))), offset=value)


def pixels_of(header: Header, path: Path, *, frame: int, data: PixelData) -> Pixels:
    """Return where one image's stored values lie and how they turn into signal."""
    allocated = _count(header, "BitsAllocated")
    order = "<" if header.layers[-1].original_encoding[1] else ">"
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
    )


def read_signal(pixels: Pixels, *, rows: int, columns: int) -> NDArray[np.float32]:
    """Return the signal of one image, (rows, columns) float32.

    Raises:
        Exception: whatever the decoder of a compressed transfer syntax raises; ValueError for missing bytes.
    """
    values = _native(pixels, rows=rows, columns=columns) if pixels.offset is not None else _decoded(pixels)
    signal: NDArray[np.float32] = values.astype(np.float32)
    if (pixels.slope, pixels.intercept) != (1.0, 0.0):
        signal = signal * np.float32(pixels.slope) + np.float32(pixels.intercept)
    return signal


def _native(pixels: Pixels, *, rows: int, columns: int) -> NDArray[Any]:
    """Return uncompressed values straight from the file, unused high bits removed."""
    values = np.fromfile(pixels.path, dtype=pixels.dtype, count=rows * columns, offset=pixels.offset or 0)
    unused = values.dtype.itemsize * 8 - pixels.bits_stored
    if unused:
        values = (values << unused) >> unused  # keeps the sign of signed values
    return values.reshape(rows, columns)


def _decoded(pixels: Pixels) -> NDArray[Any]:
    """Return values through pydicom's decoders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on odd headers; the values themselves either decode or raise
        return pixel_array(pydicom.dcmread(pixels.path), index=pixels.frame)


def _native_bytes(header: Header) -> int:
    """Return how many bytes the uncompressed pixels of a file take."""
    frames = _count(header, "NumberOfFrames") or 1
    samples = _count(header, "SamplesPerPixel") or 1
    return frames * samples * _count(header, "Rows") * _count(header, "Columns") * _count(header, "BitsAllocated") // 8


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
