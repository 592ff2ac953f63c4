"""Which images belong together: a series without what is foreign in it, its acquisitions apart, its pieces joined.

A Series Instance UID says what was sent together. An acquisition may be split over several, several may share one, and
objects without pixels lie among the images. A part is a `Series` of the images that could form one volume each b-value.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from prostate_alm.imaging.dicom import Instance, LeftOut, Series, StudyRefused
from prostate_alm.imaging.geometry import (
    POSITION_TOLERANCE_MM,
    has_geometry,
    height_mm,
    same_plane,
    spacing_fits_plan,
    stack_images,
)
from prostate_alm.imaging.rulebook import Rules

FOREIGN_SHARE = 0.2  # images of another plane beyond this share make a localizer, fewer are foreign


def parts_of_study(series: Iterable[Series], rules: Rules) -> tuple[Series, ...]:
    """Return the parts of all series; most series are one part, whole and unchanged."""
    joined = _joined([_without_foreign(one) for one in series])
    return tuple(part for one in joined for part in _parts(one, rules))


def near(first: float | None, second: float | None, *, tolerance: float) -> bool:
    """Return whether two times agree within the relative tolerance; an absent one agrees with everything.

    >>> near(101.0, 101.02, tolerance=0.01), near(58.0, 70.0, tolerance=0.01), near(None, 70.0, tolerance=0.01)
    (True, False, True)
    """
    return first is None or second is None or abs(first - second) <= tolerance * max(first, second)


def echo_times_ms(images: Iterable[Instance], rules: Rules) -> list[float]:
    """Return the echo times of some images that differ by more than a rounding, ascending."""
    times = sorted({one.echo_time_ms for one in images if one.echo_time_ms is not None})
    return [
        time
        for index, time in enumerate(times)
        if not index or not near(times[index - 1], time, tolerance=rules.timing_tolerance)
    ]


def positions(images: Iterable[Instance]) -> int:
    """Return the number of distinct slice positions."""
    heights = sorted(height_mm(one) for one in images)
    return 1 + sum(b - a > POSITION_TOLERANCE_MM for a, b in pairwise(heights))


def _without_foreign(series: Series) -> Series:
    """Return a series without objects that are no images, and without the few images of another plane."""
    images = tuple(one for one in series.instances if one.is_image)
    if images and len(images) < len(series.instances):
        told = LeftOut(f"objects without pixels ({len(series.instances) - len(images)})", is_doubtful=False)
        series = replace(series, instances=images, left_out=(*series.left_out, told))
    usual = _usual_plane([one for one in series.instances if has_geometry(one)])
    foreign = len(series.instances) - len(usual)
    if not usual or not 0 < foreign <= FOREIGN_SHARE * len(series.instances):
        return series
    told = LeftOut(f"{foreign} of {len(series.instances)} images, in another plane or none", is_doubtful=True)
    return replace(series, instances=tuple(usual), left_out=(*series.left_out, told))


def _usual_plane(images: Sequence[Instance]) -> list[Instance]:
    """Return the images in the plane that most of them share."""
    best: list[Instance] = []
    remaining = list(images)
    while len(remaining) > len(best):
        alike = [one for one in remaining if same_plane(remaining[0], one)]
        remaining = [one for one in remaining if not same_plane(remaining[0], one)]
        best = max(best, alike, key=len)
    return best


def _parts(series: Series, rules: Rules) -> list[Series]:
    """Return the parts of a series."""
    images = series.instances
    if not images or not all(has_geometry(one) and same_plane(images[0], one) for one in images):
        return [series]
    is_diffusion = any(one.kind != "none" for one in images)
    parts = [series]
    for split in _SPLITS_OF_DIFFUSION if is_diffusion else _SPLITS:
        parts = [part for one in parts for part in split(one, rules)]
    return parts


def _by_component(series: Series, rules: Rules) -> list[Series]:
    return _grouped(series, lambda one: one.component)


def _by_contrast(series: Series, rules: Rules) -> list[Series]:
    return _grouped(series, lambda one: one.contrast)


def _by_echo(series: Series, rules: Rules) -> list[Series]:
    """Split images of several echo times where one of them is T2: proton density and T2 of a dual echo.

    More of them are measurements of relaxation, and `multi_echo` as a whole.
    """
    times = echo_times_ms(series.instances, rules)
    low, high = rules.t2_echo_time_ms
    if len(times) < 2 or sum(low <= time <= high for time in times) != 1:
        return [series]
    return _grouped(series, lambda one: sum(time <= (one.echo_time_ms or 0) for time in times))


def _by_repeat(series: Series, rules: Rules) -> list[Series]:
    """Split an acquisition and its repeats, which the acquisition's number or time tells apart at every position."""
    images = series.instances
    if len(images) == positions(images) or all("GR" in one.scanning_sequence for one in images):
        return [series]
    at_position = _at_positions(images)
    for repeats in at_position:
        if len({(one.acquisition_number, one.acquired_at) for one in repeats}) < len(repeats):
            return [series]
    rank = {id(one): index for repeats in at_position for index, one in enumerate(repeats)}
    return _grouped(series, lambda one: rank[id(one)])


