"""Tables of labels as collections publish them: rows that know their file and line."""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prostate_alm.data.manifest import ManifestError, RefusedStudy

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
