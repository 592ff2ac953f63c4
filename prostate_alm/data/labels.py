"""The table of labels that a person writes for a cohort: one row a study."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prostate_alm.data.manifest import ManifestError, fault_of_findings, repeats
from prostate_alm.imaging.files import files_below
from prostate_alm.imaging.folder import identifiers_of

COLUMNS = ("id", "label")
OPTIONAL_COLUMNS = ("patient", "split", "finding")


@dataclass(frozen=True)
class Label:
    """A row of the table: study `id` (the name of its folder), `label` 0 or 1; patient, split and finding if given."""

    id: str
    label: int
    patient: str
    split: str | None
    finding: str | None = None


def read_labels(path: Path) -> list[Label]:
    """Read a CSV table with the columns `id`, `label` and optionally `patient`, `split` (train or test) and `finding`.

    Other columns are refused: a misspelt `patient` would put one person's studies in two splits without a word.

    Returns:
        The rows sorted by id. A study whose `patient` is empty or absent is its own patient.

    Raises:
        ManifestError: the file cannot be read, a column is missing or unknown, an id repeats, a value is out of range,
            all labels are the same, a patient lies in two splits, or a finding has two labels.
    """
    rows = [_label(row, place) for place, row in _rows(path)]
    repeated = repeats(row.id for row in rows)
    if repeated:
        raise ManifestError(
            f"ids of the labels must be unique, got {repeated[0]!r} more than once in {path}. Keep one row."
        )
    classes = {row.label for row in rows}
    if classes != {0, 1}:
        raise ManifestError(
            f"labels must hold both 0 and 1, got only {sorted(classes)} in the {len(rows)} rows of {path}. "
            "A classifier needs studies of both classes."
        )
    _check_splits(rows, path)
    if fault := fault_of_findings([(row.id, row.label, row.finding) for row in rows]):
        raise ManifestError(f"{fault} in {path}. Correct the column `finding` or `label`.")
    return sorted(rows, key=lambda row: row.id)


def _check_splits(rows: Sequence[Label], path: Path) -> None:
    if len({row.split is None for row in rows}) > 1:
        raise ManifestError(
            f"split must be filled for all rows or for none, got both in {path}. Fill or empty the column."
        )
    split_of: dict[str, str | None] = {}
    for row in rows:
        if split_of.setdefault(row.patient, row.split) != row.split:
            raise ManifestError(
                f"studies of one patient must lie in one split, got the study {row.id!r} in another in {path}. "
                "Correct the column `split` or `patient`."
            )


def _rows(path: Path) -> list[tuple[str, Mapping[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            _check_columns(list(reader.fieldnames or ()), path)
            return [(f"{path} line {reader.line_num}", row) for row in reader]
    except OSError as error:
        raise ManifestError(
            f"labels must be a readable CSV file, got {path} ({error.strerror}). Give it with --labels."
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise ManifestError(f"labels must be a CSV file in UTF-8, got {path}: {error}. Export it again.") from error


def _check_columns(columns: Sequence[str], path: Path) -> None:
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise ManifestError(
            f"labels must have the columns {list(COLUMNS)}, got {list(columns)} in {path}. "
            f"Add {missing} and separate columns by commas."
        )
    unknown = [name for name in columns if name not in (*COLUMNS, *OPTIONAL_COLUMNS)] + repeats(columns)
    if unknown:
        raise ManifestError(
            f"columns of the labels must be known and unique, got {unknown[0]!r} in {path}. "
            f"Rename or delete it. Available: {[*COLUMNS, *OPTIONAL_COLUMNS]}"
        )


def _label(row: Mapping[str, str], place: str) -> Label:
    if None in row:  # where csv puts the values beyond the last column
        raise ManifestError(f"a row must have one value per column, got more in {place}. Quote values with commas.")
    text = (row["label"] or "").strip()
    if text not in ("0", "1"):
        raise ManifestError(f"label must be 0 or 1, got {text!r} in {place}. Correct the row.")
    name = (row["id"] or "").strip()
    if not name or Path(name).name != name or name in (".", "..") or not name.isprintable():
        raise ManifestError(f"id must be the name of a study's folder, got {name!r} in {place}. Correct the row.")
    patient = (row.get("patient") or "").strip() or name
    finding = (row.get("finding") or "").strip() or None
    for column, word in (("id", name), ("patient", patient), ("finding", finding or name)):
        if word[0] in "=+-@" or not word.isprintable():  # spreadsheets run it
            raise ManifestError(f"{column} must not begin with = + - @, got {word!r} in {place}. Rename it.")
    split = (row.get("split") or "").strip() or None
    if split not in (None, "train", "test"):
        raise ManifestError(f"split must be train or test, got {split!r} in {place}. Correct the row.")
    return Label(id=name, label=int(text), patient=patient, split=split, finding=finding)


logger = logging.getLogger(__name__)


def joined_patients(labels: Sequence[Label], dicom_dir: Path) -> list[Label]:
    """Return the labels with one `patient` for all studies of one DICOM Patient ID.

    Studies of one person on both sides of a split make the result look better than it is. An empty Patient ID says
    nothing. One that all studies share is a placeholder of de-identification: then the table alone decides. The
    identifiers are compared in memory and are neither stored nor shown.

    Args:
        labels: the rows of the table.
        dicom_dir: folder with one sub-folder per id.

    Returns:
        The same rows in the same order; joined patients have the first of their names.
    """
    ids_of = _studies_of_patient_ids(labels, dicom_dir)
    if len(labels) > 1 and len(ids_of) == 1 and "" not in ids_of:
        logger.warning("all studies have one DICOM Patient ID: taken for a placeholder, the labels tell patients apart")
        return list(labels)
    name_of = {label.patient: label.patient for label in labels}
    for patient_id, studies in ids_of.items():
        names = {name_of[one.patient] for one in studies}
        if patient_id and len(names) > 1:
            shown = ", ".join(one.id for one in studies[:3])
            logger.warning("%d studies have one DICOM Patient ID and count as one patient: %s", len(studies), shown)
            name_of.update({patient: min(names) for patient, name in name_of.items() if name in names})
    return [replace(label, patient=name_of[label.patient]) for label in labels]


def _studies_of_patient_ids(labels: Sequence[Label], dicom_dir: Path) -> dict[str, list[Label]]:
    found: dict[str, list[Label]] = {}
    for label in labels:
        found.setdefault(_patient_id(dicom_dir / label.id), []).append(label)
    return found


def _patient_id(study_dir: Path) -> str:
    """Return the Patient ID of the first DICOM file that has the element, '' when none has."""
    for path in files_below(study_dir):
        found = identifiers_of(path)
        if found is not None and found.patient_id:
            return found.patient_id
    return ""
