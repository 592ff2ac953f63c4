"""Which T2 and which diffusion images of a study are used: every choice is a preference with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prostate_alm.imaging.checks import first_refusal, frames_of_reference
from prostate_alm.imaging.dicom import Series, Skipped
from prostate_alm.imaging.doubts import doubts_of
from prostate_alm.imaging.folder import read_folder
from prostate_alm.imaging.kinds import IMAGED
from prostate_alm.imaging.parts import parts_of_study
from prostate_alm.imaging.protocol import DiffusionSet, difference, is_enough, is_secondary, sets_of
from prostate_alm.imaging.rulebook import Rules, default_rules
from prostate_alm.imaging.rules import Judgement, coverage_mm, judge, trace_b_values
from prostate_alm.imaging.selection import DiffusionSeries, Doubt, Refusal, Selection

COVERAGE_STEP_MM = 10.0  # stacks that differ by less cover the gland alike
NO_LOSS = frozenset({"no_overlap", "several_frames_of_reference", "other_body_part"})
"""Refusals of images that were not meant for this: that they are passed over is no doubt."""


@dataclass(frozen=True, slots=True)
class Preference:
    """One criterion among candidates: the greatest key wins, and `reason` says what the winner has."""

    key: Callable[[Series], Any]
    reason: str


_COVERS = Preference(lambda one: _gland_steps(one), "covers more of the gland")
_LATER = (
    Preference(lambda one: one.acquired_at, "acquired later: a repeat replaces what it repeats"),
    Preference(lambda one: one.number, "the higher series number"),
    Preference(lambda one: one.uid, "the last identifier"),
)
T2_PREFERENCES = (
    Preference(lambda one: "ORIGINAL" in one.instances[0].image_type, "acquired, not derived"),
    Preference(lambda one: IMAGED.get(one.instances[0].contrast, -1), "without fat saturation"),
    _COVERS,
    Preference(lambda one: -_pixel_area_mm2(one), "finer pixels"),
    Preference(lambda one: round(coverage_mm(one)), "longer coverage"),
    *_LATER,
)
DIFFUSION_PREFERENCES = (
    Preference(lambda one: not is_secondary(one), "acquired, not derived"),
    _COVERS,
    Preference(lambda one: len(trace_b_values(one)), "more b-values"),
    Preference(lambda one: max(trace_b_values(one)), "a higher b-value"),
    *_LATER,
)


@dataclass(frozen=True, slots=True)
class _Choice:
    """A T2 series and a diffusion set, and why the study is refused with them, if it is."""

    t2: Series | None
    dwi: DiffusionSet
    refused: Refusal | None


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
    ordered = sorted(series, key=lambda one: (one.number, one.uid))
    judged = tuple(judge(one, rules=rules) for one in parts_of_study(ordered, rules))
    t2_ranked = _ranked((one.series for one in judged if one.role == "t2"), T2_PREFERENCES)
    sets = diffusion_sets((one.series for one in judged if one.role == "dwi"), rules=rules)
    draft = Selection(None, (), None, judged, tuple(skipped))
    chosen, passed_over = _chosen(draft, t2_ranked, sets, rules)
    final = [_final(one, chosen, t2_ranked, passed_over, rules) for one in judged]
    selection = Selection(chosen.t2, chosen.dwi.used, chosen.refused, _rows(ordered, final), tuple(skipped))
    return replace(selection, doubts=(*_doubts_of_choice(chosen, passed_over), *doubts_of(selection)))


def diffusion_sets(candidates: Iterable[Series], *, rules: Rules | None = None) -> tuple[DiffusionSet, ...]:
    """Return diffusion series grouped by protocol, best group first, each b-value taken from one series only.

    A protocol is one series of several b-values or one series per b-value; it shares the Frame of Reference, the
    plane, echo and repetition time, and the direction of phase encoding. Within a group the preferred series gives its
    b-values first; the best group has enough b-values, is acquired, covers the gland, has the most b-values, then the
    highest, then the preferred series.
    """
    rules = rules or default_rules()
    groups: list[list[Series]] = []
    for one in _ranked(candidates, DIFFUSION_PREFERENCES):
        group = next((group for group in groups if difference(group[0], one, rules) is None), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    sets = [one for group in groups for one in sets_of(group, rules)]
    return tuple(sorted(sets, key=lambda one: _order_of_set(one, rules), reverse=True))


def _order_of_set(one: DiffusionSet, rules: Rules) -> tuple[Any, ...]:
    """Return the key by which a diffusion set is preferred, the greatest first."""
    values, first = one.b_values_s_per_mm2, one.used[0].series
    return (is_enough(values, rules), not is_secondary(first), _gland_steps(first), len(values), max(values))


def _chosen(
    draft: Selection, t2_ranked: Sequence[Series], sets: Sequence[DiffusionSet], rules: Rules
) -> tuple[_Choice, list[_Choice]]:
    """Return the first choice that is not refused, else the first one, and the better ones that would be refused."""
    passed_over: list[_Choice] = []
    for t2, dwi in _pairs(t2_ranked, sets, rules):
        refused = first_refusal(replace(draft, t2=t2, dwi=dwi.used), rules)
        choice = _Choice(t2, dwi, refused)
        if refused is None:
            return choice, passed_over
        passed_over.append(choice)
    return passed_over[0], []


def _pairs(
    t2_ranked: Sequence[Series], sets: Sequence[DiffusionSet], rules: Rules
) -> Iterator[tuple[Series | None, DiffusionSet]]:
    """Yield each diffusion set that can be fitted with each T2 in its Frame of Reference, then the best of each."""
    for dwi in (one for one in sets if is_enough(one.b_values_s_per_mm2, rules)):
        frames = frames_of_reference(one.series for one in dwi.used)
        yield from ((t2, dwi) for t2 in t2_ranked if frames_of_reference([t2]) == frames)
    yield (t2_ranked[0] if t2_ranked else None), (sets[0] if sets else DiffusionSet(()))


def _doubts_of_choice(chosen: _Choice, passed_over: Sequence[_Choice]) -> Iterator[Doubt]:
    """Yield a doubt for each b-value that was left out, and for images that were lost on the way."""
    if chosen.refused is not None:
        return
    for reason in chosen.dwi.left_out:
        yield Doubt("b_values_left_out", f"{reason}.")
    lost = next((one for one in passed_over if one.refused and one.refused.code not in NO_LOSS), None)
    if lost is not None and lost.refused is not None:
        yield Doubt("preferred_images_unusable", f"other images would be preferred, but {lost.refused.reason}")


def _final(
    judgement: Judgement,
    chosen: _Choice,
    t2_ranked: Sequence[Series],
    passed_over: Sequence[_Choice],
    rules: Rules,
) -> Judgement:
    """Return the judgement of a candidate after the choice: taken, or which one was preferred and why."""
    one, reason, t2 = judgement.series, judgement.reason, chosen.t2
    if judgement.role == "t2" and t2 is not None and one is not t2:
        lead = _lead_of_t2(t2, one, chosen, passed_over)
        return Judgement(one, "t2_unused", f"{reason}; series {t2.number} is preferred: {lead}")
    if t2 is not None and one is t2 and len(t2_ranked) > 1:
        other = next(candidate for candidate in t2_ranked if candidate is not t2)
        lead = _lead_of_t2(one, other, chosen, passed_over)
        return Judgement(one, "t2", f"{reason}; preferred to series {other.number}: {lead}")
    if judgement.role == "dwi" and all(one is not used.series for used in chosen.dwi.used):
        return Judgement(one, "dwi_unused", f"{reason}; {_why_not(one, chosen.dwi.used, rules)}")
    return judgement


def _lead_of_t2(winner: Series, loser: Series, chosen: _Choice, passed_over: Sequence[_Choice]) -> str:
    """Return why one T2 series is taken and not another, which may be better by itself."""
    frames = frames_of_reference(one.series for one in chosen.dwi.used)
    if frames and frames_of_reference([loser]) != frames == frames_of_reference([winner]):
        return "in the Frame of Reference of the diffusion images"
    refused = next((one.refused for one in passed_over if one.t2 is loser and one.dwi is chosen.dwi), None)
    if refused is not None:
        return f"with the other the study would be refused ({refused.code})"
    return _lead(winner, loser, T2_PREFERENCES)


def _why_not(loser: Series, dwi: Sequence[DiffusionSeries], rules: Rules) -> str:
    """Return why a diffusion series gives way: to one of its own protocol, or to another protocol."""
    for used in dwi:
        if difference(used.series, loser, rules) is not None:
            continue
        if set(trace_b_values(loser)) & set(used.b_values_s_per_mm2):
            lead = _lead(used.series, loser, DIFFUSION_PREFERENCES)
            return f"series {used.series.number} is preferred: {lead}"
        return f"left out of the protocol of series {used.series.number}, whose images it does not fit"
    numbers = ", ".join(dict.fromkeys(str(used.series.number) for used in dwi))
    why = difference(dwi[0].series, loser, rules) if dwi else None
    return (
        f"the protocol of series {numbers} is preferred: the Frame of Reference of T2, more or higher b-values, later; "
        f"this one has {why}"
    )


def _lead(winner: Series, loser: Series, preferences: Sequence[Preference]) -> str:
    """Return the first reason for which the winner leads."""
    return next((one.reason for one in preferences if one.key(winner) != one.key(loser)), "they are the same")


def _ranked(candidates: Iterable[Series], preferences: Sequence[Preference]) -> list[Series]:
    """Return the candidates, most preferred first."""
    return sorted(candidates, key=lambda one: tuple(rule.key(one) for rule in preferences), reverse=True)


def _rows(series: Sequence[Series], parts: Sequence[Judgement]) -> tuple[Judgement, ...]:
    """Return one judgement for each series: that of its part that is used, else that of its first part."""
    by_object = {(one.pixels.path, one.pixels.frame): part for part in parts for one in part.series.instances}
    rows = []
    for one in series:
        found = [by_object.get((image.pixels.path, image.pixels.frame)) for image in one.instances]
        own = list({id(part): part for part in found if part is not None}.values())
        best = min(own, key=lambda part: _ROLE_ORDER.get(part.role, len(_ROLE_ORDER)))
        others = [part for part in own if part is not best]
        rows.append(Judgement(one, best.role, "; ".join((best.reason, *_asides(one, best, others)))))
    return tuple(rows)


_ROLE_ORDER = {"t2": 0, "dwi": 1, "t2_unused": 2, "dwi_unused": 3}


def _asides(series: Series, best: Judgement, others: Sequence[Judgement]) -> Iterator[str]:
    """Yield what the reason of a series must add: pieces elsewhere, objects left out, other images in it."""
    if best.series.uid != series.uid:
        yield f"one acquisition with series {best.series.number}"
    yield from (f"left out: {told.what}" for told in best.series.left_out)
    yield from (f"{len(part.series.instances)} other images: {part.role}, {part.reason}" for part in others)


def _gland_steps(series: Series) -> int:
    """Return how much of the gland's length a stack covers, in steps."""
    return int(min(coverage_mm(series), default_rules().gland_length_mm) // COVERAGE_STEP_MM)


def _pixel_area_mm2(series: Series) -> float:
    """Return the area of a pixel, rounded so that the printing of decimals does not decide."""
    rows_mm, columns_mm = series.instances[0].pixel_spacing_mm or (0.0, 0.0)
    return round(rows_mm * columns_mm, 2)
