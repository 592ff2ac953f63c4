"""Which diffusion images may enter one fit: those of one protocol, each b-value once, on one grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prostate_alm.imaging.dicom import Series, StudyRefused
from prostate_alm.imaging.geometry import POSITION_TOLERANCE_MM, Stack, in_plane_mm, same_plane, stack_images
from prostate_alm.imaging.parts import timing_difference
from prostate_alm.imaging.rulebook import Rules, found_in
from prostate_alm.imaging.rules import listed, trace_b_values, trace_images
from prostate_alm.imaging.selection import DiffusionSeries

IN_PLANE_SHIFT_MM = 1.0  # series of one protocol are planned together and start at the same corner
HIGH_B_S_PER_MM2 = 600.0  # what remains of a protocol must still reach the b-values that a model is given


@dataclass(frozen=True, slots=True)
class DiffusionSet:
    """The diffusion images of one fit, and which b-values were left out of it, each with the reason."""

    used: tuple[DiffusionSeries, ...]
    left_out: tuple[str, ...] = ()

    @property
    def b_values_s_per_mm2(self) -> list[float]:
        """Return the b-values used, ascending."""
        return sorted(value for one in self.used for value in one.b_values_s_per_mm2)


def sets_of(group: Sequence[Series], rules: Rules) -> list[DiffusionSet]:
    """Return the ways to take each b-value of a protocol once, best first: without the first series if others have all.

    Args:
        group: series of one protocol, the preferred first.
        rules: the least spread of b-values.
    """
    first = _fitting(_each_b_value_once(group), rules)
    wanted = set(first.b_values_s_per_mm2)
    others = (_each_b_value_once(group[start:]) for start in range(1, len(group)))
    return [first, *(_fitting(one, rules) for one in others if wanted <= set(_values(one)))]


def is_enough(values: Sequence[float], rules: Rules) -> bool:
    """Return whether b-values differ enough for a fit."""
    return len(values) > 1 and max(values) - min(values) >= rules.min_b_value_spread_s_per_mm2


def difference(first: Series, second: Series, rules: Rules) -> str | None:
    """Return why the images of two series may not enter one fit, None where they may.

    S_0 depends on echo and repetition time, distortion on the direction of phase encoding, and a workstation's images
    on images that are in the fit already.
    """
    one, other = first.instances[0], second.instances[0]
    corners = zip(in_plane_mm(one), in_plane_mm(other), strict=True)
    if {image.frame_of_reference_uid for image in first.instances} != {
        image.frame_of_reference_uid for image in second.instances
    }:
        return "another Frame of Reference"
    if not same_plane(one, other) or any(abs(a - b) >= IN_PLANE_SHIFT_MM for a, b in corners):
        return "another plane, matrix or field of view"
    if is_secondary(first) != is_secondary(second):
        return "a derived image (DERIVED, SECONDARY) beside acquired ones"
    return timing_difference(one, other, rules) or _other_encoding(first, second, rules)


def is_secondary(series: Series) -> bool:
    """Return whether a workstation made the images: DERIVED and SECONDARY, and neither a trace nor a combination."""
    words = series.instances[0].image_type
    is_combined = any(word.startswith(("TRACE", "COMBINED", "ISO")) for word in words)
    return words[:2] == ("DERIVED", "SECONDARY") and not is_combined


def _other_encoding(first: Series, second: Series, rules: Rules) -> str | None:
    """Return a word if the phase encoding of two series differs, in axis or direction."""
    one, other = first.instances[0].phase_encoding, second.instances[0].phase_encoding
    axes, signs = (one[:3], other[:3]), (one[3:], other[3:])
    is_named = [found_in(series.description, rules.reversed_patterns) for series in (first, second)]
    if is_named[0] != is_named[1] or (all(axes) and axes[0] != axes[1]) or (all(signs) and signs[0] != signs[1]):
        return "another direction of phase encoding, which distorts the other way"
    return None


def _each_b_value_once(group: Sequence[Series]) -> tuple[DiffusionSeries, ...]:
    """Return the series of a protocol with the b-values that no better series of it has given."""
    taken: set[float] = set()
    used = []
    for one in group:
        fresh = tuple(value for value in trace_b_values(one) if value not in taken)
        taken.update(fresh)
        if fresh:
            used.append(DiffusionSeries(one, fresh))
    return tuple(sorted(used, key=lambda one: (one.b_values_s_per_mm2, one.series.uid)))


def _values(used: Sequence[DiffusionSeries]) -> list[float]:
    return sorted(value for one in used for value in one.b_values_s_per_mm2)


def _fitting(used: tuple[DiffusionSeries, ...], rules: Rules) -> DiffusionSet:
    """Return a protocol without the b-values that do not fit, if what remains suffices; else all, to be refused.

    A b-value does not fit if its images are several at a position, or if another series holds it on another grid.
    """
    stacks = {(one.series.uid, value): _stack(one.series, value) for one in used for value in one.b_values_s_per_mm2}
    even = {key: stack for key, stack in stacks.items() if isinstance(stack, Stack)}
    if not even:
        return DiffusionSet(used)
    grids = {key: next(other for other in even if _same_grid(even[other], stack)) for key, stack in even.items()}
    counts = Counter(grids.values())
    usual = max(counts, key=lambda key: (counts[key], -key[1]))
    own_series = {uid for (uid, _), grid in grids.items() if grid == usual}
    unfit = {
        key: _what_is_wrong(stack)
        for key, stack in stacks.items()
        if grids.get(key) != usual and (key[0] not in own_series or stack == "repeated_slice")
    }
    kept = [value for uid, value in stacks if (uid, value) not in unfit]
    if not unfit or not is_enough(kept, rules) or max(kept) < HIGH_B_S_PER_MM2:
        return DiffusionSet(used)
    remaining = (
        DiffusionSeries(one.series, tuple(b for b in one.b_values_s_per_mm2 if (one.series.uid, b) not in unfit))
        for one in used
    )
    numbers = {one.series.uid: one.series.number for one in used}
    told = tuple(f"b {listed([b])} of series {numbers[uid]} is left out: {why}" for (uid, b), why in unfit.items())
    return DiffusionSet(tuple(one for one in remaining if one.b_values_s_per_mm2), told)


def _stack(series: Series, value: float) -> Stack | str:
    """Return the images of a b-value as a stack, or the code of what is wrong with them."""
    try:
        return stack_images(trace_images(series, b_value_s_per_mm2=value), place="")
    except StudyRefused as refused:
        return refused.code


def _what_is_wrong(stack: Stack | str) -> str:
    """Return why a b-value does not fit, in words."""
    words = {"repeated_slice": "several images at one position", "missing_slice": "a slice is missing"}
    return "it lies on another grid" if isinstance(stack, Stack) else words.get(stack, "its slices form no even stack")


def _same_grid(first: Stack, second: Stack) -> bool:
    """Return whether two stacks have the same voxels in space."""
    apart_mm = np.abs(first.affine_ras_mm - second.affine_ras_mm).max()
    return first.shape == second.shape and bool(apart_mm <= POSITION_TOLERANCE_MM)
