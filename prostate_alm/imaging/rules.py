"""What a series is, judged by its headers: one small rule per role, each with the reason it gives.

A rule returns its reason, or None when it does not apply. Rules are asked in order and the first that answers decides.
Their words and limits are data, see `rulebook`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from prostate_alm.imaging.dicom import Instance, Series
from prostate_alm.imaging.geometry import (
    ORIENTATION_TOLERANCE,
    POSITION_TOLERANCE_MM,
    has_geometry,
    height_mm,
    normal_of,
)
from prostate_alm.imaging.rulebook import Rules, default_rules, found_in


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one series is and why."""

    series: Series
    role: str
    reason: str


def judge(series: Series, *, rules: Rules | None = None) -> Judgement:
    """Return the role of a series and the reason: the first rule of `ROLE_RULES` that answers."""
    rules = rules or default_rules()
    for role, rule in ROLE_RULES:
        reason = rule(series, rules)
        if reason is not None:
            return Judgement(series, role, reason)
    return Judgement(series, "other", "neither T2-weighted nor diffusion")


def trace_images(series: Series, *, b_value_s_per_mm2: float) -> tuple[Instance, ...]:
    """Return the acquired, direction-free images of one b-value in a series."""
    return tuple(one for one in series.instances if one.b_value_s_per_mm2 == b_value_s_per_mm2 and one.kind == "trace")


def trace_b_values(series: Series) -> tuple[float, ...]:
    """Return the distinct b-values of a series' trace images, ascending."""
    found = {one.b_value_s_per_mm2 for one in series.instances if one.kind == "trace"}
    return tuple(sorted(value for value in found if value is not None))


def coverage_mm(series: Series) -> float:
    """Return the distance between the first and the last slice along the slice normal."""
    heights = [height_mm(one) for one in series.instances]
    return max(heights) - min(heights)


def listed(values: Iterable[float]) -> str:
    """Return numbers as people write them.

    >>> listed([50.0, 400.0, 800.0])
    '50, 400, 800'
    """
    return ", ".join(f"{value:g}" for value in values)


def _not_mr(series: Series, rules: Rules) -> str | None:
    return None if series.modality == "MR" else f"modality is {series.modality or 'absent'}, not MR"


def _no_image(series: Series, rules: Rules) -> str | None:
    return None if any(one.rows for one in series.instances) else "holds no images"


def _mosaic(series: Series, rules: Rules) -> str | None:
    tiled = set(rules.mosaic_image_types)
    found = any(not tiled.isdisjoint(one.image_type) for one in series.instances)
    return "a mosaic: many slices tiled into one image, whose positions are lost" if found else None


def _no_geometry(series: Series, rules: Rules) -> str | None:
    return None if all(has_geometry(one) for one in series.instances) else "images without a position in space"


def _localizer(series: Series, rules: Rules) -> str | None:
    first = series.instances[0].orientation or ()
    for one in series.instances:
        if max(abs(a - b) for a, b in zip(first, one.orientation or (), strict=True)) > ORIENTATION_TOLERANCE:
            return "a localizer: several orientations in one series"
    return None


def _adc(series: Series, rules: Rules) -> str | None:
    return "an ADC or other fitted map; its b-value is that of an input" if _only(series, "adc") else None


def _computed(series: Series, rules: Rules) -> str | None:
    return "a computed b-value, not an acquired one" if _only(series, "computed", "adc") else None


def _directions(series: Series, rules: Rules) -> str | None:
    has_directions = any(one.kind == "direction" for one in series.instances)
    has_trace = any(value > 0 for value in trace_b_values(series))
    return None if has_trace or not has_directions else "diffusion of single directions, without a trace image"


def _uncombined(series: Series, rules: Rules) -> str | None:
    for value in trace_b_values(series):
        images = trace_images(series, b_value_s_per_mm2=value)
        per_position = len(images) / _positions(images)
        if per_position >= 2:
            return f"{per_position:.3g} images at each position of b {value:g}: directions or averages, not combined"
    return None


def _not_axial(series: Series, rules: Rules) -> str | None:
    cosine = abs(normal_of(series.instances[0])[2])
    # four decimals, as cosines are printed
    return (
        None
        if cosine >= round(math.cos(math.radians(rules.max_tilt_deg)), 4)
        else "not axial: the slice normal is not along the body axis"
    )


def _few_slices(series: Series, rules: Rules) -> str | None:
    count = _positions(series.instances)
    return None if count >= rules.min_slices else f"too few slices: {count}, fewer than {rules.min_slices}"


def _dwi(series: Series, rules: Rules) -> str | None:
    values = trace_b_values(series)
    sources = sorted({one.b_value_source for one in series.instances if one.b_value_source})
    return f"trace images at b {listed(values)}, b-values from {' and '.join(sources)}" if values else None


def _dynamic(series: Series, rules: Rules) -> str | None:
    per_position = len(series.instances) / _positions(series.instances)
    gradient = all("GR" in one.scanning_sequence for one in series.instances)
    return "a dynamic series: gradient echo, positions repeated over time" if gradient and per_position > 1 else None


def _multi_echo(series: Series, rules: Rules) -> str | None:
    echoes = {one.echo_time_ms for one in series.instances}
    return f"several echo times ({len(echoes)}): a relaxation map, not one contrast" if len(echoes) > 1 else None


def _t2(series: Series, rules: Rules) -> str | None:
    first = series.instances[0]
    if any(word in first.scanning_sequence for word in ("EP", "GR")) or "MAP" in " ".join(first.image_type):
        return None
    if found_in(series.description, rules.not_t2_patterns):
        return None
    if first.echo_time_ms is None:
        return "axial, T2 by its description" if found_in(series.description, rules.t2_patterns) else None
    low, high = rules.t2_echo_time_ms
    spin_echo = f"axial spin echo with an echo time of {first.echo_time_ms:g} ms"
    return spin_echo if low <= first.echo_time_ms <= high else None


ROLE_RULES: tuple[tuple[str, Callable[[Series, Rules], str | None]], ...] = (
    ("not_mr", _not_mr),
    ("no_image", _no_image),
    ("mosaic", _mosaic),
    ("no_geometry", _no_geometry),
    ("adc", _adc),
    ("computed_b", _computed),
    ("dwi_directions", _directions),
    ("localizer", _localizer),
    ("not_axial", _not_axial),
    ("few_slices", _few_slices),
    ("dwi_directions", _uncombined),
    ("dwi", _dwi),
    ("dynamic", _dynamic),
    ("multi_echo", _multi_echo),
    ("t2", _t2),
)


def _only(series: Series, wanted: str, *others: str) -> bool:
    """Return whether the images of a series are all of the wanted kind or the others, and one is wanted."""
    kinds = {one.kind for one in series.instances}
    return wanted in kinds and kinds <= {wanted, *others}


def _positions(images: Iterable[Instance]) -> int:
    """Return the number of distinct slice positions."""
    heights = sorted(height_mm(one) for one in images)
    return 1 + sum(b - a > POSITION_TOLERANCE_MM for a, b in pairwise(heights))
