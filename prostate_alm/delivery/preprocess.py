"""From the volumes of a study to the network's input: the numbers of the training pipeline, without MONAI.

Importing MONAI takes longer than answering a study, so the few transforms of `bundles/prostate/train.json` are written
here as what they are: linear interpolation along each axis, a centre crop, zero mean and unit variance. A test holds
both together.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from prostate_alm.data.gland import crop_slice, voxel_at
from prostate_alm.delivery.card import GridSpec
from prostate_alm.imaging.volume import StudyVolumes, Volume

_Number = TypeVar("_Number", bound=np.generic)

SAME_SPACING_MM = 1e-3  # a spacing this near to the wanted one is kept, as MONAI does
PERPENDICULAR_SAMPLES = 1e-8  # of a sample: beyond, axes count as skewed


class PlacedGrid(GridSpec):
    """A model's grid in one study, its crop around a place in T2 and not around the middle.

    `middle` is the place as a number of samples of the resampled T2 along each axis, in LPS order. The crop is moved so
    far that it lies within T2; an axis that is no longer than the crop stays whole.
    """

    middle: tuple[float, float, float]


def placed_around(grid: GridSpec, t2: Volume, centre_mm: tuple[float, float, float]) -> PlacedGrid:
    """Return a model's grid with its crop around a place.

    Args:
        grid: how the model was trained.
        t2: of the study.
        centre_mm: the place in the patient's coordinates, LPS.

    Reference:
        `training.gland_crop.CropToGland`.
    """
    _, first, step = _samples(t2, grid)
    voxel = voxel_at(centre_mm, lps_affine(t2)[0])
    x, y, z = ((voxel - first) / step).tolist()
    return PlacedGrid(**grid.model_dump(), middle=(x, y, z))


def network_input(volumes: StudyVolumes, grid: GridSpec) -> torch.Tensor:
    """Return what the network sees of a study: T2, then each b-value.

    (x - mean) / std per channel, both over `grid.normalised_size` voxels, then the centre of `grid.image_size` voxels.

    Args:
        volumes: T2 and diffusion on the T2 grid.
        grid: how the model was trained.

    Returns:
        (C, X, Y, Z) float32, X towards the left, Y to the back, Z to the head.

    Reference:
        `read_and_normalise` and `centre_crop` of `bundles/prostate/train.json`.

    >>> import numpy as np
    >>> from prostate_alm.imaging.selection import Selection
    >>> noise = np.random.default_rng(0).random((20, 20, 10), np.float32)
    >>> volume = Volume(noise, np.diag([-1.0, -1.0, 3.0, 1.0]))
    >>> study = StudyVolumes(volume, (volume,), (0.0,), (0.0,), (False,), Selection(None, (), None, ()))
    >>> sizes = {"normalised_size": (12, 12, 6), "image_size": (8, 8, 4)}
    >>> network_input(study, GridSpec(spacing_mm=(2.0, 2.0, 3.0), b_values_s_per_mm2=(0.0,), **sizes)).shape
    torch.Size([2, 8, 8, 4])
    """
    return normalised_image(cropped_channels(volumes, grid), grid)


def cropped_channels(volumes: StudyVolumes, grid: GridSpec) -> NDArray[np.float32]:
    """Return the signal of each channel on the model's grid, ``(C, *grid.normalised_size)`` float32, not normalised.

    Where T2 is smaller than the region, its edge is repeated.
    """
    channels = np.stack([volumes.t2.voxels, *(one.voxels for one in volumes.dwi)])  # (C, I, J, K)
    channels = _turned(channels, _turns_to_lps(_as_stored(volumes.t2.affine_ras_mm)))
    for axis, at in enumerate(_sample_positions(volumes.t2, grid), start=1):
        channels = _interpolated(channels, np.clip(at, 0, channels.shape[axis] - 1), axis=axis)
    return np.ascontiguousarray(channels, dtype=np.float32)


def normalised_image(channels: NDArray[np.float32], grid: GridSpec) -> torch.Tensor:
    """Return channels ``(C, *grid.normalised_size)`` with zero mean and unit variance, cropped to `grid.image_size`."""
    image = torch.from_numpy(channels)
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    std = image.std(dim=(1, 2, 3), keepdim=True, unbiased=False)
    normalised = (image - mean) / torch.where(std > 0, std, torch.ones_like(std))
    return normalised[(slice(None), *centre_of(grid))].contiguous()


def intensity_variation(region: Any) -> tuple[float, ...]:
    """Return standard deviation / mean of each channel, which no gain of a scanner changes; 0 without any signal.

    Args:
        region: array or tensor (C, X, Y, Z), unnormalised: resampled to `GridSpec.spacing_mm` and cropped or padded to
            `GridSpec.normalised_size`.

    >>> intensity_variation(np.array([[1.0, 3.0], [5.0, 5.0], [0.0, 0.0]]).reshape(3, 2, 1, 1))
    (0.5, 0.0, 0.0)
    """
    channels = np.asarray(region, dtype=np.float64).reshape(len(region), -1)
    means, deviations = channels.mean(axis=1), channels.std(axis=1)
    return tuple(float(d / m) if m > 0 else 0.0 for m, d in zip(means, deviations, strict=True))


def centre_of(grid: GridSpec) -> tuple[slice, slice, slice]:
    """Return where the network's image lies within the region that normalises it.

    >>> sizes = {"normalised_size": (46, 46, 22), "image_size": (40, 40, 20)}
    >>> centre_of(GridSpec(spacing_mm=(2.0, 2.0, 3.0), b_values_s_per_mm2=(0.0,), **sizes))[2]
    slice(1, 21, None)
    """
    starts = [max(whole // 2 - part // 2, 0) for whole, part in zip(grid.normalised_size, grid.image_size, strict=True)]
    first, second, third = (slice(start, start + part) for start, part in zip(starts, grid.image_size, strict=True))
    return first, second, third


def image_placement(volume: Volume, grid: GridSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where the network's image lies in T2: voxel number n of the image is voxel first + n step of T2.

    Args:
        volume: T2.
        grid: how the model was trained.

    Returns:
        first and step, (3,) each, in voxels of T2 whose axes are turned to left, back, head. Outside T2 the image
        repeats its edge.
    """
    samples, start, step = _samples(volume, grid)
    numbers = np.array([at[0] for at in _image_samples(samples, grid)])
    return start + numbers * step, step


