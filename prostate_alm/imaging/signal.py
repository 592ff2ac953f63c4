"""From stored values to signal, and whether a scanner can have measured that: nothing else in the program does it."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from prostate_alm.imaging.dicom import Instance, StudyRefused
from prostate_alm.imaging.files import data_set_at, inflated
from prostate_alm.imaging.pixels import Fault, Pixels

Stacks = Sequence[tuple[str, Sequence[Instance]]]
"""Images that lie above each other, with their place in words."""

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_NO_FRAMES = frozenset((0xC4, 0xC8, 0xCC))  # tables and extensions among the numbers of frame headers
_JPEG_LS = 0xF7


def coded_size(frame: bytes) -> tuple[int, int] | None:
    r"""Return rows and columns in the headers of a JPEG, JPEG-LS or JPEG 2000 stream, None for any other.

    Args:
        frame: one frame, without the items that it is sent in.

    Reference: ISO/IEC 10918-1 B.2.2 (frame header), 14495-1 C.2.2 (the same), 15444-1 A.5.1 (SIZ).

    Example:
        >>> coded_size(b"\xff\xd8\xff\xf7\x00\x0b\x0c\x00\x40\x00\x20\x01\x01\x11\x00")
        (64, 32)
    """
    if frame.startswith(_JPEG_2000) and len(frame) >= 24:
        right, lower, left, upper = struct.unpack_from(">IIII", frame, 8)
        return lower - upper, right - left
    at = 2 if frame.startswith(_JPEG) else len(frame)
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker, length = struct.unpack_from(">xBH", frame, at)
        if marker == _JPEG_LS or (0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES):
            rows, columns = struct.unpack_from(">HH", frame, at + 5)
            return rows, columns
        at += 1 if marker == 0xFF else 2 + length  # fill bytes
    return None


LOST_BLOCK_PIXELS = 64  # the shortest run of one value that is looked at; a sector of 512 bytes has 256
LOST_BLOCK_SHARE = 0.5  # of the pixels above and below it that are of other values

_STRIDE = LOST_BLOCK_PIXELS // 4


class PixelFaultError(ValueError):
    """Pixels that cannot be used; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class SignalReader:
    """Reads the signal of one image after another; a file with many compressed frames is opened once."""

    def __init__(self) -> None:
        self._opened: tuple[Path, bytes] | None = None

    def read(self, pixels: Pixels, *, rows: int, columns: int) -> NDArray[np.float32]:
        """Return the signal of one image, (rows, columns): slope × stored + intercept, 0 where it is padded.

        Raises:
            PixelFaultError: the header says what is wrong with the values, or they are not what it says of them.
            Exception: whatever the decoder of a compressed transfer syntax raises; ValueError for missing bytes.

        Reference: DICOM PS3.3 C.7.5.1.1.2 (padding), C.11.1 (rescale); PS3.5 8.1.1 (bits).
        """
        if pixels.fault is not None:
            raise PixelFaultError(pixels.fault)
        values = self._stored(pixels, rows=rows, columns=columns)
        if values.shape != (rows, columns):
            raise ValueError(f"pixels must be {rows} x {columns} of one sample, got {values.shape}. Send them again.")
        is_padding = _padding(values, pixels.padding)
        _require_extremes(values if is_padding is None else values[~is_padding], pixels.extremes)
        signal: NDArray[np.float32] = values.astype(np.float32)
        if (pixels.slope, pixels.intercept) != (1.0, 0.0):
            signal = signal * np.float32(pixels.slope) + np.float32(pixels.intercept)
        if is_padding is not None:
            signal[is_padding] = 0
        return signal

    def _stored(self, pixels: Pixels, *, rows: int, columns: int) -> NDArray[Any]:
        """Return the stored values of one image."""
        if pixels.length is None:
            return self._decoded(pixels, rows=rows, columns=columns)
        dtype, size = np.dtype(pixels.dtype), rows * columns
        at = pixels.offset + pixels.frame * size * dtype.itemsize
        if pixels.is_deflated:
            values = np.frombuffer(self._bytes(pixels), dtype, count=size, offset=at)
        else:
            values = np.fromfile(pixels.path, dtype, count=size, offset=at)
        return _stored_bits(values.reshape(rows, columns), pixels)

    def _decoded(self, pixels: Pixels, *, rows: int, columns: int) -> NDArray[Any]:
        """Return values through a decoder, which sees nothing of the file but one frame and its form."""
        frame = get_frame(self._bytes(pixels), pixels.frame, number_of_frames=pixels.frames)
        coded = coded_size(frame) or (rows, columns)
        if coded != (rows, columns):
            rule = f"compressed pixels must be {rows} × {columns}"
            raise PixelFaultError(Fault("damaged_pixels", rule, f"{coded[0]} × {coded[1]}"))
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = UID(pixels.syntax)
        image.Rows, image.Columns, image.SamplesPerPixel, image.NumberOfFrames = rows, columns, 1, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated = np.dtype(pixels.dtype).itemsize * 8
        image.BitsStored, image.HighBit = pixels.bits_stored, pixels.high_bit
        image.PixelRepresentation = int(np.dtype(pixels.dtype).kind == "i")
        image.PixelData = encapsulate([frame])
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            values = pixel_array(image, index=0)
        if not all(_is_one_byte_of_padding(str(one.message)) for one in told):
            raise ValueError("more pixels than rows × columns")  # what decoders cut off with a warning
        return values

    def _bytes(self, pixels: Pixels) -> bytes:
        """Return the inflated data set of a file, or what follows where its fragments begin."""
        if self._opened is None or self._opened[0] != pixels.path:
            with pixels.path.open("rb") as file:
                if not pixels.is_deflated:
                    file.seek(pixels.offset)
                found = file.read()
            self._opened = pixels.path, inflated(found[data_set_at(found) :]) if pixels.is_deflated else found
        return self._opened[1]


