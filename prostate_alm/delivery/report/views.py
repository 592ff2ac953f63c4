"""What a report shows of a study: the part of its volumes that the model saw, and the saliency on the same voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from scipy import ndimage

from prostate_alm.delivery.card import GridSpec
from prostate_alm.delivery.lesions import LesionFindings
from prostate_alm.delivery.preprocess import image_placement
from prostate_alm.delivery.report import series
from prostate_alm.delivery.report.saliency import smooth_per_cm3
from prostate_alm.imaging.geometry import LPS_TO_RAS
from prostate_alm.imaging.volume import StudyVolumes, Volume, adc_map_mm2_per_s

MARGIN_MM = 8.0  # of surroundings: whether the gland leaves the field cannot be seen from inside it
SLICES_SHOWN = 3

Floats = NDArray[np.float32]
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, eq=False, slots=True)
class Views:
    """Volumes (X, Y, Z) in LPS order on the T2 grid, cut to the model's field of view and a margin in plane.

    `saliency` is (paths, X, Y, Z) in logits per cm³, smoothed. `adc_um2_per_s` is None for a model of one b-value.
    `field` holds the edges of the model's field in voxels, ((x0, x1), (y0, y1)). `slices` are indices along Z from
    cranial to caudal, the one of greatest saliency, `peak`, in the middle where it has neighbours. `first_slice` is the
    number of slice 0 within the study's T2 series, from 1 at the caudal end. `t2_images` and `diffusion_images` name
    the image of each slice in the study's own series, none where a b-value was computed. `labels` has candidate n where
    its number stands, and `peaks` their voxels in that order; None and none where the model does not look for them.
    """

    t2: Floats
    diffusion: tuple[Floats, ...]
    adc_um2_per_s: Floats | None
    saliency: Floats
    spacing_mm: tuple[float, float, float]
    field: tuple[tuple[float, float], tuple[float, float]]
    slices: tuple[int, ...]
    peak: int
    first_slice: int
    slices_in_series: int
    b_values_computed: tuple[bool, ...] = ()
    t2_images: tuple[series.ImageName, ...] = ()
    diffusion_images: tuple[tuple[series.ImageName, ...], ...] = ()
    scanner_adc: series.ScannerMap | None = None
    labels: NDArray[np.uint8] | None = None
    peaks: tuple[tuple[int, int, int], ...] = ()


def study_views(
    volumes: StudyVolumes, grid: GridSpec, *, saliency: NDArray[np.floating], lesions: LesionFindings | None = None
) -> Views:
    """Return the voxels that a report shows.

    Args:
        volumes: of the study.
        grid: what the network saw of them.
        saliency: (paths, X, Y, Z) on the network's grid, logits per voxel.
        lesions: what a model of lesions found in it.
    """
    t2, affine = lps_order(volumes.t2)
    diffusion = [lps_order(one)[0] for one in volumes.dwi]
    start, step = image_placement(volumes.t2, grid)
    edges = np.stack([start - 0.5 * step, start + (np.array(grid.image_size) - 0.5) * step])  # (2, 3), voxels of T2
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    first, last = _window(edges, spacing_mm, t2.shape)
    part = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    shape = tuple((last - first).tolist())
    smooth = smooth_per_cm3(saliency, grid.spacing_mm)
    maps = np.stack([_resampled(one, (first - start) / step, 1 / step, shape) for one in smooth])
    peak = peak_slice(maps)
    around = _neighbours(peak, shape[2])
    (x0, y0), (x1, y1) = (edges[:, :2] - first[:2]).tolist()
    adc = _adc_um2_per_s([one[part] for one in diffusion], volumes.b_values_s_per_mm2)
    centres = _centres_ras_mm(affine, first, last)
    return Views(
        t2=t2[part],
        diffusion=tuple(one[part] for one in diffusion),
        adc_um2_per_s=adc,
        saliency=maps,
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
        field=((x0, x1), (y0, y1)),
        slices=tuple(sorted(around, reverse=True)),
        peak=peak,
        first_slice=int(first[2]) + 1,
        slices_in_series=int(t2.shape[2]),
        b_values_computed=volumes.b_values_computed,
        t2_images=series.t2_images(volumes, centres),
        diffusion_images=series.diffusion_images(volumes, centres),
        scanner_adc=None if adc is None else _scanner_adc(volumes, adc, part, centres),
        labels=None if lesions is None else _turned(lesions.labels, volumes.t2)[part],
        peaks=() if lesions is None else _peaks(lesions, affine, first),
    )


def lps_order(volume: Volume) -> tuple[Floats, NDArray[np.float64]]:
    """Return voxels and affine (RAS, mm) with the axes turned so that indices rise to the left, posterior and superior.

    >>> voxels, affine = lps_order(Volume(np.zeros((4, 5, 6), np.float32), np.diag([1.0, -1.0, 3.0, 1.0])))
    >>> np.diag(affine)
    array([-1., -1.,  3.,  1.])
    """
    turn = ornt_transform(io_orientation(volume.affine_ras_mm), axcodes2ornt("LPS"))
    voxels = _turned(volume.voxels, volume)
    return voxels, volume.affine_ras_mm @ inv_ornt_aff(turn, volume.voxels.shape)


def _turned(voxels: NDArray[_Number], volume: Volume) -> NDArray[_Number]:
    """Return values on the voxels of a volume with the axes turned as `lps_order` does."""
    turn = ornt_transform(io_orientation(volume.affine_ras_mm), axcodes2ornt("LPS"))
    turned: NDArray[_Number] = apply_orientation(voxels, turn)
    return turned


def _peaks(
    lesions: LesionFindings, affine_ras_mm: NDArray[np.float64], first: NDArray[np.int64]
) -> tuple[tuple[int, int, int], ...]:
    """Return the voxel that is nearest to the place of each candidate."""
    to_voxels = np.linalg.inv(LPS_TO_RAS @ affine_ras_mm)
    places = [np.rint(to_voxels @ [*one.position_mm, 1.0])[:3].astype(int) - first for one in lesions.candidates]
    return tuple((int(x), int(y), int(z)) for x, y, z in places)


def peak_slice(maps: NDArray[np.floating]) -> int:
    """Return the slice that holds the greatest absolute saliency of all paths; the middle one where all is zero.

    Args:
        maps: (paths, X, Y, Z).

    >>> peak_slice(np.eye(3)[None, :, None, :] * [1, -5, 2])
    1
    """
    profile = np.abs(maps).max(axis=(0, 1, 2))
    return int(profile.argmax()) if profile.max() > 0 else len(profile) // 2


def _adc_um2_per_s(diffusion: Sequence[Floats], b_values_s_per_mm2: Sequence[float]) -> Floats | None:
    """Return the fitted ADC for the eye, which no network saw; None from a single b-value."""
    if len(set(b_values_s_per_mm2)) < 2:
        return None
    adc, _ = adc_map_mm2_per_s(diffusion, b_values_s_per_mm2)
    return 1e6 * adc


def _scanner_adc(
    volumes: StudyVolumes, fitted: Floats, part: tuple[slice, ...], centres_ras_mm: NDArray[np.float64]
) -> series.ScannerMap | None:
    """Return the first of the scanner's maps that is one of the ADC."""
    for one, volume in series.scanner_maps(volumes):
        values = series.in_um2_per_s(lps_order(volume)[0][part], fitted)
        if values is not None:
            return series.ScannerMap(values, series.map_images(one, volumes, centres_ras_mm))
    return None


