"""A cohort as a BIDS dataset: what a manifest lists, in the layout that other software reads."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from prostate_alm import __version__
from prostate_alm.data.cohorts.bids import ACQUIRED_KEY, COMPUTED_KEY, PARTICIPANTS
from prostate_alm.data.convert import nifti_bytes
from prostate_alm.data.manifest import Manifest, ManifestError, StudyRecord, check_files, repeats
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import partial_folder

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

    Returns:
        `folder`.

    Raises:
        ManifestError: `folder` holds something, a volume is missing or changed, or two names are one in BIDS.
        OSError: a file cannot be written.

    Reference: Brain Imaging Data Structure 1.10.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ManifestError(f"the BIDS folder must be absent or empty, got {folder}. Choose another.")
    faults = check_files(manifest, manifest_path)
    if faults:
        more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ManifestError(faults[0] + more)
    subjects = _subjects(manifest)
    with partial_folder(folder) as partial:
        for done, (study, subject, session) in enumerate(_places(subjects), start=1):
            _write_study(
                study,
                manifest,
                manifest_path.parent,
                partial / subject / session,
                "_".join(filter(None, (subject, session))),
            )
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


def _places(subjects: Mapping[str, Sequence[tuple[str, StudyRecord]]]) -> Iterator[tuple[StudyRecord, str, str]]:
    for subject, studies in subjects.items():
        for session, study in studies:
            yield study, subject, session


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


_LABEL_COLUMN = {
    "Description": "class that the classifier is to tell",
    "Levels": {"0": "other", "1": "must not be missed"},
}
_SPLIT_COLUMN = {"Description": "part of the cohort", "Levels": {"train": "for training", "test": "for testing"}}


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
        _write_json(folder / subject / f"{subject}_sessions.json", {"label": _LABEL_COLUMN})
    columns = ("participant_id", "split") if has_sessions else ("participant_id", "label", "split")
    known = {"label": _LABEL_COLUMN, "split": _SPLIT_COLUMN}
    _write_tsv(folder / PARTICIPANTS, [columns, *rows])
    _write_json(folder / "participants.json", {name: known[name] for name in columns[1:]})


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