def read_signal(pixels: Pixels, *, rows: int, columns: int) -> NDArray[np.float32]:
    """Return the signal of one image, (rows, columns) float32; see `SignalReader.read`."""
    return SignalReader().read(pixels, rows=rows, columns=columns)


def require_signal(planes: NDArray[np.float32]) -> None:
    """Refuse planes (K, R, C) that no scanner can have measured: constant, nowhere positive, or with lost blocks.

    Raises:
        PixelFaultError: no_signal or damaged_pixels.

    Example:
        >>> require_signal(np.zeros((2, 8, 8), np.float32))
        Traceback (most recent call last):
        ...
        prostate_alm.imaging.signal.PixelFaultError: Fault(code='no_signal', rule='images must hold signal', \
found='one value in all of them', advice='Send the series again from its archive.')
    """
    flat = planes.reshape(len(planes), -1)
    low, high = flat.min(axis=1), flat.max(axis=1)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise PixelFaultError(Fault("no_finite_signal", "signal must be finite", "other numbers"))
    if (low == high).all():
        raise PixelFaultError(Fault("no_signal", "images must hold signal", "one value in all of them"))
    if (low == high).any():
        found = f"one value in {int((low == high).sum())} of {len(planes)}"
        raise PixelFaultError(Fault("damaged_pixels", "every image must hold signal", found))
    if high.max() <= 0:
        raise PixelFaultError(Fault("no_signal", "images must hold signal above 0", "none"))
    lost = next(lost_blocks(planes), None)
    if lost is not None:
        found = f"a run of {lost} pixels of one value between others"
        raise PixelFaultError(Fault("damaged_pixels", "images must be whole", found))


def lost_blocks(planes: NDArray[np.float32]) -> Iterator[int]:
    """Yield the lengths of runs of one value, row after row, whose surroundings are of other values: lost sectors.

    A mask around the body makes such runs too, but above or below them its value goes on.
    """
    flat = planes.reshape(len(planes), -1)
    sampled = flat[:, ::_STRIDE]
    is_same = sampled[:, 1:] == sampled[:, :-1]
    is_candidate = is_same[:, 1:] & is_same[:, :-1]
    for plane in np.flatnonzero(is_candidate.any(axis=1)):
        yield from (end - begin for begin, end in _runs(flat[plane]) if _is_island(planes, int(plane), begin, end))