def _centres_ras_mm(
    affine: NDArray[np.float64], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the middle of each slice that is shown, (Z, 3)."""
    middle = (first[:2] + last[:2] - 1) / 2
    voxels = np.array([(*middle, z, 1.0) for z in range(first[2], last[2])])
    centres: NDArray[np.float64] = (voxels @ affine.T)[:, :3]
    return centres


def _neighbours(peak: int, count: int) -> Sequence[int]:
    """Return `SLICES_SHOWN` consecutive slices around one, moved where the volume ends."""
    first = max(0, min(peak - SLICES_SHOWN // 2, count - SLICES_SHOWN))
    return range(first, min(first + SLICES_SHOWN, count))


def _window(
    edges: NDArray[np.float64], spacing_mm: NDArray[np.float64], shape: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first and last (exclusive) voxels: the field and its margin in plane, within the volume."""
    margin = np.array([MARGIN_MM, MARGIN_MM, 0.0]) / spacing_mm
    first = np.clip(np.floor(edges[0] + 0.5 - margin), 0, np.array(shape) - 1).astype(np.int64)
    last = np.clip(np.ceil(edges[1] + 0.5 + margin), first + 1, shape).astype(np.int64)
    return first, last


def _resampled(
    saliency: NDArray[np.floating], start: NDArray[np.float64], step: NDArray[np.float64], shape: tuple[int, ...]
) -> Floats:
    """Interpolate linearly onto voxels of the T2 grid; 0 outside the network's field."""
    result: Floats = ndimage.affine_transform(
        saliency.astype(np.float32), step, offset=start, output_shape=shape, order=1, mode="grid-constant"
    )
    return result
