"""Which T2 and which diffusion images of a study are used: every choice is a preference with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prostate_alm.imaging.checks import first_refusal, frames_of_reference
from prostate_alm.imaging.dicom import Series, Skipped, read_folder
from prostate_alm.imaging.geometry import in_plane_mm, same_plane
from prostate_alm.imaging.rulebook import Rules, default_rules
from prostate_alm.imaging.rules import Judgement, coverage_mm, judge, trace_b_values
from prostate_alm.imaging.selection import DiffusionSeries, Selection

IN_PLANE_SHIFT_MM = 1.0  # series of one protocol are planned together and start at the same corner


@dataclass(frozen=True, slots=True)
class Preference:
    """One criterion among candidates: the greatest key wins, and `reason` says what the winner has."""

    key: Callable[[Series], Any]
    reason: str


_LATER = (
    Preference(lambda one: one.acquired_at, "acquired later: a repeat replaces what it repeats"),
    Preference(lambda one: one.number, "the higher series number"),
    Preference(lambda one: one.uid, "the last identifier"),
)
T2_PREFERENCES = (
    Preference(lambda one: "ORIGINAL" in one.instances[0].image_type, "acquired, not derived"),
    Preference(lambda one: "FS" not in one.instances[0].scan_options.split("\\"), "without fat saturation"),
    Preference(lambda one: -_pixel_area_mm2(one), "finer pixels"),
    Preference(lambda one: round(coverage_mm(one)), "longer coverage"),
    *_LATER,
)
DIFFUSION_PREFERENCES = (
    Preference(lambda one: len(trace_b_values(one)), "more b-values"),
    Preference(lambda one: max(trace_b_values(one)), "a higher b-value"),
    *_LATER,
)


def explain_study(directory: Path, *, rules: Rules | None = None) -> Selection:
    """Return what would be used of the study in a folder, and why; a bad study is carried as `refused`.

    Args:
        directory: a folder that holds the files of one study, under any names.
        rules: words, limits and places of the selection; `rules.json` when None.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: the path is a file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     print(explain_study(Path(empty)).refused.code)
        no_dicom
    """
    rules = rules or default_rules()
    folder = read_folder(directory, rules=rules)
    return select_series(folder.series, skipped=folder.skipped, rules=rules)


def select_series(
    series: Sequence[Series], *, skipped: Sequence[Skipped] = (), rules: Rules | None = None
) -> Selection:
    """Return the axial T2 and the diffusion images to use, with the role of each series and the reason.

    Args:
        series: the series of one study, in any order.
        skipped: files that were no images; a broken DICOM file among them refuses the study.
        rules: those that the series were read with; `rules.json` when None.

    Returns:
        The selection. It never raises for a bad study: `refused` says what is wrong with it.

    Example:
        >>> select_series(()).refused.code
        'no_dicom'
    """
    rules = rules or default_rules()
    judged = tuple(judge(one, rules=rules) for one in sorted(series, key=lambda one: (one.number, one.uid)))
    t2_ranked = _ranked((one.series for one in judged if one.role == "t2"), T2_PREFERENCES)
    t2, dwi = _matching_pair(
        t2_ranked, diffusion_sets((one.series for one in judged if one.role == "dwi"), rules=rules)
    )
    final = tuple(_final(judgement, t2=t2, t2_ranked=t2_ranked, dwi=dwi, rules=rules) for judgement in judged)
    selection = Selection(t2, dwi, None, final, tuple(skipped))
    return replace(selection, refused=first_refusal(selection, rules))


def diffusion_sets(
    candidates: Iterable[Series], *, rules: Rules | None = None
) -> tuple[tuple[DiffusionSeries, ...], ...]:
    """Return diffusion series grouped by protocol, best group first, each b-value taken from one series only.

    A protocol is one series of several b-values or one series per b-value; it shares the Frame of Reference, the
    plane, echo and repetition time. Within a group the preferred series gives its b-values first; the best group
    has the most b-values, then the highest, then the preferred series.
    """
    rules = rules or default_rules()
    groups: list[list[Series]] = []
    for one in _ranked(candidates, DIFFUSION_PREFERENCES):
        group = next((group for group in groups if _same_protocol(group[0], one, rules)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    sets = [_each_b_value_once(group) for group in groups]
    return tuple(sorted(sets, key=lambda one: (-len(_b_values(one)), -max(_b_values(one)))))


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


def _matching_pair(
    t2_ranked: Sequence[Series], sets: Sequence[tuple[DiffusionSeries, ...]]
) -> tuple[Series | None, tuple[DiffusionSeries, ...]]:
    """Return the best T2 and fittable diffusion set in one Frame of Reference, else the best of each, to refuse."""
    for dwi in (one for one in sets if len(_b_values(one)) > 1):
        frames = frames_of_reference(one.series for one in dwi)
        for t2 in t2_ranked:
            if frames_of_reference([t2]) == frames:
                return t2, dwi
    return (t2_ranked[0] if t2_ranked else None), (sets[0] if sets else ())


def _final(
    judgement: Judgement,
    *,
    t2: Series | None,
    t2_ranked: Sequence[Series],
    dwi: Sequence[DiffusionSeries],
    rules: Rules,
) -> Judgement:
    """Return the judgement of a candidate after the choice: taken, or which one was preferred and why."""
    one, reason = judgement.series, judgement.reason
    if judgement.role == "t2" and t2 is not None and one is not t2:
        lead = _lead(t2, one, T2_PREFERENCES)
        return Judgement(one, "t2_unused", f"{reason}; series {t2.number} is preferred: {lead}")
    if one is t2 and len(t2_ranked) > 1:
        other = next(candidate for candidate in t2_ranked if candidate is not t2)
        lead = _lead(one, other, T2_PREFERENCES)
        return Judgement(one, "t2", f"{reason}; preferred to series {other.number}: {lead}")
    if judgement.role == "dwi" and all(one is not used.series for used in dwi):
        return Judgement(one, "dwi_unused", f"{reason}; {_why_not(one, dwi, rules)}")
    return judgement


def _why_not(loser: Series, dwi: Sequence[DiffusionSeries], rules: Rules) -> str:
    """Return why a diffusion series gives way: to one of its own protocol, or to another protocol."""
    for used in dwi:
        if _same_protocol(used.series, loser, rules) and set(trace_b_values(loser)) & set(used.b_values_s_per_mm2):
            lead = _lead(used.series, loser, DIFFUSION_PREFERENCES)
            return f"series {used.series.number} is preferred: {lead}"
    numbers = ", ".join(str(used.series.number) for used in dwi)
    return (
        f"the protocol of series {numbers} is preferred: the Frame of Reference of T2, more or higher b-values, later"
    )


def _lead(winner: Series, loser: Series, preferences: Sequence[Preference]) -> str:
    """Return the first reason for which the winner leads."""
    if frames_of_reference([winner]) != frames_of_reference([loser]):
        return "in the Frame of Reference of the diffusion images"
    return next((one.reason for one in preferences if one.key(winner) != one.key(loser)), "they are the same")


def _ranked(candidates: Iterable[Series], preferences: Sequence[Preference]) -> list[Series]:
    """Return the candidates, most preferred first."""
    return sorted(candidates, key=lambda one: tuple(rule.key(one) for rule in preferences), reverse=True)


def _same_protocol(first: Series, second: Series, rules: Rules) -> bool:
    """Return whether the images of two series may enter one fit."""
    one, other = first.instances[0], second.instances[0]
    corners = zip(in_plane_mm(one), in_plane_mm(other), strict=True)
    return (
        frames_of_reference([first]) == frames_of_reference([second])
        and same_plane(one, other)
        and all(abs(a - b) < IN_PLANE_SHIFT_MM for a, b in corners)
        and _near(one.echo_time_ms, other.echo_time_ms, tolerance=rules.timing_tolerance)
        and _near(one.repetition_time_ms, other.repetition_time_ms, tolerance=rules.timing_tolerance)
    )


def _near(first: float | None, second: float | None, *, tolerance: float) -> bool:
    """Return whether two times agree within the relative tolerance; an absent one agrees with everything.

    S_0 depends on echo and repetition time, so one fit needs the same of both.
    """
    return first is None or second is None or abs(first - second) <= tolerance * max(first, second)


def _b_values(dwi: Sequence[DiffusionSeries]) -> list[float]:
    """Return the b-values of a diffusion set."""
    return [value for one in dwi for value in one.b_values_s_per_mm2]


def _pixel_area_mm2(series: Series) -> float:
    """Return the area of a pixel, rounded so that the printing of decimals does not decide."""
    rows_mm, columns_mm = series.instances[0].pixel_spacing_mm or (0.0, 0.0)
    return round(rows_mm * columns_mm, 2)