def _without_repeats(series: Series, rules: Rules) -> list[Series]:
    """Leave out all but the first of several images without diffusion weighting at every position.

    They have no direction, so each is the same measurement; for b > 0 several images may be several directions.
    """
    zero = [one for one in series.instances if one.kind == "trace" and one.b_value_s_per_mm2 == 0]
    at_position = _at_positions(zero)
    if len({len(repeats) for repeats in at_position}) != 1 or len(zero) == len(at_position):
        return [series]
    again = {id(one) for repeats in at_position for one in repeats[1:]}
    told = LeftOut(f"repeats of b 0 ({len(again)})", is_doubtful=False)
    kept = tuple(one for one in series.instances if id(one) not in again)
    return [replace(series, instances=kept, left_out=(*series.left_out, told))]


def _at_positions(images: Iterable[Instance]) -> list[list[Instance]]:
    """Return the images at each slice position, in the order of acquisition."""
    found: dict[float, list[Instance]] = {}
    for one in sorted(images, key=lambda one: (one.acquisition_number, one.acquired_at, one.instance_number)):
        height = next((h for h in found if abs(h - height_mm(one)) <= POSITION_TOLERANCE_MM), height_mm(one))
        found.setdefault(height, []).append(one)
    return list(found.values())


def _by_timing(series: Series, rules: Rules) -> list[Series]:
    """Split traces of different echo or repetition times, whose S_0 differ; the other images stay with the first."""
    groups: list[list[Instance]] = []
    for one in (one for one in series.instances if one.kind == "trace"):
        alike = next((group for group in groups if timing_difference(group[0], one, rules) is None), None)
        if alike is None:
            groups.append([one])
        else:
            alike.append(one)
    if len(groups) < 2:
        return [series]
    index = {id(one): number for number, group in enumerate(groups) for one in group}
    return _grouped(series, lambda one: index.get(id(one), 0))


_SPLITS = (_by_component, _by_contrast, _by_echo, _by_repeat)
_SPLITS_OF_DIFFUSION = (_by_component, _by_timing, _without_repeats)


def timing_difference(first: Instance, second: Instance, rules: Rules) -> str | None:
    """Return the time in which two images differ too much for one fit, None where they agree."""
    for name, one, other in (
        ("echo time", first.echo_time_ms, second.echo_time_ms),
        ("repetition time", first.repetition_time_ms, second.repetition_time_ms),
    ):
        if not near(one, other, tolerance=rules.timing_tolerance):
            return f"{name}s of {one:g} and {other:g} ms"
    return None


def _grouped(series: Series, key: Callable[[Instance], Hashable]) -> list[Series]:
    """Return the images of a series by a key, in the order of their first ones; the series itself where all agree."""
    groups: dict[Hashable, list[Instance]] = {}
    for one in series.instances:
        groups.setdefault(key(one), []).append(one)
    if len(groups) == 1:
        return [series]
    return [replace(series, instances=tuple(images)) for images in groups.values()]


def _joined(series: Sequence[Series]) -> list[Series]:
    """Return the series, those that are pieces of one acquisition joined to the first of them."""
    alike: dict[Hashable, list[Series]] = {}
    for one in series:
        alike.setdefault(_likeness(one), []).append(one)
    return [whole for pieces in alike.values() for whole in _as_whole(pieces)]


def _likeness(series: Series) -> Hashable:
    """Return what the pieces of one acquisition share."""
    images = series.instances
    shared = (series.patient_key, series.study_uid, series.modality, series.description)
    if not images or not all(has_geometry(one) for one in images):
        return (*shared, series.uid)
    first = images[0]
    matrix = (first.rows, first.columns, first.scanning_sequence, first.frame_of_reference_uid)
    kinds = tuple(sorted({(one.kind, one.b_value_s_per_mm2, one.component, one.contrast) for one in images}, key=repr))
    return (*shared, *matrix, first.image_type, first.echo_time_ms, kinds)


def _as_whole(pieces: list[Series]) -> list[Series]:
    """Return pieces as one series where they lie beside each other in one even stack, else as they are."""
    images = [image for one in pieces for image in one.instances]
    stacks: dict[Hashable, list[Instance]] = {}
    for image in images:
        stacks.setdefault((image.kind, image.b_value_s_per_mm2), []).append(image)
    if len(pieces) == 1 or not all(_is_even(stack) for stack in stacks.values()):
        return pieces
    first = min(pieces, key=lambda one: (one.number, one.uid))
    left_out = tuple(told for one in pieces for told in one.left_out)
    conflicts = sum(one.conflicting_copies for one in pieces)
    return [replace(first, instances=tuple(images), left_out=left_out, conflicting_copies=conflicts)]


def _is_even(images: Sequence[Instance]) -> bool:
    """Return whether images form one stack whose slices lie no closer than they are thick or were planned."""
    try:
        stack = stack_images(images, place="")
    except StudyRefused:
        return False
    return spacing_fits_plan(stack)
