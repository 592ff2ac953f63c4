"""Why a study that is used may be another than it seems: one small function per warning, all of them asked."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from prostate_alm.imaging.geometry import Stack, planned_gap_mm, stack_images
from prostate_alm.imaging.rulebook import default_rules
from prostate_alm.imaging.selection import Doubt, Selection, image_stacks

LONGEST_SESSION_H = 12.0  # images of two days but of one night are of one session
LEAST_SHARED = 0.7  # of the longer stack
WIDE_GAP_OF_THICKNESS = 1.9  # prostate protocols have gaps of 0 to 20 % of the slice


def doubts_of(selection: Selection) -> tuple[Doubt, ...]:
    """Return every doubt about a selection that is used, in the order of `DOUBTS`; none about a refused one."""
    if selection.refused is not None:
        return ()
    return tuple(doubt for find in DOUBTS for doubt in find(selection))


def _sex(selection: Selection) -> Iterator[Doubt]:
    if any(one.patient_sex == "F" for one in selection.used):
        yield Doubt(
            "patient_not_male", "Patient's Sex (0010,0040) is F: the study may be another's, or of no prostate."
        )


def _days(selection: Selection) -> Iterator[Doubt]:
    moments = [_moment(one.acquired_at) for one in selection.used]
    known = sorted(one for one in moments if one is not None)
    if not known or known[0].date() == known[-1].date():
        return
    hours = (known[-1] - known[0]).total_seconds() / 3600
    if hours > LONGEST_SESSION_H:
        yield Doubt("different_days", f"T2 and diffusion were acquired {hours / 24:.1f} days apart.")


def _contrast(selection: Selection) -> Iterator[Doubt]:
    if selection.t2 is None:
        return
    contrast = selection.t2.instances[0].contrast
    if contrast != "plain":
        told = {"fat_suppressed": "fat is suppressed", "in_phase": "a Dixon in-phase image"}.get(
            contrast, "a Dixon opposed-phase image"
        )
        yield Doubt(
            "t2_contrast", f"T2 of series {selection.t2.number} is not plain: {told}; no other T2 could be used."
        )


def _left_out(selection: Selection) -> Iterator[Doubt]:
    for series in dict.fromkeys(selection.used):
        for one in series.left_out:
            if one.is_doubtful:
                yield Doubt("images_left_out", f"series {series.number} is used without {one.what}.")


def _wide_gaps(selection: Selection) -> Iterator[Doubt]:
    for place, images in image_stacks(selection):
        thickness_mm = max((one.slice_thickness_mm or 0.0 for one in images), default=0.0)
        gap_mm = stack_images(images, place=place).gap_mm
        if planned_gap_mm(images) is None and thickness_mm and gap_mm >= WIDE_GAP_OF_THICKNESS * thickness_mm:
            yield Doubt(
                "slices_may_be_missing",
                f"slices of {place} are {thickness_mm:g} mm thick and {gap_mm:.2f} mm apart, as if some were lost.",
            )


def _counts(selection: Selection) -> Iterator[Doubt]:
    for place, images in image_stacks(selection):
        planned = max((one.planned_slices or 0 for one in images), default=0)
        if len(images) < planned:
            yield Doubt("slices_may_be_missing", f"{place} has {len(images)} slices, {planned} were planned.")


def _numbers(selection: Selection) -> Iterator[Doubt]:
    """Yield a doubt where a run of instance numbers lacks at most one for each b-value: end slices were lost."""
    for series in dict.fromkeys(selection.used):
        numbers = {one.instance_number for one in series.instances}
        is_whole = len(numbers) == len(series.instances) and not series.left_out and min(numbers) > 0
        lacking = max(numbers) - len(numbers)
        if is_whole and 0 < lacking <= max(1, len(series.b_values_s_per_mm2)):
            absent = ", ".join(str(one) for one in range(1, max(numbers)) if one not in numbers)
            yield Doubt(
                "slices_may_be_missing", f"images of series {series.number} are numbered from 1 on, without {absent}."
            )


def _order(selection: Selection) -> Iterator[Doubt]:
    """Yield a doubt where few images of a stack lie out of order: two of them may have changed places."""
    for place, images in image_stacks(selection):
        stacked = stack_images(images, place=place).instances
        locations = [one.slice_location_mm for one in stacked if one.slice_location_mm is not None]
        named = "Slice Location" if len(locations) == len(stacked) else "Instance Number"
        values = locations if named == "Slice Location" else [float(one.instance_number) for one in stacked]
        misplaced = len(values) - max(_longest_rise(values), _longest_rise(values[::-1]))
        interleaved = (len(values) - 1) // 2  # so many are out of order where every second slice was counted first
        if misplaced and (named == "Slice Location" or misplaced < interleaved):
            yield Doubt(
                "positions_disagree", f"slices of {place} lie in another order by {named} than by their positions."
            )


def _longest_rise(values: Sequence[float]) -> int:
    """Return how many values the longest subsequence that never falls has."""
    ends: list[float] = []  # the least last value of a rise of each length
    for value in values:
        place = bisect_right(ends, value)
        ends[place : place + 1] = [value]
    return len(ends)


def _ends(selection: Selection) -> Iterator[Doubt]:
    """Yield a doubt where T2 and diffusion share their slices but for one at one end."""
    (_, images), *diffusion = image_stacks(selection)
    t2 = stack_images(images, place="")
    other = stack_images(diffusion[0][1], place="")
    slices = _shared_grid(t2, other)
    if slices is None:
        return
    below, above = slices
    if (abs(below), abs(above)) in ((0, 1), (1, 0)):
        lacking = "diffusion" if below + above > 0 else "T2"
        yield Doubt(
            "slices_may_be_missing",
            f"{lacking} has one slice less than the other at one end, and all others at its place.",
        )


def _coverage(selection: Selection) -> Iterator[Doubt]:
    """Yield a doubt where T2 and diffusion share less than a gland and one goes much further: half was lost."""
    (_, images), *diffusion = image_stacks(selection)
    t2, other = stack_images(images, place=""), stack_images(diffusion[0][1], place="")
    normal = t2.affine_ras_mm[:3, 2] / t2.gap_mm
    (low, high), (first, last) = (_ends_mm(stack, normal) for stack in (t2, other))
    shared_mm, longest_mm = min(high, last) - max(low, first), max(high - low, last - first)
    if shared_mm < min(default_rules().gland_length_mm, LEAST_SHARED * longest_mm):
        yield Doubt(
            "coverage_differs",
            f"T2 and diffusion share {max(shared_mm, 0.0):.0f} mm along the slices, of {high - low:.0f} and "
            f"{last - first:.0f} mm: part of one may be missing.",
        )


def _ends_mm(stack: Stack, normal: NDArray[np.float64]) -> tuple[float, float]:
    """Return where a stack begins and ends along a direction, through the middle of its planes."""
    columns, rows, slices = stack.shape
    ends = (stack.affine_ras_mm @ np.array([columns / 2, rows / 2, k, 1.0]) for k in (-0.5, slices - 0.5))
    low, high = sorted(float(normal @ end[:3]) for end in ends)
    return low, high


def _shared_grid(t2: Stack, other: Stack) -> tuple[int, int] | None:
    """Return by how many slices T2 goes further at the lower and at the upper end, None where slices lie elsewhere."""
    normal = t2.affine_ras_mm[:3, 2] / t2.gap_mm
    if abs(t2.gap_mm - other.gap_mm) > 0.01 or np.abs(other.affine_ras_mm[:3, 2] / other.gap_mm - normal).max() > 0.01:
        return None
    # the middle of each plane, since T2 and diffusion differ in pixels
    first = [stack.affine_ras_mm @ np.array([stack.shape[0] / 2, stack.shape[1] / 2, 0, 1]) for stack in (t2, other)]
    below = float(normal @ (first[1] - first[0])[:3]) / t2.gap_mm
    if abs(below - round(below)) > 0.02:
        return None
    return round(below), len(t2.instances) - len(other.instances) - round(below)


def _moment(text: str) -> datetime | None:
    """Return the time of acquisition, None where it is no date."""
    try:
        return datetime.strptime(text[:14], "%Y%m%d%H%M%S")
    except ValueError:
        return None


DOUBTS: tuple[Callable[[Selection], Iterator[Doubt]], ...] = (
    _sex,
    _days,
    _contrast,
    _left_out,
    _wide_gaps,
    _counts,
    _numbers,
    _order,
    _ends,
    _coverage,
)
