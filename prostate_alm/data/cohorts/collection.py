"""What every adapter reads and returns: tables as published, the labelled studies, the rows that cannot be used."""

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from prostate_alm.data.build import BuildResult, CohortPlan, convert_cohort
from prostate_alm.data.convert import StudySource
from prostate_alm.data.labels import Label
from prostate_alm.data.manifest import ManifestError, RefusedStudy
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import sha256_of_file

_IDENTIFIER = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]*")

Item = TypeVar("Item")
Value = TypeVar("Value")


class RowRefused(ValueError):
    """A row that cannot be used: a stable `code`, and one line that names file and line."""

    def __init__(self, code: str, reason: str, *, study: str) -> None:
        super().__init__(reason)
        self.code = code
        self.study = study


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: values by column, stripped, and where it stands."""

    values: Mapping[str, str]
    place: str

    def text(self, column: str) -> str:
        """Return a value, '' where the row ends before its column."""
        return (self.values.get(column) or "").strip()

    def refuse(self, code: str, rule: str, found: str, *, study: str = "") -> RowRefused:
        """Return the refusal of this row: `<rule>, got <found> in <file> line <n>.`"""
        return RowRefused(code, f"{rule}, got {found} in {self.place}. Correct the row.", study=study or self.place)

    def identifier(self, column: str) -> str:
        """Return an id that may name a folder.

        Raises:
            RowRefused: it is empty or holds other characters than letters, digits, `-` and `_`.
        """
        value = self.text(column)
        if not _IDENTIFIER.fullmatch(value):
            raise self.refuse("bad_id", f"{column} must be letters, digits, - and _", _shown(value))
        return value

    def one_of(self, column: str, meanings: Mapping[str, Value], *, study: str) -> Value:
        """Return what a value means; upper and lower case are the same.

        Raises:
            RowRefused: it is none of the known ones.
        """
        value = self.text(column)
        if value.upper() not in meanings:
            raise self.refuse("bad_label", f"{column} must be one of {list(meanings)}", _shown(value), study=study)
        return meanings[value.upper()]


def read_table(path: Path, columns: Sequence[str], *, delimiter: str = ",") -> list[Row]:
    """Read a table in UTF-8 that has at least some columns.

    Args:
        path: the file.
        columns: those that must be there; more do no harm.
        delimiter: between values.

    Raises:
        ManifestError: the file cannot be read, a column is missing or repeated, or there is no row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter)
            _check_columns(list(reader.fieldnames or ()), columns, path)
            rows = [Row(row, f"{path.name} line {reader.line_num}") for row in reader]
    except OSError as error:
        raise ManifestError(
            f"labels must be a readable file, got {path} ({error.strerror}). Check the path."
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ManifestError(f"labels must be a table in UTF-8, got {path}: {error}. Fetch it again.") from error
    if not rows:
        raise ManifestError(f"labels must have at least one row, got none in {path}. Fetch it again.")
    return rows


def _check_columns(found: Sequence[str], wanted: Sequence[str], path: Path) -> None:
    missing = [name for name in wanted if name not in found]
    repeated = [name for name in wanted if found.count(name) > 1]
    if missing or repeated:
        what = f"no {missing[0]!r}" if missing else f"{repeated[0]!r} twice"
        raise ManifestError(
            f"labels must have the columns {list(wanted)} once, got {what} in {path}. "
            f"This is not the published table: it has {list(found)}"
        )


def find_table(source: Path, name: str) -> Path:
    """Return the table of that name in a folder or up to two levels below.

    Raises:
        ManifestError: there is none, or several.
    """
    if not source.is_dir():
        raise ManifestError(f"SOURCE must be the folder of a collection, got {source}. Check the path.")
    found = sorted(path for pattern in (name, f"*/{name}", f"*/*/{name}") for path in source.glob(pattern))
    if len(found) != 1:
        raise ManifestError(
            f"there must be one {name} in {source} or up to two levels below, got {len(found)}. Give it with --labels"
        )
    return found[0]


def usable(items: Iterable[Item], read: Callable[[Item], Value]) -> tuple[list[Value], list[RefusedStudy]]:
    """Return what `read` makes of rows or groups of rows, and what it refuses; one refusal per study at most."""
    values: list[Value] = []
    refused: dict[str, RefusedStudy] = {}
    for item in items:
        try:
            values.append(read(item))
        except RowRefused as error:
            refused.setdefault(error.study, RefusedStudy(id=error.study, code=error.code, reason=str(error)))
    return values, list(refused.values())


def study_folders(source: Path, pattern: str) -> dict[str, Path]:
    """Return the folders of that name in a folder or one level below, by name.

    Raises:
        ManifestError: there is none, or two have one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(path for glob in (pattern, f"*/{pattern}") for path in source.glob(glob) if path.is_dir()):
        if path.name in found:
            raise ManifestError(
                f"each study must have one folder, got {path.name} twice in {source}. Keep one of the copies."
            )
        found[path.name] = path
    if not found:
        raise ManifestError(
            f"SOURCE must hold folders named {pattern}, or a folder with them, got none in {source}. Check the path."
        )
    return found


def _shown(value: str) -> str:
    return repr(value[:40]) if value else "nothing"


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


def import_collection(
    collection: Collection, plan: CohortPlan, *, workers: int = 1, progress: Progress = silent
) -> BuildResult:
    """Convert the studies of a collection and write its manifest; the good ones are kept, the rest is listed.

    Args:
        collection: what an adapter found.
        plan: the manifest to write; its empty words are filled with those of the collection.
        workers: largest number of processes, >= 1.
        progress: called with (studies done, studies in all) after each study.

    Returns:
        The manifest, whose `refused` names every row and study that was left out, and why.

    Raises:
        ManifestError, SplitError, OSError: see `build.convert_cohort`.
    """
    plan.check(workers=workers)
    if plan.volumes_dir.resolve() == collection.folder.resolve():
        raise ManifestError(
            f"volumes must not go among the files of the collection, got {plan.volumes_dir}, which is for those. "
            "Choose another output."
        )
    cases, refused = good_cases(collection)
    if not cases:
        first = f" First reason: {refused[0].reason}" if refused else ""
        raise ManifestError(
            f"a collection must hold a usable study, got none among {len(refused)} with a label. "
            f"Check SOURCE and its labels.{first}"
        )
    manifest = convert_cohort(
        [(case.label, case.source) for case in cases],
        replace(
            plan,
            source=plan.source or collection.source,
            label_definition=plan.label_definition or collection.label_definition,
            licence=plan.licence or collection.licence,
        ),
        labels_sha256=_tables_sha256(collection.tables),
        refused=refused,
        workers=workers,
        progress=progress,
    )
    return BuildResult(manifest, collection.unlabelled)


def good_cases(collection: Collection) -> tuple[list[Case], list[RefusedStudy]]:
    """Return the cases that nothing speaks against, by id, and one refusal for each other id."""
    bad = {one.id: one for one in collection.refused}
    cases, contradictory = screened(collection.cases)
    bad = {one.id: one for one in contradictory} | bad
    return [case for case in cases if case.label.id not in bad], [bad[name] for name in sorted(bad)]


def _tables_sha256(tables: Sequence[Path]) -> str:
    """Return the checksum of a table, or of the checksums of several in their order."""
    digests = [sha256_of_file(path) for path in tables]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()