def _runs(values: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Return where long runs of one value begin and end."""
    edges = np.flatnonzero(values[1:] != values[:-1]) + 1
    bounds = np.concatenate([[0], edges, [len(values)]])
    long = np.flatnonzero(np.diff(bounds) >= LOST_BLOCK_PIXELS)
    return [(int(bounds[one]), int(bounds[one + 1])) for one in long]


def _is_island(planes: NDArray[np.float32], plane: int, begin: int, end: int) -> bool:
    """Return whether the pixels above and below a run are of other values; at an edge, those of the next images."""
    values, width = planes[plane].ravel(), planes.shape[2]
    above = values[max(begin - width, 0) : min(end - width, begin)] if begin >= width else None
    below = values[max(begin + width, end) : end + width] if end + width <= len(values) else None
    others = [one for one in (above, below) if one is not None and len(one)]
    if above is None or below is None:
        near = [one for one in (plane - 1, plane + 1) if 0 <= one < len(planes)]
        others += [planes[one].ravel()[begin:end] for one in near]
    return all((one != values[begin]).mean() > LOST_BLOCK_SHARE for one in others)


def _stored_bits(values: NDArray[Any], pixels: Pixels) -> NDArray[Any]:
    """Return the bits that are stored, the sign of signed values kept.

    The others must be empty, the same in all pixels, or an overlay that the header names.
    """
    allocated = values.dtype.itemsize * 8
    above, below = allocated - 1 - pixels.high_bit, pixels.high_bit + 1 - pixels.bits_stored
    if not above and not below:
        return values
    stored: NDArray[Any] = (values << above) >> (above + below)
    is_empty = stored << below == values
    if values.dtype.kind == "i":  # above a sign there may be copies of it, or nothing
        is_empty |= (stored & ((1 << pixels.bits_stored) - 1)) << below == values
    unused = values & ~np.array(_mask(pixels)).astype(values.dtype)
    if not (is_empty.all() or pixels.has_overlay or (unused == unused[0, 0]).all()):
        found = f"others in {int((~is_empty).sum())} pixels"
        rule = f"values must lie in the {pixels.bits_stored} bits stored"
        raise PixelFaultError(Fault("damaged_pixels", rule, found))
    return stored


def _mask(pixels: Pixels) -> int:
    """Return the bits that are stored, set."""
    return ((1 << pixels.bits_stored) - 1) << (pixels.high_bit + 1 - pixels.bits_stored)


def _padding(values: NDArray[Any], padding: tuple[int, int] | None) -> NDArray[np.bool_] | None:
    """Return which pixels are padding; None where there are none.

    A padding value that lies among the others is no mark: some scanners declare one that signal has as well.
    """
    if padding is None:
        return None
    is_padding = (values >= padding[0]) & (values <= padding[1])
    others = values[~is_padding]
    if not is_padding.any() or not others.size or others.min() < padding[0] <= padding[1] < others.max():
        return None
    return is_padding


def _require_extremes(values: NDArray[Any], extremes: tuple[int, int] | None) -> None:
    """Refuse values outside of what the header says of the smallest and the largest."""
    if extremes is None or extremes[0] >= extremes[1]:  # some writers fill in zeros
        return
    if values.min() < extremes[0] or values.max() > extremes[1]:
        found = f"{values.min()} to {values.max()}"
        rule = f"values must lie between the header's smallest and largest, {extremes[0]} and {extremes[1]}"
        raise PixelFaultError(Fault("damaged_pixels", rule, found))


def _is_one_byte_of_padding(warning: str) -> bool:
    """Return whether a decoder warns of the byte that makes a segment even, which some writers compress, too."""
    lengths = re.search(r"padding - ([0-9]+) vs\. ([0-9]+) bytes", warning)
    return lengths is not None and int(lengths[1]) - int(lengths[2]) == 1


def planes_of(stacks: Stacks) -> list[NDArray[np.float32]]:
    """Return the signal of each stack of images, (K, rows, columns).

    Raises:
        StudyRefused: they cannot be decoded, or cannot be a scanner's signal.
    """
    return [_stack(place, images) for place, images in stacks]


def _stack(place: str, images: Sequence[Instance]) -> NDArray[np.float32]:
    reader = SignalReader()
    planes = np.empty((len(images), images[0].rows, images[0].columns), dtype=np.float32)
    for plane, one in zip(planes, images, strict=True):
        plane[:] = _signal(one, reader, place=f"{place}, image {one.instance_number}")
    try:
        with np.errstate(invalid="ignore"):
            require_signal(planes)
    except PixelFaultError as error:
        raise StudyRefused(error.fault.code, error.fault.at(place)) from error
    return planes


def _signal(instance: Instance, reader: SignalReader, *, place: str) -> NDArray[np.float32]:
    """Return the signal of one image, (rows, columns)."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
            return reader.read(instance.pixels, rows=instance.rows, columns=instance.columns)
    except PixelFaultError as error:
        raise StudyRefused(error.fault.code, error.fault.at(place)) from error
    except MemoryError:
        raise
    except Exception as error:  # each decoder plug-in has its own exceptions
        raise StudyRefused(
            "undecodable_pixels",
            f"pixel data must be decodable, got {type(error).__name__} in {place}. "
            "Send it uncompressed, or install a decoder for its transfer syntax.",
        ) from error
