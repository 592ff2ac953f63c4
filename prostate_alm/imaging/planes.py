"""The signal of stacks of images: read in the process that reads, and refused with the place where it is not whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from prostate_alm.imaging.apart import StoppedError, call_apart
from prostate_alm.imaging.dicom import Instance, StudyRefused
from prostate_alm.imaging.limits import LIMITS, OverLimitError, require_at_most
from prostate_alm.imaging.pixels import Fault
from prostate_alm.imaging.signal import FaultError, SignalReader, require_signal

_Stacks = Sequence[tuple[str, Sequence[Instance]]]


def read_planes(stacks: _Stacks) -> list[NDArray[np.float32]]:
    """Return the signal of each stack of images, (K, rows, columns), given with its place in words.

    Raises:
        StudyRefused: the images are larger than `LIMITS`, cannot be decoded, or cannot be a scanner's signal.
    """
    fault = size_fault(image for _, images in stacks for image in images)
    if fault is not None:
        raise StudyRefused(fault.code, fault.at("the images that are used"))
    try:
        return call_apart(_planes, stacks)
    except StoppedError as error:
        raise StudyRefused(error.code, error.reason) from error


def size_fault(images: Iterable[Instance]) -> Fault | None:
    """Return which of `LIMITS` the matrix or the voxels of images exceed, before anything is allocated for them."""
    voxels = 0
    try:
        for one in images:
            require_at_most(max(one.rows, one.columns), LIMITS.matrix, "rows or columns")
            voxels += one.rows * one.columns
        require_at_most(voxels, LIMITS.voxels, "voxels")
    except OverLimitError as error:
        rule, found = str(error).split(", got ")
        return Fault("oversized_study", rule, found, "Send the original series.")
    return None


def _planes(stacks: _Stacks) -> list[NDArray[np.float32]]:
    """Return what `read_planes` does, read in this process."""
    return [_stack(place, images) for place, images in stacks]


def _stack(place: str, images: Sequence[Instance]) -> NDArray[np.float32]:
    reader = SignalReader()
    planes = np.empty((len(images), images[0].rows, images[0].columns), dtype=np.float32)
    for plane, one in zip(planes, images, strict=True):
        plane[:] = _signal(one, reader, place=f"{place}, image {one.instance_number}")
    try:
        with np.errstate(invalid="ignore"):
            require_signal(planes)
    except FaultError as error:
        raise StudyRefused(error.fault.code, error.fault.at(place)) from error
    return planes


def _signal(instance: Instance, reader: SignalReader, *, place: str) -> NDArray[np.float32]:
    """Return the signal of one image, (rows, columns)."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused
            return reader.read(instance.pixels, rows=instance.rows, columns=instance.columns)
    except FaultError as error:
        raise StudyRefused(error.fault.code, error.fault.at(place)) from error
    except MemoryError:
        raise
    except Exception as error:  # each decoder plug-in has its own exceptions
        raise StudyRefused(
            "undecodable_pixels",
            f"pixel data must be decodable, got {type(error).__name__} in {place}. "
            "Send it uncompressed, or install a decoder for its transfer syntax.",
        ) from error
