"""What of the study's own series a report shows: which image each slice is, and the scanner's own ADC map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from prostate_alm.imaging.dicom import Instance, Series, StudyRefused
from prostate_alm.imaging.geometry import has_geometry, normal_of
from prostate_alm.imaging.selection import image_stacks
from prostate_alm.imaging.volume import LPS_RAS, StudyVolumes, Volume, load_volume, resample

MAPS_TRIED = 3
LEAST_CORRELATION = 0.5  # of a map with the fitted ADC: exponential maps and other parameters have less, or below 0

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageName:
    """How an archive calls the image of a slice: series and instance number, frame of a multi-frame object, location.

    `away_mm` is how far the middle of the slice lies from the image's plane; `location_mm` is that of the header, if
    any (0020,1041).
    """

    series: int
    image: int
    frame: int | None
    location_mm: float | None
    away_mm: float


@dataclass(frozen=True, eq=False, slots=True)
class ScannerMap:
    """The scanner's ADC map in µm²/s on the voxels of a report, and the image of each slice."""

    adc_um2_per_s: Floats
    images: tuple[ImageName, ...]


def t2_images(volumes: StudyVolumes, centres_ras_mm: NDArray[np.float64]) -> tuple[ImageName, ...]:
    """Return the T2 image of each slice, given by its middle (Z, 3); empty where the volumes come from no series."""
    stacks = image_stacks(volumes.selection)
    return _names(stacks[0][1], volumes, centres_ras_mm) if stacks else ()


def diffusion_images(volumes: StudyVolumes, centres_ras_mm: NDArray[np.float64]) -> tuple[tuple[ImageName, ...], ...]:
    """Return for each of the model's b-values the nearest image of each slice; empty where it was computed."""
    stacks = image_stacks(volumes.selection)[1:]
    found = []
    for wanted, is_computed in zip(volumes.b_values_s_per_mm2, volumes.b_values_computed, strict=True):
        nearest = int(np.abs(np.subtract(volumes.b_values_acquired_s_per_mm2, wanted)).argmin())
        found.append(() if is_computed or not stacks else _names(stacks[nearest][1], volumes, centres_ras_mm))
    return tuple(found)


def scanner_maps(volumes: StudyVolumes) -> Iterator[tuple[Series, Volume]]:
    """Yield the maps on the T2 grid that may be the scanner's ADC; those that cannot be read are passed over.

    The study's files must still be there; where they are not, there is none.
    """
    last_used = max((one.series.number for one in volumes.selection.dwi), default=0)
    judged = (one.series for one in volumes.selection.series if one.role == "adc")
    candidates = (one for one in judged if all(has_geometry(image) for image in one.instances))
    nearest_first = sorted(candidates, key=lambda one: (one.number < last_used, abs(one.number - last_used), one.uid))
    for series in islice(nearest_first, MAPS_TRIED):
        try:
            yield series, resample(load_volume(series), reference=volumes.t2)
        except (StudyRefused, OSError):
            continue


def in_um2_per_s(values: Floats, fitted_um2_per_s: Floats) -> Floats | None:
    """Return a scanner's map in µm²/s where it is one of the ADC, else None.

    Vendors store it in units that differ by powers of ten and name them nowhere: the power that is nearest to the
    fitted map is taken. A map that rises and falls otherwise is no ADC.

    Args:
        values: of the scanner's map, 0 where it has none.
        fitted_um2_per_s: fitted to the diffusion images, of the same shape.

    >>> fitted = np.array([700, 900, 1500, 2000], np.float32)
    >>> in_um2_per_s(np.array([0.0008, 0.0009, 0.0014, 0.002], np.float32), fitted).round().tolist()
    [800.0, 900.0, 1400.0, 2000.0]
    >>> in_um2_per_s(np.exp(-fitted / 1000), fitted) is None
    True
    """
    inside = (values > 0) & (fitted_um2_per_s > 0)
    own, fitted = values[inside], fitted_um2_per_s[inside]
    if own.size < 2 or own.std() == 0 or fitted.std() == 0 or np.corrcoef(own, fitted)[0, 1] < LEAST_CORRELATION:
        return None
    return values * np.float32(10.0 ** round(math.log10(float(np.median(fitted) / np.median(own)))))


def map_images(series: Series, volumes: StudyVolumes, centres_ras_mm: NDArray[np.float64]) -> tuple[ImageName, ...]:
    """Return the nearest image of a series for each slice."""
    return _names(series.instances, volumes, centres_ras_mm)


def _names(
    images: Sequence[Instance], volumes: StudyVolumes, centres_ras_mm: NDArray[np.float64]
) -> tuple[ImageName, ...]:
    normals = np.array([normal_of(one) for one in images])  # (K, 3), LPS
    positions = np.array([one.position_mm for one in images])
    heights = (normals * positions).sum(axis=1)
    away = np.abs((centres_ras_mm * LPS_RAS) @ normals.T - heights)  # (Z, K)
    judged = volumes.selection.series
    numbers = {image.sop_instance_uid: one.series.number for one in judged for image in one.series.instances}
    nearest = away.argmin(axis=1)
    return tuple(_name(images[k], numbers, float(away[z, k])) for z, k in enumerate(nearest.tolist()))


def _name(image: Instance, numbers: dict[str, int], away_mm: float) -> ImageName:
    frame = image.pixels.frame + 1 if image.pixels.frames > 1 else None
    number = numbers.get(image.sop_instance_uid, 0)
    return ImageName(number, image.instance_number, frame, image.slice_location_mm, away_mm)
