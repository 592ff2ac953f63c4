"""Which T2 and which diffusion images of a study are used, and why: every choice has a rule and a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prostate_alm.imaging.dicom import Instance, Series, Skipped, StudyRefused, read_folder
from prostate_alm.imaging.geometry import height_mm, in_plane_mm, same_plane, stack_images
from prostate_alm.imaging.rules import OTHER_BODY_PARTS, Judgement, judge, trace_b_values, trace_images

TIMING_TOLERANCE = 0.01  # relative; S_0 depends on echo and repetition time, so one fit needs the same of both
IN_PLANE_SHIFT_MM = 1.0  # series of one protocol are planned together and start at the same corner


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a study is not used: a stable code and one line."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class DiffusionSeries:
    """A series and those of its b-values that are used, ascending."""

    series: Series
    b_values_s_per_mm2: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The series taken from a study, and what was thought of each."""

    t2: Series | None
    dwi: tuple[DiffusionSeries, ...]
    refused: Refusal | None
    series: tuple[Judgement, ...]
    skipped: tuple[Skipped, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the selection as plain JSON values; docs/dicom.md describes the keys."""
        return {
            "t2": None if self.t2 is None else _named(self.t2),
            "dwi": [{**_named(one.series), "b_values": list(one.b_values_s_per_mm2)} for one in self.dwi],
            "refused": None
            if self.refused is None
            else {"code": self.refused.code, "reason": self.refused.reason},
            "series": [_row(judgement) for judgement in self.series],
        }

    def to_text(self) -> str:
        """Return the selection as a table for a terminal."""
        rows = [("series", "description", "role", "b-values", "reason")]
        for row in map(_row, self.series):
            values = " ".join(f"{value:g}" for value in row["b_values"])
            rows.append((str(row["series_number"]), row["description"], row["role"], values, row["reason"]))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [_aligned(row, widths) for row in rows]
        if self.skipped:
            lines.append(f"{len(self.skipped)} files skipped: {_reasons(self.skipped)}")
        lines.append("usable" if self.refused is None else f"refused ({self.refused.code}): {self.refused.reason}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Preference:
    """One criterion among candidates: the greatest key wins, and the reason a loser is told."""

    key: Callable[[Series], Any]
    reason: str


T2_PREFERENCES = (
    Preference(lambda one: "ORIGINAL" in one.instances[0].image_type, "is acquired, this one is derived"),
    Preference(lambda one: -_pixel_area_mm2(one), "has the finer pixels"),
    Preference(lambda one: len({round(height_mm(i), 1) for i in one.instances}), "has more slices"),
    Preference(lambda one: one.acquired_at, "was acquired later: a repeat replaces what it repeats"),
    Preference(lambda one: one.number, "has the higher series number"),
    Preference(lambda one: one.uid, "comes last by its identifier"),
)
DIFFUSION_PREFERENCES = (
    Preference(lambda one: len(trace_b_values(one)), "has more b-values"),
    Preference(lambda one: one.acquired_at, "was acquired later: a repeat replaces what it repeats"),
    Preference(lambda one: one.number, "has the higher series number"),
    Preference(lambda one: one.uid, "comes last by its identifier"),
)


def explain_study(directory: Path) -> Selection:
    """Return what would be used of the study in a folder, and why; a bad study is carried as `refused`.

    Args:
        directory: a folder that holds the files of one study, under any names.

    Raises:
        FileNotFoundError, NotADirectoryError: the path is no folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     print(explain_study(Path(empty)).refused.code)
        no_dicom
    """
    folder = read_folder(directory)
    return select_series(folder.series, skipped=folder.skipped)


def select_series(series: Sequence[Series], *, skipped: Sequence[Skipped] = ()) -> Selection:
    """Return the axial T2 and the diffusion images to use, with the role of each series and the reason.

    Args:
        series: the series of one study, in any order.
        skipped: files that were no images; a broken DICOM file among them refuses the study.

    Returns:
        The selection. It never raises for a bad study: `refused` says what is wrong with it.

    Example:
        >>> select_series(()).refused.code
        'no_dicom'
    """
    ordered = sorted(series, key=lambda one: (one.number, one.uid))
    judged = tuple(judge(one) for one in ordered)
    t2_candidates = [one.series for one in judged if one.role == "t2"]
    dwi_candidates = [one.series for one in judged if one.role == "dwi"]
    t2, dwi = _chosen_pair(t2_candidates, diffusion_sets(dwi_candidates))
    final = tuple(_final(judgement, t2=t2, dwi=dwi) for judgement in judged)
    selection = Selection(t2, dwi, None, final, tuple(skipped))
    return replace(selection, refused=_first_refusal(selection))


def diffusion_sets(candidates: Iterable[Series]) -> tuple[tuple[DiffusionSeries, ...], ...]:
    """Return diffusion series grouped by protocol, best group first, each b-value taken from one series only.

    A protocol may be one series of several b-values or one series per b-value; it shares the Frame of Reference,
    the grid, echo and repetition time. Within a group the preferred series gives its b-values first.
    """
    groups: list[list[Series]] = []
    for one in _ranked(candidates, DIFFUSION_PREFERENCES):
        group = next((group for group in groups if _same_protocol(group[0], one)), None)
        if group is None:
            groups.append([one])
        else:
            group.append(one)
    sets = [_without_repeats(group) for group in groups]
    return tuple(sorted(sets, key=lambda one: (-len(_b_values(one)), -max(_b_values(one)))))


def _without_repeats(group: Sequence[Series]) -> tuple[DiffusionSeries, ...]:
    """Return the series of a protocol with the b-values that no better series of it has given."""
    taken: set[float] = set()
    used = []
    for one in group:
        fresh = tuple(value for value in trace_b_values(one) if value not in taken)
        taken.update(fresh)
        if fresh:
            used.append(DiffusionSeries(one, fresh))
    return tuple(sorted(used, key=lambda one: (one.b_values_s_per_mm2, one.series.number, one.series.uid)))


def _chosen_pair(
    t2_candidates: Sequence[Series], sets: Sequence[tuple[DiffusionSeries, ...]]
) -> tuple[Series | None, tuple[DiffusionSeries, ...]]:
    """Return the best T2 and diffusion set in one Frame of Reference, else the best of each for the refusal."""
    ranked = _ranked(t2_candidates, T2_PREFERENCES)
    for dwi in sets:
        frames = _frames(one.series for one in dwi)
        for t2 in ranked:
            if _frames([t2]) == frames:
                return t2, dwi
    return (ranked[0] if ranked else None), (sets[0] if sets else ())


def _final(judgement: Judgement, *, t2: Series | None, dwi: Sequence[DiffusionSeries]) -> Judgement:
    """Return the judgement of a candidate after the choice: taken, or why another one was."""
    one = judgement.series
    if judgement.role == "t2" and one is not t2 and t2 is not None:
        return Judgement(one, "t2_unused", f"{judgement.reason}; {_why_not(one, t2)}")
    if judgement.role == "dwi" and all(one is not used.series for used in dwi):
        return Judgement(one, "dwi_unused", f"{judgement.reason}; its b-values are taken from {_numbers(dwi)}")
    return judgement


def _why_not(loser: Series, winner: Series) -> str:
    """Return the first preference by which the winner leads."""
    if _frames([loser]) != _frames([winner]):
        return f"series {winner.number} is in the Frame of Reference of the diffusion images"
    for preference in T2_PREFERENCES:
        if preference.key(winner) != preference.key(loser):
            return f"series {winner.number} {preference.reason}"
    return f"series {winner.number} is the same"


def _ranked(candidates: Iterable[Series], preferences: Sequence[Preference]) -> list[Series]:
    """Return the candidates, most preferred first."""
    return sorted(candidates, key=lambda one: tuple(rule.key(one) for rule in preferences), reverse=True)


def _same_protocol(first: Series, second: Series) -> bool:
    """Return whether the images of two series may enter one fit."""
    one, other = first.instances[0], second.instances[0]
    return (
        _frames([first]) == _frames([second])
        and same_plane(one, other)
        and _same_corner(one, other)
        and _near(one.echo_time_ms, other.echo_time_ms)
        and _near(one.repetition_time_ms, other.repetition_time_ms)
    )


def _same_corner(first: Instance, second: Instance) -> bool:
    """Return whether two parallel images start at the same point of their plane."""
    return all(abs(a - b) < IN_PLANE_SHIFT_MM for a, b in zip(in_plane_mm(first), in_plane_mm(second), strict=True))


def _near(first: float | None, second: float | None) -> bool:
    """Return whether two times agree within the tolerance; an absent one agrees with everything."""
    return first is None or second is None or abs(first - second) <= TIMING_TOLERANCE * max(first, second)


def _no_dicom(selection: Selection) -> Refusal | None:
    if selection.series:
        return None
    return Refusal("no_dicom", f"study must hold DICOM images, got {_held(selection)}. Name the folder of a study.")


def _several_patients(selection: Selection) -> Refusal | None:
    count = len({one.series.patient_key for one in selection.series})
    if count == 1:
        return None
    return Refusal("several_patients", f"a study must be of one patient, got {count}. Give each its own folder.")


def _several_studies(selection: Selection) -> Refusal | None:
    count = len({one.series.study_uid for one in selection.series})
    if count == 1:
        return None
    return Refusal("several_studies", f"a folder must hold one study, got {count}. Give each its own folder.")


def _not_mr(selection: Selection) -> Refusal | None:
    found = sorted({one.series.modality for one in selection.series})
    if "MR" in found:
        return None
    return Refusal("not_mr", f"modality must be MR, got {', '.join(found)}. Send the MR study.")


def _broken_header(selection: Selection) -> Refusal | None:
    count = sum(one.is_broken_dicom for one in selection.skipped)
    if not count:
        return None
    return Refusal(
        "truncated", f"every DICOM file must be whole, got {count} with an unreadable header. Send the study again."
    )


def _no_t2(selection: Selection) -> Refusal | None:
    if selection.t2 is not None:
        return None
    return Refusal("no_t2", f"study must hold an axial T2 series, got {_roles(selection)}. Send the T2 series.")


def _no_diffusion(selection: Selection) -> Refusal | None:
    if selection.dwi:
        return None
    return Refusal(
        "no_diffusion",
        f"study must hold axial diffusion trace images with b-values, got {_roles(selection)}. Send the diffusion series.",
    )


def _one_b_value(selection: Selection) -> Refusal | None:
    values = _b_values(selection.dwi)
    if len(values) > 1:
        return None
    return Refusal(
        "one_b_value",
        f"diffusion must have two b-values or more, got only b {values[0]:g} in {_numbers(selection.dwi)}. "
        "Send all b-values of the protocol.",
    )


def _other_body_part(selection: Selection) -> Refusal | None:
    for one in _used(selection):
        if one.body_part in OTHER_BODY_PARTS:
            return Refusal(
                "other_body_part",
                f"body part must be the prostate or pelvis, got {one.body_part} in series {one.number}. "
                "Send a prostate study.",
            )
    return None


def _several_frames(selection: Selection) -> Refusal | None:
    count = len(_frames(_used(selection)))
    if count == 1:
        return None
    return Refusal(
        "several_frames_of_reference",
        f"T2 and diffusion must share one Frame of Reference, got {count} in series "
        f"{', '.join(str(one.number) for one in _used(selection))}. Register them, or send the repeat that matches.",
    )


def _truncated(selection: Selection) -> Refusal | None:
    for one in _used(selection):
        broken = [image.instance_number for image in one.instances if not image.pixels.is_complete]
        if broken:
            return Refusal(
                "truncated",
                f"pixel data must be whole, got {len(broken)} cut short (image {broken[0]}) in series {one.number}. "
                "Send the series again.",
            )
    return None


def _broken_stack(selection: Selection) -> Refusal | None:
    try:
        for place, images in stacks(selection):
            stack_images(images, place=place)
    except StudyRefused as refused:
        return Refusal(refused.code, refused.reason)
    return None


def _uneven_b_values(selection: Selection) -> Refusal | None:
    counts = [(place, len(images)) for place, images in stacks(selection)[1:]]
    most = max(count for _, count in counts)
    for place, count in counts:
        if count != most:
            return Refusal(
                "missing_slice", f"every b-value must have {most} slices, got {count} in {place}. Send the series again."
            )
    return None


CHECKS: tuple[Callable[[Selection], Refusal | None], ...] = (
    _no_dicom,
    _several_patients,
    _several_studies,
    _not_mr,
    _broken_header,
    _no_t2,
    _no_diffusion,
    _other_body_part,
    _one_b_value,
    _several_frames,
    _truncated,
    _broken_stack,
    _uneven_b_values,
)


def stacks(selection: Selection) -> list[tuple[str, tuple[Instance, ...]]]:
    """Return the images of each volume of a selection with its place in words: T2, then each b-value ascending."""
    if selection.t2 is None:
        return []
    found = [(f"series {selection.t2.number}", selection.t2.instances)]
    pairs = sorted(
        ((value, one.series) for one in selection.dwi for value in one.b_values_s_per_mm2), key=lambda pair: pair[0]
    )
    for value, series in pairs:
        found.append((f"series {series.number}, b {value:g}", trace_images(series, b_value_s_per_mm2=value)))
    return found


def _first_refusal(selection: Selection) -> Refusal | None:
    """Return the first check that refuses."""
    return next((refusal for check in CHECKS if (refusal := check(selection)) is not None), None)


def _used(selection: Selection) -> list[Series]:
    """Return the series taken."""
    first = [selection.t2] if selection.t2 is not None else []
    return first + [one.series for one in selection.dwi]


def _frames(series: Iterable[Series]) -> set[str]:
    """Return the Frames of Reference of some series."""
    return {image.frame_of_reference_uid for one in series for image in one.instances}


def _b_values(dwi: Sequence[DiffusionSeries]) -> list[float]:
    """Return the b-values of a diffusion set, ascending."""
    return sorted(value for one in dwi for value in one.b_values_s_per_mm2)


def _pixel_area_mm2(series: Series) -> float:
    """Return the area of a pixel, rounded so that the printing of decimals does not decide."""
    spacing = series.instances[0].pixel_spacing_mm or (0.0, 0.0)
    return round(spacing[0] * spacing[1], 2)


def _named(series: Series) -> dict[str, Any]:
    """Return how a series is named in JSON."""
    return {"series_number": series.number, "series_uid": series.uid}


def _row(judgement: Judgement) -> dict[str, Any]:
    """Return one line of the explanation."""
    return {
        "series_number": judgement.series.number,
        "description": judgement.series.description,
        "role": judgement.role,
        "b_values": list(judgement.series.b_values_s_per_mm2),
        "reason": judgement.reason,
    }


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Return one line of the table."""
    cells = [text.ljust(width) for text, width in zip(row, widths, strict=False)]
    return "  ".join([*cells, row[-1]]).rstrip()


def _numbers(dwi: Sequence[DiffusionSeries]) -> str:
    """Name the diffusion series by number."""
    return "series " + ", ".join(str(one.series.number) for one in dwi)


def _roles(selection: Selection) -> str:
    """Return the roles found, each once."""
    return ", ".join(sorted({one.role for one in selection.series}))


def _held(selection: Selection) -> str:
    """Return what a folder without images holds."""
    count = len(selection.skipped)
    return f"{count} files that are not ({_reasons(selection.skipped)})" if count else "an empty folder"


def _reasons(skipped: Sequence[Skipped]) -> str:
    """Return why files were skipped, each reason once; never their names, which may be a patient's."""
    return "; ".join(sorted({one.reason for one in skipped}))
