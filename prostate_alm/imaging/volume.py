"""Voxels of the selected series on one grid: decoding, geometry, b-values the model knows, resampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from prostate_alm.imaging.apart import StoppedError, call_apart
from prostate_alm.imaging.checks import size_fault
from prostate_alm.imaging.dicom import Series, StudyRefused
from prostate_alm.imaging.geometry import Stack, stack_images
from prostate_alm.imaging.rulebook import Rules, default_rules
from prostate_alm.imaging.rules import trace_images
from prostate_alm.imaging.selection import Selection, image_stacks
from prostate_alm.imaging.signal import Stacks, planes_of
from prostate_alm.imaging.study import explain_study

sitk: Any = SimpleITK  # its annotations are incomplete

MODEL_B_VALUES_S_PER_MM2 = (100.0, 600.0, 1000.0)
ADC_RANGE_MM2_PER_S = (0.0, 4e-3)  # free water at body temperature has 3e-3; above is noise

LPS_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False, slots=True)
class Volume:
    """Signal on a grid: `voxels` (I, J, K) float32, `affine_ras_mm` (4, 4) float64, NIfTI convention."""

    voxels: NDArray[np.float32]
    affine_ras_mm: NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class StudyVolumes:
    """T2 and one diffusion volume for each requested b-value, all on the T2 grid.

    `b_values_computed` flags the volumes that no scanner measured: they come from the mono-exponential fit. `acquired`
    are the diffusion images as they were measured, on their own grid, one for each of `b_values_acquired_s_per_mm2`;
    none where the volumes were read from files that hold them on the T2 grid only.
    """

    t2: Volume
    dwi: tuple[Volume, ...]
    b_values_s_per_mm2: tuple[float, ...]
    b_values_acquired_s_per_mm2: tuple[float, ...]
    b_values_computed: tuple[bool, ...]
    selection: Selection
    acquired: tuple[Volume, ...] = ()


def load_study(
    directory: Path,
    *,
    b_values_s_per_mm2: Sequence[float] = MODEL_B_VALUES_S_PER_MM2,
    rules: Rules | None = None,
) -> StudyVolumes:
    """Return the T2 and the diffusion volumes of the study in a folder, on the T2 grid.

    Args:
        directory: a folder that holds one study.
        b_values_s_per_mm2: the b-values that the model expects, each >= 0.
        rules: words, limits and places of the selection; `rules.json` when None.

    Returns:
        Float32 volumes; diffusion is 0 where the T2 grid leaves its field of view.

    Raises:
        StudyRefused: no safe choice or no safe volume; `code` and `reason` say why.
        FileNotFoundError, NotADirectoryError: the path is no folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     load_study(Path(empty))
        Traceback (most recent call last):
        ...
        prostate_alm.imaging.dicom.StudyRefused: no_dicom: study must hold DICOM images, got an empty folder. \
