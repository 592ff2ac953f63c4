"""What every adapter returns: the labelled studies of a collection, and the rows that cannot be used."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from prostate_alm.data.convert import StudySource
from prostate_alm.data.labels import Label
from prostate_alm.data.manifest import RefusedStudy


@dataclass(frozen=True, slots=True)
class Case:
    """One study: its label, where its volumes come from, and the place of its label, such as `marksheet.csv line 3`."""

    label: Label
    source: StudySource
    place: str


@dataclass(frozen=True, slots=True)
class Collection:
    """The studies of a collection as its files describe them.

    `folder` is where it lies, `tables` are the files that the labels come from; `unlabelled` are the ids of studies
    with images and no label, which are left out. `source`, `label_definition` and `licence` are what the manifest says
    unless told otherwise.
    """

    folder: Path
    cases: tuple[Case, ...]
    refused: tuple[RefusedStudy, ...]
    unlabelled: tuple[str, ...]
    tables: tuple[Path, ...]
    source: str
    label_definition: str
    licence: str


def screened(cases: Iterable[Case]) -> tuple[list[Case], list[RefusedStudy]]:
    """Return the cases that do not contradict one another, by id, and a refusal for each of the others.

    Refused are all studies of a patient in two splits (`two_splits`), all rows of an id that occurs more than once
    (`duplicate_id`, or `contradictory_labels` where the rows disagree), and studies without a split among others with
    one (`no_split`).
    """
    kept, refused = _without(cases, lambda one: one.label.patient, _in_two_splits)
    kept, more = _without(kept, lambda one: one.label.id, _repeated)
    refused += more
    if any(one.label.split for one in kept):
        refused += [
            _refusal(one, "no_split", "a study must have a split where others have")
            for one in kept
            if not one.label.split
        ]
        kept = [one for one in kept if one.label.split]
    return sorted(kept, key=lambda one: one.label.id), refused


def _without(
    cases: Iterable[Case], key: Callable[[Case], str], fault: Callable[[Sequence[Case]], tuple[str, str] | None]
) -> tuple[list[Case], list[RefusedStudy]]:
    """Return the cases of groups without a fault, and one refusal per id of the others."""
    kept: list[Case] = []
    refused: list[RefusedStudy] = []
    for _, members in groupby(sorted(cases, key=key), key=key):
        group = list(members)
        found = fault(group)
        if found is None:
            kept += group
            continue
        places = " and ".join(dict.fromkeys(one.place for one in group))
        for name in dict.fromkeys(one.label.id for one in group):
            code, rule = found
            refused.append(RefusedStudy(id=name, code=code, reason=f"{rule}, got {places}. Correct the rows."))
    return kept, refused


def _repeated(group: Sequence[Case]) -> tuple[str, str] | None:
    if len(group) == 1:
        return None
    if len({one.label.label for one in group}) > 1:
        return "contradictory_labels", "a study must have one label, not 0 and 1"
    return "duplicate_id", "a study must have one row"


def _in_two_splits(group: Sequence[Case]) -> tuple[str, str] | None:
    splits = sorted({one.label.split for one in group if one.label.split})
    return ("two_splits", "studies of one patient must lie in one split") if len(splits) > 1 else None


def _refusal(case: Case, code: str, rule: str) -> RefusedStudy:
    return RefusedStudy(id=case.label.id, code=code, reason=f"{rule}, got none in {case.place}. Correct the row.")
