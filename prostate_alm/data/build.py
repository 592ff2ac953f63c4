"""From a folder of DICOM studies and a table of labels to a manifest with converted volumes."""

import gzip
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from prostate_alm import __version__
from prostate_alm.data.labels import Label, read_labels
from prostate_alm.data.manifest import (
    Manifest,
    ManifestError,
    Provenance,
    RefusedStudy,
    StudyRecord,
    VolumeFile,
    sha256_of_file,
    write_manifest,
    write_text_atomically,
)
from prostate_alm.data.splits import split_patients
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.volume import Volume, load_study
from prostate_alm.progress import Progress, silent

MODEL_B_VALUES_S_PER_MM2 = (100.0, 600.0, 1000.0)
"""The b-values of the paper's protocol (section 5.1), to which every cohort is harmonised."""

T2_FILE, DWI_FILE, SIDECAR_FILE = "t2.nii.gz", "dwi.nii.gz", "study.json"


class Sidecar(BaseModel):
    """What `study.json` beside the volumes of a study says of how they were made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source_sha256: str
    b_values_s_per_mm2: tuple[float, ...]
    b_values_acquired_s_per_mm2: tuple[float, ...]
    b_values_computed: tuple[bool, ...]
    series: tuple[dict[str, Any], ...]
    sha256: dict[str, str]


@dataclass(frozen=True)
class BuildResult:
    """The manifest that was written, and the ids of folders that have no label and were left out."""

    manifest: Manifest
    unlabelled: tuple[str, ...]


def build_manifest(
    dicom_dir: Path,
    labels_csv: Path,
    *,
    output: Path,
    b_values_s_per_mm2: Sequence[float] = MODEL_B_VALUES_S_PER_MM2,
    test_share: float = 0.25,
    seed: int = 0,
    source: str = "",
    label_definition: str = "",
    licence: str = "",
    overwrite: bool = False,
    progress: Progress = silent,
) -> BuildResult:
    """Convert each labelled study once and write the cohort's manifest.

    The study of label `id` is the folder `dicom_dir/id`. Its volumes go to `<output without .json>/id/`: `t2.nii.gz`
    (I, J, K), `dwi.nii.gz` (I, J, K, B) on the grid of T2, and `study.json`, which says how they were made. A study
    that was converted before from the same files is not converted again. A study that cannot be used is listed in the
    manifest's `refused` and does not stop the others.

    Args:
        dicom_dir: folder with one sub-folder per study.
        labels_csv: see `labels.read_labels`.
        output: the manifest to write; ends in `.json`.
        b_values_s_per_mm2: b-values of the volumes; computed by a fit where they were not acquired.
        test_share: share of the patients in the test split when the labels have no `split` column, in (0, 1).
        seed: seed of that split.
        source: where the studies come from, in words.
        label_definition: what label 1 means, in words.
        licence: licence of the data, in words.
        overwrite: replace a manifest that is already there.
        progress: called with (studies done, studies in all) after each study.

    Raises:
        ManifestError: the labels are unusable, an id has no folder, `output` exists, or no study is left of a class.
        SplitError: too few patients of a class for a test split.
    """
    if output.suffix != ".json":
        raise ManifestError(f"output must end in .json, got {output}. Name the manifest, e.g. data_manifest/NAME.json.")
    if output.exists() and not overwrite:
        raise ManifestError(
            f"output must not exist, got the manifest {output}. Choose another name or give --overwrite."
        )
    if not 0.0 < test_share < 1.0:
        raise ManifestError(f"test_share must be between 0 and 1, got {test_share}. Choose for example 0.25.")
    labels = read_labels(labels_csv)
    unlabelled = _match_folders(dicom_dir, labels)
    volumes_dir = output.with_suffix("")
    volumes_dir.mkdir(parents=True, exist_ok=True)
    b_values = tuple(float(b) for b in b_values_s_per_mm2)
    converted: dict[str, Sidecar] = {}
    refused: list[RefusedStudy] = []
    for done, label in enumerate(labels, start=1):
        try:
            converted[label.id] = convert_study(
                dicom_dir / label.id, volumes_dir / label.id, b_values_s_per_mm2=b_values
            )
        except StudyRefused as error:
            refused.append(RefusedStudy(id=label.id, code=error.code, reason=error.reason))
        progress(done, len(labels))
    kept = [label for label in labels if label.id in converted]
    _require_both_classes(kept, refused)
    splits = _splits(kept, test_share=test_share, seed=seed)
    manifest = Manifest(
        name=output.stem,
        b_values_s_per_mm2=b_values,
        provenance=Provenance(
            created_by=f"prostate-alm {__version__}",
            labels_sha256=sha256_of_file(labels_csv),
            source=source,
            label_definition=label_definition,
            licence=licence,
        ),
        studies=tuple(_record(label, splits[label.id], converted[label.id], volumes_dir.name) for label in kept),
        refused=tuple(refused),
    )
    write_manifest(manifest, output)
    return BuildResult(manifest, unlabelled)


def _match_folders(dicom_dir: Path, labels: Sequence[Label]) -> tuple[str, ...]:
    if not dicom_dir.is_dir():
        raise ManifestError(
            f"DICOM_DIR must be a folder with one sub-folder per study, got {dicom_dir}. Check the path."
        )
    folders = {path.name for path in dicom_dir.iterdir() if path.is_dir()}
    unknown = [label.id for label in labels if label.id not in folders]
    if unknown:
        raise ManifestError(
            f"each id of the labels must be a folder of {dicom_dir}, "
            f"got {unknown[0]!r} and {len(unknown) - 1} more without one. "
            f"Correct the ids. Available: {sorted(folders)[:5]}"
        )
    return tuple(sorted(folders - {label.id for label in labels}))


def _require_both_classes(kept: Sequence[Label], refused: Sequence[RefusedStudy]) -> None:
    classes = {label.label for label in kept}
    if classes != {0, 1}:
        first = f" First refusal: {refused[0].id}: {refused[0].reason}" if refused else ""
        raise ManifestError(
            f"a cohort must keep studies of both classes, got {len(kept)} usable ones with labels {sorted(classes)}, "
            f"{len(refused)} refused. Mend or replace the refused ones.{first}"
        )


def _splits(labels: Sequence[Label], *, test_share: float, seed: int) -> dict[str, str]:
    if labels[0].split is not None:
        return {label.id: str(label.split) for label in labels}
    train, test = split_patients(
        {label.id: label.label for label in labels},
        {label.id: label.patient for label in labels},
        share=test_share,
        seed=seed,
        purpose="test",
    )
    return dict.fromkeys(train, "train") | dict.fromkeys(test, "test")


def _record(label: Label, split: str, sidecar: Sidecar, folder: str) -> StudyRecord:
    def file(name: str) -> VolumeFile:
        return VolumeFile(path=f"{folder}/{label.id}/{name}", sha256=sidecar.sha256[name])

    return StudyRecord(
        id=label.id,
        patient=label.patient,
        label=1 if label.label else 0,
        split="train" if split == "train" else "test",
        t2=file(T2_FILE),
        dwi=file(DWI_FILE),
        b_values_acquired_s_per_mm2=sidecar.b_values_acquired_s_per_mm2,
        b_values_computed=sidecar.b_values_computed,
    )


def convert_study(study_dir: Path, output_dir: Path, *, b_values_s_per_mm2: Sequence[float]) -> Sidecar:
    """Write the volumes of one study and return its sidecar; do nothing when that was done from the same files.

    The sidecar is written last, so that a folder without one is unfinished and made again.

    Raises:
        StudyRefused: the study cannot be used.
    """
    source_sha256 = _source_sha256(study_dir)
    earlier = _read_sidecar(output_dir / SIDECAR_FILE)
    if earlier and (earlier.source_sha256, earlier.b_values_s_per_mm2) == (
        source_sha256,
        tuple(b_values_s_per_mm2),
    ):
        return earlier
    volumes = load_study(study_dir, b_values_s_per_mm2=b_values_s_per_mm2)
    if output_dir.exists():
        shutil.rmtree(output_dir)
    output_dir.mkdir(parents=True)
    _save(volumes.t2.voxels, volumes.t2, output_dir / T2_FILE)
    _save(np.stack([volume.voxels for volume in volumes.dwi], axis=-1), volumes.t2, output_dir / DWI_FILE)
    sidecar = Sidecar(
        source_sha256=source_sha256,
        b_values_s_per_mm2=tuple(b_values_s_per_mm2),
        b_values_acquired_s_per_mm2=volumes.b_values_acquired_s_per_mm2,
        b_values_computed=volumes.b_values_computed,
        series=tuple(volumes.selection.to_dict()["series"]),
        sha256={name: sha256_of_file(output_dir / name) for name in (T2_FILE, DWI_FILE)},
    )
    write_text_atomically(output_dir / SIDECAR_FILE, sidecar.model_dump_json(indent=1) + "\n")
    return sidecar


def _read_sidecar(path: Path) -> Sidecar | None:
    if not path.is_file():
        return None
    try:
        return Sidecar.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError:  # written by another version: convert again
        return None


def _source_sha256(study_dir: Path) -> str:
    """Hash the contents of all files of a study: independent of their names and order."""
    digests = sorted(sha256_of_file(path) for path in study_dir.rglob("*") if path.is_file())
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _save(voxels: np.ndarray, grid: Volume, path: Path) -> None:
    """Save as NIfTI; 16 bits with a slope keep the file small, the quantisation is 1/65535 of the range."""
    image = nib.Nifti1Image(np.asarray(voxels, dtype=np.float32), grid.affine_ras_mm)
    image.set_data_dtype(np.int16)
    image.header.set_xyzt_units("mm")
    # a fixed time stamp: same input, same bytes
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))
