"""Images of one stack in order, on a uniform grid, or a refusal that names the gap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prostate_alm.imaging.dicom import Instance, StudyRefused

ORIENTATION_TOLERANCE = 1e-3  # largest difference of a direction cosine within one stack
UNIT_TOLERANCE = 0.01  # of squared lengths; cosines are often printed with few digits
POSITION_TOLERANCE_MM = 0.1  # scanners round positions; a missing slice moves its neighbour by > 0.5 mm
SPACING_TOLERANCE_MM = 1e-3
LEAST_GAP_OF_THICKNESS = 0.9  # a spacing below this share of the thickness is the gap, as some scanners write it
SEND_AGAIN = "Send the whole study again, or remove this series."

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False, slots=True)
class Stack:
    """Images sorted along the slice normal, and the affine of the volume that they form (NIfTI convention)."""

    instances: tuple[Instance, ...]
    affine_ras_mm: NDArray[np.float64]

    @property
    def gap_mm(self) -> float:
        """Return the distance between the centres of neighbouring slices."""
        return float(np.linalg.norm(self.affine_ras_mm[:3, 2]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the volume's shape (I, J, K): columns, rows, slices."""
        return self.instances[0].columns, self.instances[0].rows, len(self.instances)


def stack_images(instances: Sequence[Instance], *, place: str) -> Stack:
    """Return the images as one uniformly spaced stack.

    Slices ascend along n = row × column; rows are flipped, as dcm2niix writes them, so for voxel (i, j, k)
    x = p_0 + i Δ_c r + (R - 1 - j) Δ_r c + k Δ_n n, with r, c the cosines along a row and down a column.

    Args:
        instances: at least two images of the same contrast.
        place: where they come from, for the message, such as "series 7, b 400".

    Returns:
        The sorted images and the (4, 4) affine to RAS in mm.

    Raises:
        StudyRefused: no_geometry, mixed_geometry, repeated_slice, missing_slice or uneven_slices.

    Reference: DICOM PS3.3 C.7.6.2.1.1; NIfTI-1, qform and sform.
    """
    _require_one_geometry(instances, place=place)
    first = instances[0]
    row, column, normal = axes(first)
    positions = np.array([one.position_mm for one in instances], dtype=np.float64)  # (K, 3)
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    ordered = tuple(instances[index] for index in order)
    gap_mm = _uniform_gap(heights[order], ordered, place=place)
    _require_planned_gap(gap_mm, ordered, place=place)
    _require_straight(positions @ np.column_stack([row, column]), place=place)
    spacing_row_mm, spacing_column_mm = first.pixel_spacing_mm or (0.0, 0.0)  # never None: required above
    affine_lps = np.eye(4)
    affine_lps[:3, 0] = row * spacing_column_mm
    affine_lps[:3, 1] = -column * spacing_row_mm
    affine_lps[:3, 2] = normal * gap_mm
    affine_lps[:3, 3] = positions[order[0]] + column * spacing_row_mm * (first.rows - 1)
    return Stack(ordered, LPS_TO_RAS @ affine_lps)


def planned_gap_mm(images: Sequence[Instance]) -> float | None:
    """Return the distance of slices that was planned, (0018,0088), None where no image or two say it.

    Reference: DICOM PS3.3 C.8.3.1 (Spacing Between Slices, centre to centre).
    """
    told = {abs(one.spacing_between_slices_mm) for one in images if one.spacing_between_slices_mm}
    thickness_mm = max((one.slice_thickness_mm or 0.0 for one in images), default=0.0)
    if not told or max(told) - min(told) > POSITION_TOLERANCE_MM:
        return None
    gap_mm = min(told)
    return gap_mm if gap_mm >= LEAST_GAP_OF_THICKNESS * thickness_mm else None


def spacing_fits_plan(stack: Stack) -> bool:
    """Return whether slices are as far apart as planned or, where no plan is known, as they are thick."""
    planned_mm = planned_gap_mm(stack.instances)
    if planned_mm is not None:
        return abs(stack.gap_mm - planned_mm) <= POSITION_TOLERANCE_MM
    return stack.gap_mm >= LEAST_GAP_OF_THICKNESS * (stack.instances[0].slice_thickness_mm or 0.0)


def axes(instance: Instance) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the unit vectors (LPS) along a row, down a column, and along the slice normal row × column."""
    cosines = np.array(instance.orientation, dtype=np.float64)
    row, column = cosines[:3], cosines[3:]
    return row, column, np.cross(row, column)


def normal_of(instance: Instance) -> tuple[float, float, float]:
    """Return the unit vector (LPS) along the slice normal row × column.

    >>> from types import SimpleNamespace
    >>> normal_of(SimpleNamespace(orientation=(1, 0, 0, 0, 1, 0)))
    (0, 0, 1)
    """
    # plain numbers: numpy takes ten times as long for three of them
    a, b, c, d, e, f = instance.orientation or (0.0,) * 6
    return b * f - c * e, c * d - a * f, a * e - b * d


def height_mm(instance: Instance) -> float:
    """Return the image's position along its own slice normal."""
    return sum(a * b for a, b in zip(normal_of(instance), instance.position_mm or (0.0,) * 3, strict=True))