def outside_t2_mm(volumes: StudyVolumes, grid: GridSpec) -> tuple[float, ...]:
    """Return how much of the network's image lies outside T2: left to right, front to back, foot to head."""
    samples, _, _ = _samples(volumes.t2, grid)
    middles = zip(_image_samples(samples, grid), samples, grid.spacing_mm, strict=True)
    return tuple(float(((at < 0) | (at >= count)).sum() * mm) for at, count, mm in middles)


def imaged_part(volume: Volume, grid: GridSpec) -> NDArray[np.bool_]:
    """Return which voxels of the network's image lie within T2, (X, Y, Z): elsewhere its edge was repeated."""
    samples, _, _ = _samples(volume, grid)
    inside = [(at >= 0) & (at < count) for at, count in zip(_image_samples(samples, grid), samples, strict=True)]
    part: NDArray[np.bool_] = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return part


def map_on_t2(values: NDArray[np.float32], volume: Volume, grid: GridSpec) -> NDArray[np.float32]:
    """Return a map of the network's image on the voxels of T2, interpolated linearly; 0 outside of the image.

    It is what `Invertd` of MONAI makes of it, with the transforms of `bundles/lesions/inference.json`.

    Args:
        values: (X, Y, Z).
        volume: T2.
        grid: how the model was trained.

    Returns:
        (I, J, K), in the order of the volume's own voxels.
    """
    padded = np.pad(values, 1)[None]
    for axis, at in enumerate(_image_positions(volume, grid), start=1):
        padded = _interpolated(padded, np.clip(at + 1, 0, padded.shape[axis] - 1), axis=axis)
    return np.ascontiguousarray(_turned_back(padded[0], volume), dtype=np.float32)


def labels_on_t2(labels: NDArray[np.uint8], volume: Volume, grid: GridSpec) -> NDArray[np.uint8]:
    """Return labels of the network's image on the voxels of T2, each that of the nearest; see `map_on_t2`."""
    padded = np.pad(labels, 1)
    nearest = [
        np.clip(np.rint(at).astype(int) + 1, 0, size - 1)
        for at, size in zip(_image_positions(volume, grid), padded.shape, strict=True)
    ]
    return np.ascontiguousarray(_turned_back(padded[np.ix_(*nearest)], volume))


def _image_positions(volume: Volume, grid: GridSpec) -> list[NDArray[np.float64]]:
    """Return where the voxels of T2 lie in the network's image, in LPS order; the last sample counts for all beyond."""
    _, shape = lps_affine(volume)
    samples, first, step = _samples(volume, grid)
    starts = [at[0] for at in _image_samples(samples, grid)]
    return [
        np.clip((np.arange(length) - begin) / each, 0, count - 1) - start
        for length, begin, each, count, start in zip(shape, first, step, samples, starts, strict=True)
    ]


def _turned_back(values: NDArray[_Number], volume: Volume) -> NDArray[_Number]:
    """Return values in LPS order in the order of the volume's own voxels."""
    turns = ornt_transform(axcodes2ornt("LPS"), io_orientation(_as_stored(volume.affine_ras_mm)))
    turned: NDArray[_Number] = apply_orientation(values, turns)
    return turned


def _image_samples(samples: NDArray[np.float64], grid: GridSpec) -> list[NDArray[np.int_]]:
    """Return which sample each voxel of the network's image is, one array an axis."""
    return [at[part] for at, part in zip(_region_samples(samples, grid), centre_of(grid), strict=True)]


