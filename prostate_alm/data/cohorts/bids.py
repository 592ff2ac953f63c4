"""Any BIDS dataset with T2 and diffusion of the prostate, and a column of labels; and a cohort written as one.

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
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from prostate_alm import __version__
from prostate_alm.data.cohorts.collection import Case, Collection, Row, read_table, usable
from prostate_alm.data.cohorts.image_files import AdcStudy, DwiStudy
from prostate_alm.data.convert import StudySource, nifti_bytes
from prostate_alm.data.labels import Label
from prostate_alm.data.manifest import Manifest, ManifestError, StudyRecord, check_files, repeats
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import partial_folder

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
    diffusion = [path for one in sessions for path in (one.folder / "dwi").glob("*_dwi.nii.gz")]
    is_adc = not any(len(_b_values(path)) > 1 for path in diffusion)
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
    fault = _fault_of_b_values(held)
    if fault is not None:
        code, rule, found = fault
        raise session.labelled.refuse(code, rule, f"{found} {dwi.name}", study=session.id)
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


def _fault_of_b_values(held: Sequence[float]) -> tuple[str, str, str] | None:
    """Return the code and the rule that the b-values of a diffusion file break, and what it has instead."""
    if not held:
        return "one_b_value", "diffusion must have a .bval of numbers beside it", "none for"
    if len(set(held)) < len(held):
        return "dwi_directions", "each b-value must have one volume", "several in"
    return ("one_b_value", "diffusion must have two b-values or more", "one in") if len(held) < 2 else None


def _adc_source(session: _Session) -> StudySource:
    traces = _found(session, "dwi", "_trace.nii.gz")
    high_b = _one(session, "dwi", "_trace.nii.gz" if traces else "_dwi.nii.gz")
    known = () if traces else _b_values(high_b)
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


def _b_values(dwi: Path) -> tuple[float, ...]:
    """Return the b-values beside a diffusion file, s/mm²; none without a file of numbers >= 0."""
    try:
        values = tuple(float(word) for word in _beside(dwi, ".bval").read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return ()
    return values if all(0 <= value < float("inf") for value in values) else ()


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


BIDS_VERSION = "1.10.0"

_SUFFIX_OF_CHANNEL = {"adc": "ADC", "high_b": "trace"}
_README = """# {name}

{count} studies of prostate MRI: T2 and diffusion on the grid of T2, as a classifier was trained on them. Written by
prostate-alm {version} from its manifest.

- Source: {source}
- Label 1: {label_definition}
- Licence: {licence}

{diffusion}
"""
_ABOUT_B_VALUES = """\
`*_dwi.nii.gz` holds trace images, one for each b-value, without directions: the columns of its .bvec are 0. The JSON
beside it says which b-values the scanner measured (BValuesAcquired) and which volumes are a mono-exponential fit of
these (BValuesComputed). Diffusion is 0 where the grid of T2 leaves its field of view."""
_ABOUT_CHANNELS = """\
`*_ADC.nii.gz` is the apparent diffusion coefficient and `*_trace.nii.gz` the image at a high b-value, in the units of
the collection. Both are 0 where the grid of T2 leaves their field of view."""


def export_bids(manifest: Manifest, manifest_path: Path, *, folder: Path, progress: Progress = silent) -> Path:
    """Write the studies of a cohort as a BIDS dataset.

    A patient is a subject. Subjects have sessions when a patient of the cohort has several studies; then the labels
    are in `sub-<label>_sessions.tsv`, else in `participants.tsv`, as is the split. Names are the manifest's without
    what BIDS does not allow. Volumes of b-values are copied byte by byte.

    Args:
        manifest: the cohort.
        manifest_path: where it was read from; its volumes lie beside it and are checked.
        folder: the dataset; made, must be absent or empty.
        progress: called with (studies done, studies in all) after each study.

    Raises:
        ManifestError: `folder` holds something, a volume is missing or changed, or two names are one in BIDS.
        OSError: a file cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ManifestError(f"the BIDS folder must be absent or empty, got {folder}. Choose another.")
    faults = check_files(manifest, manifest_path)
    if faults:
        more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ManifestError(faults[0] + more)
    subjects = _subjects(manifest)
    with partial_folder(folder) as partial:
        places = [(study, subject, session) for subject, studies in subjects.items() for session, study in studies]
        for done, (study, subject, session) in enumerate(places, start=1):
            name = "_".join(filter(None, (subject, session)))
            _write_study(study, manifest, manifest_path.parent, partial / subject / session, name)
            progress(done, len(manifest.studies))
        _write_tables(subjects, partial)
        _write_description(manifest, partial)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    return folder


def _subjects(manifest: Manifest) -> dict[str, list[tuple[str, StudyRecord]]]:
    """Return the studies of each subject with the name of their session, '' where subjects have none."""
    by_patient = groupby(sorted(manifest.studies, key=lambda one: (one.patient, one.id)), key=lambda one: one.patient)
    groups = {patient: list(studies) for patient, studies in by_patient}
    names = _labels("sub", list(groups))
    has_sessions = any(len(studies) > 1 for studies in groups.values())
    found = {}
    for patient, studies in groups.items():
        sessions = _labels("ses", [one.id for one in studies]) if has_sessions else {studies[0].id: ""}
        found[names[patient]] = [(sessions[one.id], one) for one in studies]
    return found


