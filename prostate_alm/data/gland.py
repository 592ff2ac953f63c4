"""Where the gland lies: on a mask that somebody drew, or on a map of probabilities; and the coarse T2 that shows it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

from prostate_alm.imaging.geometry import LPS_TO_RAS
from prostate_alm.imaging.selection import Refusal
from prostate_alm.imaging.volume import Volume, resample

LEAST_ML = 5.0
"""Smallest part of a map that may be a gland; prostates have 10 ml and more, 1 ml is 1000 mm³."""

LEAST_PROBABILITY = 0.5
"""From here on a voxel is one of the gland."""

CUT_SHARE = 0.25
"""Of the largest layer of the gland along an axis: where the layer at the border has as much, the border cuts it. Base
and apex may well lie in the first and the last slice."""

NOT_FOUND, TWO, AT_BORDER = "gland_not_found", "two_glands", "gland_at_border"
"""Codes of what makes the place of a gland doubtful."""

_FINER = (2, 2, 1)  # samples along each axis that make one of the coarse T2: noise is averaged, not drawn


@dataclass(frozen=True)
class GlandLocation:
    """A gland in the patient's coordinates: DICOM's LPS, mm, towards the left, the back and the head.

    `centre_mm` is the mean of its voxels, `low_mm` and `high_mm` are the ends of the box along the patient's axes that
    holds them.
    """

    centre_mm: tuple[float, float, float]
    low_mm: tuple[float, float, float]
    high_mm: tuple[float, float, float]
    volume_ml: float


def locate_gland(map_: Volume, *, seen: NDArray[np.bool_] | None = None) -> GlandLocation | Refusal:
    """Return where a map of probabilities has the gland, or why that is doubtful.

    Candidates are the parts of at least 5 ml where the probability is 0.5 or more; neighbours are the 26 voxels around.
    The gland is the only candidate, and the border of what T2 shows does not cut it (`CUT_SHARE`).

    Args:
        map_: probabilities.
        seen: voxels that T2 shows, a box, of the shape of the map; None for all.

    Returns:
        The place; `gland_not_found` without a candidate, `two_glands` with several, `gland_at_border` where T2 cut it.

    >>> voxels = np.zeros((20, 20, 20), np.float32)
    >>> voxels[5:15, 5:15, 5:15] = 0.9
    >>> locate_gland(Volume(voxels, np.diag([-2.0, -2.0, 2.0, 1.0]))).centre_mm
    (19.0, 19.0, 19.0)
    """
    parts, count = ndimage.label(map_.voxels >= LEAST_PROBABILITY, structure=np.ones((3, 3, 3)))
    voxel_ml = abs(np.linalg.det(map_.affine_ras_mm[:3, :3])) / 1000
    sizes_ml = np.bincount(parts.ravel(), minlength=count + 1)[1:] * voxel_ml
    candidates = np.flatnonzero(sizes_ml >= LEAST_ML) + 1
    if len(candidates) == 0:
        largest = f"a largest part of {sizes_ml.max():.1f} ml" if count else "nothing"
        return Refusal(NOT_FOUND, f"T2 must show a gland of at least {LEAST_ML:g} ml, got {largest}.")
    if len(candidates) > 1:
        found = " and ".join(f"{ml:.0f}" for ml in sorted(sizes_ml[candidates - 1], reverse=True)[:2])
        return Refusal(TWO, f"T2 must show one gland, got {len(candidates)} places that look like one, {found} ml.")
    gland = parts == candidates[0]
    if _is_cut(gland, np.ones_like(gland) if seen is None else seen):
        return Refusal(AT_BORDER, "T2 must show the whole gland, got one that its border cuts.")
    return place_of(gland, map_.affine_ras_mm)


def place_of(gland: NDArray[np.bool_], affine_ras_mm: NDArray[np.float64]) -> GlandLocation:
    """Return the place of the voxels of a mask that are true, at least one.

    >>> place_of(np.ones((2, 1, 1), bool), np.diag([-2.0, -2.0, 3.0, 1.0])).high_mm
    (3.0, 1.0, 1.5)
    """
    index = np.argwhere(gland)  # (N, 3)
    affine_mm = LPS_TO_RAS @ affine_ras_mm  # its own inverse: RAS to LPS
    places_mm = index @ affine_mm[:3, :3].T + affine_mm[:3, 3]
    half_mm = np.abs(affine_mm[:3, :3]).sum(axis=1) / 2  # of a voxel, along the patient's axes
    centre, low, high = places_mm.mean(0), places_mm.min(0) - half_mm, places_mm.max(0) + half_mm
    volume_ml = len(index) * abs(np.linalg.det(affine_mm[:3, :3])) / 1000
    return GlandLocation(_three(centre), _three(low), _three(high), float(volume_ml))


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _is_cut(gland: NDArray[np.bool_], seen: NDArray[np.bool_]) -> bool:
    """Return whether an outermost layer of what T2 shows, a box, has `CUT_SHARE` of the gland's largest one."""
    for axis in range(gland.ndim):
        others = tuple(one for one in range(gland.ndim) if one != axis)
        voxels, shown = gland.sum(axis=others), np.flatnonzero(seen.any(axis=others))
        if max(voxels[shown[0]], voxels[shown[-1]]) >= CUT_SHARE * voxels.max():
            return True
    return False


@dataclass(frozen=True, eq=False)
class CoarseImage:
    """T2 as a localiser sees it: `image` with zero mean and unit variance over `seen`, what T2 shows, and 0 outside."""

    image: Volume
    seen: NDArray[np.bool_]