def _region_samples(samples: NDArray[np.float64], grid: GridSpec) -> list[NDArray[np.int_]]:
    """Return which sample each voxel of the region that normalises is, one array an axis."""
    middles = grid.middle if isinstance(grid, PlacedGrid) else (None, None, None)
    rows = zip(samples, grid.normalised_size, middles, strict=True)
    return [_middle(int(count), size, around=middle) for count, size, middle in rows]


def _sample_positions(volume: Volume, grid: GridSpec) -> list[NDArray[np.float64]]:
    """Return where the samples of the region that normalises lie: voxels in LPS order, one array an axis."""
    samples, first, step = _samples(volume, grid)
    return [
        start + np.clip(at, 0, count - 1) * each
        for at, count, start, each in zip(_region_samples(samples, grid), samples, first, step, strict=True)
    ]


def _samples(volume: Volume, grid: GridSpec) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return how many samples cover each axis, the voxel of the first, and the voxels from one to the next.

    As MONAI's `Spacing` decides: the first sample is the first voxel. Where axes are not perpendicular to 1e-8 of a
    sample, which the rounding of an affine is enough for, the middles of both grids coincide instead.
    """
    affine, shape = lps_affine(volume)
    axes_mm = affine[:3, :3]
    given_mm = np.linalg.norm(axes_mm, axis=0)
    wanted_mm = np.where(np.abs(given_mm - grid.spacing_mm) <= SAME_SPACING_MM, given_mm, grid.spacing_mm)
    triangle = np.linalg.cholesky(axes_mm.T @ axes_mm).T
    wanted_axes_mm = axes_mm @ np.linalg.inv(triangle) @ np.diag(wanted_mm)
    ends = np.stack(np.meshgrid(*([0.0, count - 1.0] for count in shape), indexing="ij")).reshape(3, -1)
    corners = np.linalg.solve(wanted_axes_mm, axes_mm) @ ends  # (3, 8), in samples
    samples = np.round(np.ptp(corners, axis=1) + 1.0)
    first = np.zeros(3)
    if np.abs((corners - corners[:, :1]).min(axis=1)).max() > PERPENDICULAR_SAMPLES:
        first = shape / 2 - np.linalg.solve(axes_mm, wanted_axes_mm) @ (samples / 2)
    return samples, first, wanted_mm / given_mm


def _middle(samples: int, size: int, *, around: float | None = None) -> NDArray[np.int_]:
    """Return the numbers of the middle samples, or of those around one, edges repeated where there are too few.

    >>> _middle(7, 3), _middle(2, 5), _middle(7, 3, around=4.0), _middle(7, 3, around=6.0)
    (array([2, 3, 4]), array([-1,  0,  1,  2,  3]), array([3, 4, 5]), array([4, 5, 6]))
    """
    if around is not None and samples > size:
        return np.arange(samples)[crop_slice(samples, size, around)]
    start = max(samples // 2 - size // 2, 0) if samples >= size else -((size - samples) // 2)
    return start + np.arange(size)


def lps_affine(volume: Volume) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """Return the affine and shape of a volume whose axes are turned to left, back, head."""
    affine = _as_stored(volume.affine_ras_mm)
    turns = _turns_to_lps(affine)
    return affine @ inv_ornt_aff(turns, volume.voxels.shape), np.array(volume.voxels.shape)[_order(turns)]


def _as_stored(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return an affine as the NIfTI files of the training have it: in 32 bits."""
    return affine.astype(np.float32).astype(np.float64)


def _turns_to_lps(affine_ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the permutation and flips that bring a volume's axes closest to left, back, head."""
    turns: NDArray[np.float64] = ornt_transform(io_orientation(affine_ras_mm), axcodes2ornt("LPS"))
    return turns


def _turned(channels: NDArray[np.float32], turns: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return channels (C, I, J, K) with their axes permuted and flipped."""
    for axis, (_, flip) in enumerate(turns):
        if flip < 0:
            channels = np.flip(channels, axis + 1)
    return channels.transpose(0, *(1 + axis for axis in _order(turns)))


def _order(turns: NDArray[np.float64]) -> list[int]:
    """Return which axis of a volume comes first, second, third after the turns."""
    order: list[int] = np.argsort(turns[:, 0]).tolist()
    return order


def _interpolated(channels: NDArray[np.float32], at: NDArray[np.float64], *, axis: int) -> NDArray[np.float32]:
    """Return channels sampled linearly at positions within one axis."""
    low = np.minimum(np.floor(at).astype(int), channels.shape[axis] - 1)
    high = np.minimum(low + 1, channels.shape[axis] - 1)
    shape = [1] * channels.ndim
    shape[axis] = len(at)
    weight = (at - low).reshape(shape)
    below, above = channels.take(low, axis), channels.take(high, axis)
    return np.asarray(below * (1 - weight) + above * weight)  # float64: rounded once, at the end
