"""What a series is, judged by its headers: one small rule per role, each with the reason it gives.

A rule returns its reason, or None when it does not apply. Rules are asked in order and the first that answers decides.
Their words and limits are data, see `rulebook`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prostate_alm.imaging.dicom import Instance, Series
from prostate_alm.imaging.geometry import ORIENTATION_TOLERANCE, has_geometry, height_mm, normal_of
from prostate_alm.imaging.kinds import IMAGED, MAGNITUDE
from prostate_alm.imaging.parts import echo_times_ms, positions
from prostate_alm.imaging.rulebook import Rules, default_rules, found_in

_MODALITIES = frozenset(
    [
        "ANN",
        "AR",
        "ASMT",
        "AU",
        "BDUS",
        "BI",
        "BMD",
        "CFM",
        "CR",
        "CT",
        "CTPROTOCOL",
        "DG",
        "DMS",
        "DOC",
        "DX",
        "ECG",
        "EEG",
        "EMG",
        "EOG",
        "EPS",
        "ES",
        "FID",
        "GM",
        "HC",
        "HD",
        "IO",
        "IOL",
        "IVOCT",
        "IVUS",
        "KER",
        "KO",
        "LEN",
        "LS",
        "M3D",
        "MG",
        "MR",
        "NM",
        "OAM",
        "OCT",
        "OP",
        "OPM",
        "OPT",
        "OPTBSV",
        "OPTENF",
        "OPV",
        "OSS",
        "OT",
        "PA",
        "PLAN",
        "POS",
        "PR",
        "PT",
        "PX",
        "REG",
        "RESP",
        "RF",
        "RG",
        "RTDOSE",
        "RTIMAGE",
        "RTINTENT",
        "RTPLAN",
        "RTRAD",
        "RTRECORD",
        "RTSEGANN",
        "RTSTRUCT",
        "RWV",
        "SEG",
        "SM",
        "SMR",
        "SR",
        "SRF",
        "STAIN",
        "TEXTUREMAP",
        "TG",
        "US",
        "VA",
        "XA",
        "XAPROTOCOL",
        "XC",
    ]
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one series is and why."""

    series: Series
    role: str
    reason: str


def judge(series: Series, *, rules: Rules | None = None) -> Judgement:
    """Return the role of a series and the reason: the first rule of `ROLE_RULES` that answers."""
    rules = rules or default_rules()
    answers = ((role, rule(series, rules)) for role, rule in ROLE_RULES)
    role, reason = next((role, reason) for role, reason in answers if reason is not None)
    return Judgement(series, role, reason)


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


def modality_word(modality: str) -> str:
    """Return a modality where it is one of DICOM's (PS3.3 C.7.3.1.1.1): a typed word may be a name.

    >>> modality_word("CT"), modality_word(""), modality_word("DOE^JANE")
    ('CT', 'absent', 'no term of DICOM')
    """
    return modality if modality in _MODALITIES else "no term of DICOM" if modality else "absent"


def _not_mr(series: Series, rules: Rules) -> str | None:
    return None if series.modality == "MR" else f"modality is {modality_word(series.modality)}, not MR"


def _no_image(series: Series, rules: Rules) -> str | None:
    return None if any(one.rows and one.is_image for one in series.instances) else "holds no images"


def _mosaic(series: Series, rules: Rules) -> str | None:
    tiled = set(rules.mosaic_image_types)
    found = any(not tiled.isdisjoint(one.image_type) for one in series.instances)
    return "a mosaic: many slices tiled into one image, whose positions are lost" if found else None


def _no_geometry(series: Series, rules: Rules) -> str | None:
    return None if all(has_geometry(one) for one in series.instances) else "images without a position in space"


def _no_magnitude(series: Series, rules: Rules) -> str | None:
    components = {one.component for one in series.instances}
    return None if MAGNITUDE in components else f"{' and '.join(sorted(components))} images, not the magnitude"


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
    """Answer for b-values of several images at each position, unless others above b = 0 have one."""
    share = {value: _per_position(trace_images(series, b_value_s_per_mm2=value)) for value in trace_b_values(series)}
    repeated = [value for value in share if share[value] >= 2]
    if not repeated or any(value > 0 for value in share if value not in repeated):
        return None
    worst = max(repeated, key=lambda value: share[value])
    if not any(share):
        return f"{share[worst]:.3g} images at each position of b 0: a time series, not diffusion"
    return f"{share[worst]:.3g} images at each position of b {worst:g}: directions or averages, not combined"