def coarse_image(t2: Volume, *, spacing_mm: float, size: Sequence[int]) -> CoarseImage:
    """Return T2 on a coarse grid around its middle, its axes turned to left, back and head.

    Args:
        t2: on its own grid.
        spacing_mm: of the grid along each axis.
        size: number of voxels along each axis.
    """
    seen = on_coarse_grid(Volume(np.ones_like(t2.voxels), t2.affine_ras_mm), t2, spacing_mm=spacing_mm, size=size)
    shown = seen.voxels > 0.5  # of a voxel
    signal = on_coarse_grid(t2, t2, spacing_mm=spacing_mm, size=size)
    values = signal.voxels[shown]
    deviation = float(values.std()) if values.size else 0.0
    normalised = (signal.voxels - (values.mean() if values.size else 0.0)) / (deviation or 1.0)
    image = np.where(shown, normalised, 0).astype(np.float32)
    return CoarseImage(Volume(image, signal.affine_ras_mm), shown)


def on_coarse_grid(volume: Volume, t2: Volume, *, spacing_mm: float, size: Sequence[int]) -> Volume:
    """Return a volume on the coarse grid of a T2: see `coarse_image`.

    Args:
        volume: T2, or a mask of 0 and 1, of which each voxel gets the covered share.
        t2: whose middle and axes the grid has.
        spacing_mm: of the grid along each axis.
        size: number of voxels along each axis.

    >>> t2 = Volume(np.ones((40, 40, 20), np.float32), np.diag([-2.0, -2.0, 4.0, 1.0]))
    >>> coarse = on_coarse_grid(t2, t2, spacing_mm=4.0, size=(24, 24, 24))
    >>> coarse.voxels.shape, float(coarse.voxels.sum()), np.diag(coarse.affine_ras_mm).tolist()
    ((24, 24, 24), 8000.0, [-4.0, -4.0, 4.0, 1.0])
    """
    turns = ornt_transform(io_orientation(t2.affine_ras_mm), axcodes2ornt("LPS"))
    order = np.argsort(turns[:, 0])
    axes = t2.affine_ras_mm[:3, :3] / np.linalg.norm(t2.affine_ras_mm[:3, :3], axis=0)
    axes = axes[:, order] * turns[order, 1]
    middle_mm = t2.affine_ras_mm @ np.append((np.array(t2.voxels.shape) - 1) / 2, 1)

    def grid(parts: Sequence[int]) -> Volume:
        affine = np.eye(4)
        shape = np.array(size) * parts
        affine[:3, :3] = axes * (spacing_mm / np.array(parts))
        affine[:3, 3] = middle_mm[:3] - affine[:3, :3] @ ((shape - 1) / 2)
        return Volume(np.empty(shape, np.float32), affine)

    fine = resample(volume, reference=grid(_FINER)).voxels
    x, y, z = size
    blocks = fine.reshape(x, _FINER[0], y, _FINER[1], z, _FINER[2])
    return Volume(blocks.mean(axis=(1, 3, 5)), grid((1, 1, 1)).affine_ras_mm)


class Localises(Protocol):
    """A network that finds the gland (`training.gland_localiser.Localiser`), and the coarse grid that it sees."""

    spacing_mm: float
    size: tuple[int, ...]

    def __call__(self, image: torch.Tensor, /) -> torch.Tensor:
        """Return the probability of each voxel of coarse images (B, 1, X, Y, Z)."""


def locate_by(localiser: Localises, t2: Volume) -> GlandLocation | Refusal:
    """Return where a localiser finds the gland in T2, or why its place is doubtful: see `locate_gland`."""
    coarse = coarse_image(t2, spacing_mm=localiser.spacing_mm, size=localiser.size)
    with torch.inference_mode():
        probability = localiser(torch.from_numpy(coarse.image.voxels)[None, None])[0, 0].numpy()
    return locate_gland(Volume(probability, coarse.image.affine_ras_mm), seen=coarse.seen)


def gland_of_file(path: Path) -> GlandLocation:
    """Return where the gland of a mask in a NIfTI file lies; the mask is not empty (`masks.check_masks`)."""
    mask = volume_of_file(path)
    return place_of(mask.voxels > 0, mask.affine_ras_mm)


def volume_of_file(path: Path) -> Volume:
    """Return the volume in a NIfTI file."""
    image: Any = nib.load(path)
    return Volume(image.get_fdata(dtype=np.float32), image.affine)


def voxel_at(place_mm: Sequence[float], affine_ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the indices (3,) of the voxel at a place in the patient's coordinates, LPS; they need not be whole.

    >>> voxel_at((-6.0, -4.0, 9.0), np.diag([2.0, 2.0, 3.0, 1.0])).tolist()
    [3.0, 2.0, 3.0]
    """
    indices: NDArray[np.float64] = np.linalg.solve(affine_ras_mm, LPS_TO_RAS @ np.append(place_mm, 1))[:3]
    return indices


def crop_slice(samples: int, size: int, at: float) -> slice:
    """Return the crop of an axis to `size` samples around the sample number `at`, moved so far that it lies within all.

    Args:
        samples: number of samples; all of them where they are no more than `size`.
        size: of the crop.
        at: number of the sample in its middle; need not be whole.

    >>> crop_slice(10, 4, 4.5), crop_slice(10, 4, 8.0), crop_slice(3, 4, 1.0)
    (slice(3, 7, None), slice(6, 10, None), slice(0, 3, None))
    """
    if samples <= size:
        return slice(0, samples)
    nearest = np.floor(at - (size - 1) / 2 + 0.501)  # a half goes up, though rounding left a little less of it
    start = int(np.clip(nearest, 0, samples - size))
    return slice(start, start + size)