def in_plane_mm(instance: Instance) -> tuple[float, float]:
    """Return the image's position along its rows and down its columns."""
    row, column, _ = axes(instance)
    position = np.array(instance.position_mm)
    return float(row @ position), float(column @ position)


def same_plane(first: Instance, second: Instance) -> bool:
    """Return whether two images agree in orientation, matrix and pixel spacing: all but the position."""
    return (
        (first.rows, first.columns) == (second.rows, second.columns)
        and _close(first.orientation, second.orientation, tolerance=ORIENTATION_TOLERANCE)
        and _close(first.pixel_spacing_mm, second.pixel_spacing_mm, tolerance=SPACING_TOLERANCE_MM)
    )


def has_geometry(instance: Instance) -> bool:
    """Return whether an image says where it lies, in a plane of two perpendicular unit vectors."""
    if not (instance.position_mm and instance.orientation and instance.pixel_spacing_mm):
        return False
    row, column = instance.orientation[:3], instance.orientation[3:]
    products = [
        sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((row, row), (column, column), (row, column))
    ]
    is_plane = all(abs(found - wanted) < UNIT_TOLERANCE for found, wanted in zip(products, (1, 1, 0), strict=True))
    return is_plane and min(instance.pixel_spacing_mm) > 0 and instance.rows * instance.columns > 0


def _require_one_geometry(instances: Sequence[Instance], *, place: str) -> None:
    """Refuse images without a position or with more than one orientation, matrix or spacing."""
    if not instances or not all(has_geometry(one) for one in instances):
        raise StudyRefused(
            "no_geometry",
            f"images must have position, orientation and pixel spacing, got none in {place}. {SEND_AGAIN}",
        )
    if not all(same_plane(instances[0], one) for one in instances[1:]):
        raise StudyRefused(
            "mixed_geometry",
            f"images of a stack must share orientation, matrix and spacing, got several in {place}. {SEND_AGAIN}",
        )


def _uniform_gap(heights_mm: NDArray[np.float64], ordered: Sequence[Instance], *, place: str) -> float:
    """Return the mean gap between slices, or refuse with the gap that differs."""
    if len(ordered) < 2:
        raise StudyRefused("missing_slice", f"a stack must have two slices or more, got 1 in {place}. {SEND_AGAIN}")
    gaps = np.diff(heights_mm)
    if gaps.min() < POSITION_TOLERANCE_MM:
        pair = _pair(ordered, int(gaps.argmin()))
        raise StudyRefused(
            "repeated_slice",
            f"each position must occur once, got two images at one position ({pair}) in {place}. {SEND_AGAIN}",
        )
    usual = float(np.median(gaps))
    worst = int(np.abs(gaps - usual).argmax())
    if abs(gaps[worst] - usual) > POSITION_TOLERANCE_MM:
        code = "missing_slice" if gaps[worst] > 1.5 * usual else "uneven_slices"
        raise StudyRefused(
            code,
            f"slices must be {usual:.2f} mm apart, got a gap of {gaps[worst]:.2f} mm "
            f"between {_pair(ordered, worst)} in {place}. {SEND_AGAIN}",
        )
    return float(gaps.mean())


def _require_planned_gap(gap_mm: float, images: Sequence[Instance], *, place: str) -> None:
    """Refuse an even stack whose gaps are two or more planned ones: every second slice is gone."""
    planned_mm = planned_gap_mm(images)
    if planned_mm is None:
        return
    share = gap_mm / planned_mm
    if round(share) >= 2 and abs(share - round(share)) * planned_mm < POSITION_TOLERANCE_MM * 2:
        raise StudyRefused(
            "missing_slice",
            f"slices must be {planned_mm:.2f} mm apart as planned (0018,0088), got {gap_mm:.2f} mm in {place}. "
            f"{SEND_AGAIN}",
        )


def _require_straight(in_plane_mm: NDArray[np.float64], *, place: str) -> None:
    """Refuse a stack whose slices are displaced within their plane."""
    drift_mm = float(np.ptp(in_plane_mm, axis=0).max())
    if drift_mm > POSITION_TOLERANCE_MM:
        raise StudyRefused(
            "uneven_slices", f"slices must lie on one normal, got a shift of {drift_mm:.2f} mm in {place}. {SEND_AGAIN}"
        )


def _pair(ordered: Sequence[Instance], index: int) -> str:
    """Name two neighbours by their instance numbers, or by their frames within one object."""
    one, other = ordered[index], ordered[index + 1]
    if one.sop_instance_uid == other.sop_instance_uid:
        return f"frames {one.pixels.frame + 1} and {other.pixels.frame + 1} of image {one.instance_number}"
    return f"images {one.instance_number} and {other.instance_number}"


def _close(first: Sequence[float] | None, second: Sequence[float] | None, *, tolerance: float) -> bool:
    """Return whether two tuples of numbers agree element by element."""
    if first is None or second is None:
        return first is second
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) <= tolerance