def _not_axial(series: Series, rules: Rules) -> str | None:
    cosine = abs(normal_of(series.instances[0])[2])
    # four decimals, as cosines are printed
    return (
        None
        if cosine >= round(math.cos(math.radians(rules.max_tilt_deg)), 4)
        else "not axial: the slice normal is not along the body axis"
    )


def _few_slices(series: Series, rules: Rules) -> str | None:
    count = positions(series.instances)
    return None if count >= rules.min_slices else f"too few slices: {count}, fewer than {rules.min_slices}"


def _dwi(series: Series, rules: Rules) -> str | None:
    values = trace_b_values(series)
    sources = sorted({one.b_value_source for one in series.instances if one.b_value_source})
    return f"trace images at b {listed(values)}, b-values from {' and '.join(sources)}" if values else None


def _dynamic(series: Series, rules: Rules) -> str | None:
    gradient = all("GR" in one.scanning_sequence for one in series.instances)
    is_repeated = gradient and _per_position(series.instances) > 1
    return "a dynamic series: gradient echo, positions repeated over time" if is_repeated else None


def _multi_echo(series: Series, rules: Rules) -> str | None:
    count = len(echo_times_ms(series.instances, rules))
    return f"several echo times ({count}): a relaxation map, not one contrast" if count > 1 else None


def _t2(series: Series, rules: Rules) -> str | None:
    if _why_no_t2(series, rules) is not None:
        return None
    first = series.instances[0]
    if first.echo_time_ms is None:
        return "axial, T2 by its description"
    told = "" if first.contrast == "plain" else f", {first.contrast.replace('_', ' ')}"
    return f"axial spin echo with an echo time of {first.echo_time_ms:g} ms{told}"


def _other(series: Series, rules: Rules) -> str:
    if is_diffusion_by_name(series, rules):
        return "diffusion by its name, but no b-value was found. Name the place of the b-values with --rules"
    return f"neither T2-weighted nor diffusion: {_why_no_t2(series, rules)}"


def is_diffusion_by_name(series: Series, rules: Rules) -> bool:
    """Return whether a series without b-values is called diffusion, so that they must be somewhere."""
    first = series.instances[0]
    is_planar = "EP" in first.scanning_sequence and "GR" not in first.scanning_sequence
    return found_in(series.description, rules.diffusion_patterns) and (is_planar or not _is_spin_echo(series, rules))


def _is_spin_echo(series: Series, rules: Rules) -> bool:
    """Return whether a name of T2 or of a turbo spin echo stands in the description or the sequence's name."""
    names = f"{series.description}\\{series.instances[0].sequence_name}"
    return found_in(names, (*rules.t2_patterns, *rules.spin_echo_patterns))


def _why_no_t2(series: Series, rules: Rules) -> str | None:
    """Return what keeps a series from being T2, None where nothing does."""
    first = series.instances[0]
    if any(word in first.scanning_sequence for word in ("EP", "GR")):
        return "a gradient echo or echo-planar readout"
    if "MAP" in " ".join(first.image_type):
        return "a map"
    if first.contrast not in IMAGED:
        return (
            "an image of fat alone" if first.contrast == "fat" else "inversion recovery, whose contrast is not T2 alone"
        )
    if found_in(series.description, rules.not_t2_patterns) or is_diffusion_by_name(series, rules):
        return "another contrast by its name"
    if first.echo_time_ms is None:
        return None if found_in(series.description, rules.t2_patterns) else "no echo time, and no T2 in its description"
    key = "t2_echo_time_3d_ms" if first.is_3d else "t2_echo_time_ms"
    low, high = getattr(rules, key)
    if low <= first.echo_time_ms <= high:
        return None
    return f"an echo time of {first.echo_time_ms:g} ms, outside {low:g} to {high:g} ({key})"


ROLE_RULES: tuple[tuple[str, Callable[[Series, Rules], str | None]], ...] = (
    ("not_mr", _not_mr),
    ("no_image", _no_image),
    ("mosaic", _mosaic),
    ("no_geometry", _no_geometry),
    ("other", _no_magnitude),
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
    ("other", _other),
)


def _only(series: Series, wanted: str, *others: str) -> bool:
    """Return whether the images of a series are all of the wanted kind or the others, and one is wanted."""
    kinds = {one.kind for one in series.instances}
    return wanted in kinds and kinds <= {wanted, *others}


def _per_position(images: Sequence[Instance]) -> float:
    """Return how many images there are at each slice position."""
    return len(images) / positions(images)
