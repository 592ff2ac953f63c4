"""Any BIDS dataset with T2 and diffusion of the prostate, and a column of labels.

Layout (BIDS 1.10): `participants.tsv` with participant_id, the column of labels and, optionally, `split` (train or
test); images in `sub-<label>/[ses-<label>/]`:

- `anat/*_T2w.nii.gz`: exactly one, since nothing in BIDS says which of several is the axial one.
- `dwi/*_dwi.nii.gz` with its `.bval`: one volume per b-value. Several volumes of one b-value above 0 are directions,
  which are refused as they are in DICOM (`dwi_directions`).
- or `dwi/*_ADC.nii.gz` with `dwi/*_trace.nii.gz` or a `*_dwi.nii.gz` of one volume: ADC and a high b-value. A dataset
  is read so when no session has a `*_dwi.nii.gz` of two b-values or more.

Where a subject has a `sub-<label>_sessions.tsv` with the column of labels, each session has its own label. Files that
apply through the inheritance principle (a `.bval` higher up) are not looked for: they are refused, not guessed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_alm.data.cohorts.collection import Case, Collection, Row, read_table, usable
from prostate_alm.data.cohorts.image_files import AdcStudy, DwiStudy
from prostate_alm.data.convert import StudySource
from prostate_alm.data.labels import Label
from prostate_alm.data.manifest import ManifestError
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2

PARTICIPANTS = "participants.tsv"
ACQUIRED_KEY, COMPUTED_KEY = "BValuesAcquired", "BValuesComputed"
"""Keys of our own in the JSON beside a `*_dwi.nii.gz`: what the scanner measured, and which volumes were computed."""

_SUBJECT, _SESSION = re.compile(r"sub-[0-9A-Za-z]+"), re.compile(r"ses-[0-9A-Za-z]+")
_SPLITS = {"TRAIN": "train", "TEST": "test"}
_ABSENT = ("", "n/a")


@dataclass(frozen=True, slots=True)
class _Session:
    """A folder with `anat` and `dwi`; the rows of its participant and of its label."""

    id: str
    folder: Path
    participant: Row
    labelled: Row


def read_bids(source: Path, *, label_column: str = "label", positive: Sequence[str] = ()) -> Collection:
    """Return the sessions of a BIDS dataset.

    Args:
        source: the dataset's folder.
        label_column: column of the labels in `participants.tsv` or in the subjects' `*_sessions.tsv`.
        positive: its values that mean class 1, all others 0; without any, the values are 0 and 1.

    Raises:
        ManifestError: it holds no subject, no usable table, or the column of labels nowhere.
    """
    folders = [path for path in sorted(source.glob("sub-*")) if path.is_dir()]
    if not folders:
        raise ManifestError(f"SOURCE must be a BIDS dataset, got no folder sub-* in {source}. Check the path.")
    table = source / PARTICIPANTS
    participants = read_table(table, ("participant_id",), delimiter="\t")
    found, refused = usable(participants, lambda row: _sessions(row, source, label_column))
    sessions = [one for group in found for one in group]
    if sessions and not any(label_column in one.labelled.values for one in sessions):
        raise ManifestError(
            f"label column must be one of {PARTICIPANTS} or *_sessions.tsv, got {label_column!r} in {source}. "
            f"Give it with --label-column. Available: {list(participants[0].values)}"
        )
    is_adc = not any(_has_two_b_values(one.folder) for one in sessions)
    cases, more = usable(sessions, lambda one: _case(one, label_column, positive, is_adc=is_adc))
    listed = {row.text("participant_id") for row in participants}
    about = _description(source)
    return Collection(
        folder=source,
        cases=tuple(cases),
        refused=(*refused, *more),
        unlabelled=tuple(path.name for path in folders if path.name not in listed),
        tables=(table, *(path for one in folders for path in one.glob("sub-*_sessions.tsv"))),
        source=f"BIDS dataset: {about.get('Name', 'no name')}",
        label_definition=f"1 = {label_column} is {' or '.join(positive) or 1}",
        licence=str(about.get("License", "")),
    )


def _sessions(row: Row, source: Path, column: str) -> list[_Session]:
    subject = row.text("participant_id")
    if not _SUBJECT.fullmatch(subject):
        raise row.refuse("bad_id", "participant_id must be sub- and letters or digits", repr(subject[:40]))
    folder = source / subject
    if not folder.is_dir():
        raise row.refuse("no_images", "participant_id must be a folder of SOURCE", subject, study=subject)
    table = folder / f"{subject}_sessions.tsv"
    if table.is_file():
        rows = read_table(table, ("session_id",), delimiter="\t")
        if column in rows[0].values:
            return [_session(row, one, folder) for one in rows]
    names = sorted(path.name for path in folder.glob("ses-*") if path.is_dir())
    return [_Session(f"{subject}_{name}", folder / name, row, row) for name in names] or [
        _Session(subject, folder, row, row)
    ]


def _session(participant: Row, row: Row, folder: Path) -> _Session:
    name = row.text("session_id")
    if not _SESSION.fullmatch(name):
        raise row.refuse(
            "bad_id",
            "session_id must be ses- and letters or digits",
            repr(name[:40]),
            study=participant.text("participant_id"),
        )
    return _Session(f"{folder.name}_{name}", folder / name, participant, row)


def _case(session: _Session, column: str, positive: Sequence[str], *, is_adc: bool) -> Case:
    row = session.labelled
    split = None
    if session.participant.text("split") not in _ABSENT:
        split = session.participant.one_of("split", _SPLITS, study=session.id)
    label = _label(row, column, positive, study=session.id)
    source = (_adc_source if is_adc else _dwi_source)(session)
    return Case(Label(session.id, label, session.participant.text("participant_id"), split), source, row.place)


def _label(row: Row, column: str, positive: Sequence[str], *, study: str) -> int:
    if not positive:
        return row.one_of(column, {"0": 0, "1": 1}, study=study)
    value = row.text(column)
    if value in _ABSENT:
        raise row.refuse("bad_label", f"{column} must have a value", "none", study=study)
    return int(value in positive)


def _dwi_source(session: _Session) -> StudySource:
    dwi = _one(session, "dwi", "_dwi.nii.gz")
    held = _b_values(dwi)
    if held is None:
        raise session.labelled.refuse(
            "one_b_value", "diffusion must have a .bval of numbers beside it", f"none for {dwi.name}", study=session.id
        )
    if len(set(held)) < len(held):
        raise session.labelled.refuse(
            "dwi_directions", "each b-value must have one volume", f"several in {dwi.name}", study=session.id
        )
    if len(held) < 2:
        raise session.labelled.refuse(
            "one_b_value", "diffusion must have two b-values or more", f"one in {dwi.name}", study=session.id
        )
    about = _json(_beside(dwi, ".json"))
    acquired, computed = about.get(ACQUIRED_KEY), about.get(COMPUTED_KEY)
    return DwiStudy(
        t2=_one(session, "anat", "_T2w.nii.gz"),
        dwi=dwi,
        b_values_of_volumes_s_per_mm2=held,
        b_values_s_per_mm2=MODEL_B_VALUES_S_PER_MM2,
        b_values_acquired_s_per_mm2=tuple(map(float, acquired)) if isinstance(acquired, list) and acquired else held,
        b_values_computed=tuple(map(bool, computed))
        if isinstance(computed, list) and len(computed) == len(held)
        else (),
    )


def _adc_source(session: _Session) -> StudySource:
    traces = _found(session, "dwi", "_trace.nii.gz")
    high_b = _one(session, "dwi", "_trace.nii.gz" if traces else "_dwi.nii.gz")
    known = () if traces else _b_values(high_b) or ()
    return AdcStudy(_one(session, "anat", "_T2w.nii.gz"), _one(session, "dwi", "_ADC.nii.gz"), high_b, known)


def _found(session: _Session, folder: str, ending: str) -> list[Path]:
    return sorted((session.folder / folder).glob(f"*{ending}"))


def _one(session: _Session, folder: str, ending: str) -> Path:
    found = _found(session, folder, ending)
    if len(found) != 1:
        code = "several_images" if found else "no_images"
        rule = f"{session.id} must have one {folder}/*{ending}"
        raise session.labelled.refuse(code, rule, str(len(found)), study=session.id)
    return found[0]


def _has_two_b_values(folder: Path) -> bool:
    return any(len(_b_values(path) or ()) > 1 for path in (folder / "dwi").glob("*_dwi.nii.gz"))


def _b_values(dwi: Path) -> tuple[float, ...] | None:
    """Return the b-values beside a diffusion file, s/mm²; None without a file of numbers >= 0."""
    try:
        values = tuple(float(word) for word in _beside(dwi, ".bval").read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return None
    return values if values and all(0 <= value < float("inf") for value in values) else None


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + suffix)


def _description(source: Path) -> Mapping[str, Any]:
    path = source / "dataset_description.json"
    if not path.is_file():
        raise ManifestError(f"a BIDS dataset must have dataset_description.json, got none in {source}. Check the path.")
    return _json(path)


def _json(path: Path) -> Mapping[str, Any]:
    """Return the content of a JSON file; empty where it is absent or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