Name the folder of a study.
    """
    selection = explain_study(directory, rules=rules)
    return load_selection(selection, b_values_s_per_mm2=b_values_s_per_mm2, rules=rules)


def load_selection(
    selection: Selection,
    *,
    b_values_s_per_mm2: Sequence[float] = MODEL_B_VALUES_S_PER_MM2,
    rules: Rules | None = None,
) -> StudyVolumes:
    """Return the volumes of a study whose series were chosen before; see `load_study`.

    Raises:
        StudyRefused: the selection is a refusal, or its volumes are not safe.
    """
    if selection.refused is not None:
        raise StudyRefused(selection.refused.code, selection.refused.reason)
    stacks = image_stacks(selection)
    t2, *acquired = _assembled([(place, stack_images(images, place=place)) for place, images in stacks])
    _, *dwi_stacks = stacks
    acquired_b = tuple(float(images[0].b_value_s_per_mm2 or 0.0) for _, images in dwi_stacks)
    harmonised, computed = harmonise(acquired, acquired_b, b_values_s_per_mm2=b_values_s_per_mm2, rules=rules)
    on_t2_grid = tuple(resample(one, reference=t2) for one in harmonised)
    return StudyVolumes(
        *(t2, on_t2_grid, tuple(b_values_s_per_mm2), acquired_b, computed, selection), acquired=tuple(acquired)
    )


def load_volume(series: Series, *, b_value_s_per_mm2: float | None = None) -> Volume:
    """Return one stack of a series as a volume: all of its images, or the trace images of one b-value.

    Voxel order and affine are those of dcm2niix: i along a row, j from the last row to the first, k along n.

    Raises:
        StudyRefused: the images are not one complete, evenly spaced stack.
    """
    place, images = f"series {series.number}", series.instances
    if b_value_s_per_mm2 is not None:
        place, images = f"{place}, b {b_value_s_per_mm2:g}", trace_images(series, b_value_s_per_mm2=b_value_s_per_mm2)
    return _assembled([(place, stack_images(images, place=place))])[0]


def harmonise(
    volumes: Sequence[Volume],
    acquired_s_per_mm2: Sequence[float],
    *,
    b_values_s_per_mm2: Sequence[float],
    rules: Rules | None = None,
) -> tuple[tuple[Volume, ...], tuple[bool, ...]]:
    """Return a volume for each wanted b-value: the acquired one untouched, else S_b = S_0 exp(-b ADC), flagged.

    Args:
        volumes: one for each acquired b-value, on one grid.
        acquired_s_per_mm2: their b-values, at least two distinct ones.
        b_values_s_per_mm2: the wanted ones.
        rules: `b_value_tolerance_s_per_mm2` says how near is near enough; `rules.json` when None.

    Returns:
        The volumes in the order wanted, and for each whether it was computed.

    Raises:
        ValueError: a wanted b-value is negative, or fewer than two distinct ones were acquired.
    """
    if any(not wanted >= 0 for wanted in b_values_s_per_mm2):
        raise ValueError(f"b-values must be >= 0, got {list(b_values_s_per_mm2)} in the request. Correct them.")
    tolerance_s_per_mm2 = (rules or default_rules()).b_value_tolerance_s_per_mm2
    nearest = [int(np.abs(np.subtract(acquired_s_per_mm2, wanted)).argmin()) for wanted in b_values_s_per_mm2]
    computed = tuple(
        abs(acquired_s_per_mm2[index] - wanted) > tolerance_s_per_mm2
        for index, wanted in zip(nearest, b_values_s_per_mm2, strict=True)
    )
    signals = [one.voxels for one in volumes]
    fit = adc_map_mm2_per_s(signals, acquired_s_per_mm2) if any(computed) else None
    chosen = []
    for wanted, index, is_computed in zip(b_values_s_per_mm2, nearest, computed, strict=True):
        if fit is None or not is_computed:
            chosen.append(volumes[index])
        else:
            adc, s0 = fit
            chosen.append(Volume(s0 * np.exp(-np.float32(wanted) * adc), volumes[index].affine_ras_mm))
    return tuple(chosen), computed


def adc_map_mm2_per_s(
    signals: Sequence[NDArray[np.float32]], b_values_s_per_mm2: Sequence[float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the apparent diffusion coefficient and S_0 of the mono-exponential fit.

    ln S_b = ln S_0 - b ADC, by least squares in every voxel; ADC is held within `ADC_RANGE_MM2_PER_S` and S_0
    is the least-squares value for that ADC. Signals of zero count as the smallest positive one.

    Args:
        signals: one array for each b-value, all of one shape, >= 0.
        b_values_s_per_mm2: at least two distinct values.

    Returns:
        ADC in mm²/s and S_0 in the signal's unit, both of the signals' shape.

    Raises:
        ValueError: fewer than two distinct b-values.

    Reference: Le Bihan et al., Radiology 1986.

    Example:
        >>> b = [0.0, 1000.0]
        >>> signals = [np.array([100.0], np.float32), np.array([100.0 * np.exp(-1.5)], np.float32)]
        >>> adc, s0 = adc_map_mm2_per_s(signals, b)
        >>> print(f"{adc[0]:.4f} mm²/s, {s0[0]:.1f}")
        0.0015 mm²/s, 100.0
    """
    if len(set(b_values_s_per_mm2)) < 2:
        raise ValueError(
            f"b-values must be two distinct ones or more, got {list(b_values_s_per_mm2)} in the fit. Add another."
        )
    b = np.asarray(b_values_s_per_mm2, dtype=np.float32)
    weights = (b - b.mean()) / np.square(b - b.mean()).sum()
    floor = min((float(one[one > 0].min()) for one in signals if (one > 0).any()), default=1.0)
    logs = np.log(np.maximum(np.stack(signals), np.float32(floor)))  # (B, ...)
    adc = np.clip(-np.tensordot(weights, logs, axes=1), *ADC_RANGE_MM2_PER_S)
    return adc, np.exp(logs.mean(axis=0) + adc * b.mean())