def _labels(entity: str, names: Sequence[str]) -> dict[str, str]:
    """Return a BIDS name for each of ours: letters and digits only."""
    labels = {name: f"{entity}-{re.sub('[^0-9A-Za-z]', '', name)}" for name in names}
    empty = [name for name, label in labels.items() if label == f"{entity}-"]
    repeated = repeats(label.lower() for label in labels.values())  # file systems may not tell cases apart
    if empty or repeated:
        raise ManifestError(
            f"names must differ in their letters and digits for BIDS, got {(empty or repeated)[0]!r} twice or empty. "
            "Rename the studies in the labels and build the manifest again."
        )
    return labels


def _write_study(study: StudyRecord, manifest: Manifest, volumes: Path, folder: Path, name: str) -> None:
    (folder / "anat").mkdir(parents=True)
    (folder / "dwi").mkdir()
    shutil.copyfile(volumes / study.t2.path, folder / "anat" / f"{name}_T2w.nii.gz")
    _write_json(folder / "anat" / f"{name}_T2w.json", {"Modality": "MR"})
    if manifest.diffusion_channels:
        _write_channels(volumes / study.dwi.path, manifest.diffusion_channels, folder / "dwi" / name)
        return
    b_values = manifest.b_values_s_per_mm2
    stem = folder / "dwi" / f"{name}_dwi"
    shutil.copyfile(volumes / study.dwi.path, stem.with_name(f"{stem.name}.nii.gz"))
    _write_text(stem.with_name(f"{stem.name}.bval"), " ".join(f"{value:g}" for value in b_values) + "\n")
    _write_text(stem.with_name(f"{stem.name}.bvec"), (" ".join("0" for _ in b_values) + "\n") * 3)
    about = {
        "Modality": "MR",
        ACQUIRED_KEY: list(study.b_values_acquired_s_per_mm2),
        COMPUTED_KEY: list(study.b_values_computed),
    }
    _write_json(stem.with_name(f"{stem.name}.json"), about)


def _write_channels(file: Path, channels: Sequence[str], stem: Path) -> None:
    """Write each channel of a diffusion file under the suffix that BIDS has for it."""
    image: Any = nib.load(file)
    voxels = image.get_fdata(dtype=np.float32)  # (I, J, K, C)
    for index, channel in enumerate(channels):
        name = f"{stem.name}_{_SUFFIX_OF_CHANNEL[channel]}"
        stem.with_name(f"{name}.nii.gz").write_bytes(nifti_bytes(voxels[..., index], image.affine))
        _write_json(stem.with_name(f"{name}.json"), {"Modality": "MR"})


_LEVELS = {"0": "other", "1": "must not be missed"}
_COLUMNS = {
    "label": {"Description": "class that the classifier is to tell", "Levels": _LEVELS},
    "split": {"Description": "part of the cohort", "Levels": {"train": "for training", "test": "for testing"}},
}


def _write_tables(subjects: Mapping[str, Sequence[tuple[str, StudyRecord]]], folder: Path) -> None:
    has_sessions = any(session for studies in subjects.values() for session, _ in studies)
    rows: list[tuple[str, ...]] = []
    for subject, studies in subjects.items():
        split = studies[0][1].split
        if not has_sessions:
            rows.append((subject, str(studies[0][1].label), split))
            continue
        rows.append((subject, split))
        table = [("session_id", "label"), *((session, str(study.label)) for session, study in studies)]
        _write_tsv(folder / subject / f"{subject}_sessions.tsv", table)
        _write_json(folder / subject / f"{subject}_sessions.json", {"label": _COLUMNS["label"]})
    columns = ("participant_id", "split") if has_sessions else ("participant_id", "label", "split")
    _write_tsv(folder / PARTICIPANTS, [columns, *rows])
    _write_json(folder / "participants.json", {name: _COLUMNS[name] for name in columns[1:]})


def _write_description(manifest: Manifest, folder: Path) -> None:
    about = manifest.provenance
    description = {
        "Name": manifest.name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "License": about.licence or "not stated",
        "GeneratedBy": [{"Name": "prostate-alm", "Version": __version__}],
    }
    _write_json(folder / "dataset_description.json", description)
    words = {key: value or "not stated" for key, value in about.model_dump().items()}
    _write_text(
        folder / "README.md",
        _README.format(
            name=manifest.name,
            count=len(manifest.studies),
            version=__version__,
            diffusion=_ABOUT_CHANNELS if manifest.diffusion_channels else _ABOUT_B_VALUES,
            **{key: words[key] for key in ("source", "label_definition", "licence")},
        ),
    )


def _write_tsv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    _write_text(path, "".join("\t".join(row) + "\n" for row in rows))


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write_text(path, json.dumps(content, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