def resample(volume: Volume, *, reference: Volume) -> Volume:
    """Return a volume on the reference's grid: linear between voxel centres, 0 outside the field of view.

    Example:
        >>> grid = Volume(np.ones((4, 4, 3), np.float32), np.eye(4))
        >>> bool((resample(grid, reference=grid).voxels == 1).all())
        True
    """
    return _resampled(volume, reference, sitk.sitkLinear)


def resample_labels(volume: Volume, *, reference: Volume) -> Volume:
    """Return a label map on the reference's grid: the label of the nearest voxel, 0 outside the field of view.

    Example:
        >>> labels = Volume(np.array([[[0], [5]]], np.float32), np.eye(4))
        >>> half_voxels = np.diag([1, 0.5, 1, 1]) + [[0, 0, 0, 0], [0, 0, 0, -0.25], [0, 0, 0, 0], [0, 0, 0, 0]]
        >>> fine = Volume(np.empty((1, 4, 1), np.float32), half_voxels)
        >>> resample_labels(labels, reference=fine).voxels.ravel().tolist()
        [0.0, 0.0, 5.0, 5.0]
    """
    return _resampled(volume, reference, sitk.sitkNearestNeighbor)


def _resampled(volume: Volume, reference: Volume, interpolator: int) -> Volume:
    moving = sitk.GetImageFromArray(np.ascontiguousarray(volume.voxels.transpose(2, 1, 0)))
    origin_mm, spacing_mm, direction = _itk_grid(volume)
    moving.SetOrigin(origin_mm)
    moving.SetSpacing(spacing_mm)
    moving.SetDirection(direction)
    size, grid = reference.voxels.shape, _itk_grid(reference)
    image = sitk.Resample(moving, size, sitk.Transform(), interpolator, *grid, 0.0, sitk.sitkFloat32)
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), reference.affine_ras_mm)


def _assembled(stacks: Sequence[tuple[str, Stack]]) -> list[Volume]:
    """Return stacks, each with its place in words, as volumes."""
    planes = _planes([(place, stack.instances) for place, stack in stacks])  # (K, R, C) each
    return [
        Volume(one[:, ::-1].transpose(2, 1, 0), stack.affine_ras_mm)
        for one, (_, stack) in zip(planes, stacks, strict=True)
    ]


def _planes(stacks: Stacks) -> list[NDArray[np.float32]]:
    """Return the signal of each stack, read in the process that reads; larger ones than `LIMITS` are refused before."""
    fault = size_fault(image for _, images in stacks for image in images)
    if fault is not None:
        raise StudyRefused(fault.code, fault.at("the images that are used"))
    try:
        return call_apart(planes_of, stacks)
    except StoppedError as error:
        raise StudyRefused(error.code, error.reason) from error


def _itk_grid(volume: Volume) -> tuple[list[float], list[float], list[float]]:
    """Return origin and spacing in mm and the direction cosines of a volume as ITK has them (LPS)."""
    spacing_mm = np.linalg.norm(volume.affine_ras_mm[:3, :3], axis=0)
    direction = LPS_RAS[:, None] * volume.affine_ras_mm[:3, :3] / spacing_mm
    return (LPS_RAS * volume.affine_ras_mm[:3, 3]).tolist(), spacing_mm.tolist(), direction.ravel().tolist()
