"""From a folder of DICOM studies and a table of labels to a manifest with converted volumes."""

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from prostate_alm.data.cohorts.mask_files import masks_in
from prostate_alm.data.convert import (
    DWI_FILE,
    SOFTWARE,
    T2_FILE,
    DicomStudy,
    Sidecar,
    StudySource,
    convert_or_refuse,
    require_conversion_or_nothing,
)
from prostate_alm.data.labels import Label, joined_patients, read_labels
from prostate_alm.data.manifest import (
    Manifest,
    ManifestError,
    Provenance,
    RefusedMask,
    RefusedStudy,
    StudyRecord,
    VolumeFile,
    version_of,
    write_manifest,
)
from prostate_alm.data.masks import MASK_FILES, MaskSource, label_fault
from prostate_alm.data.splits import split_patients
from prostate_alm.imaging.rulebook import Rules
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2
from prostate_alm.parallel import map_in_order
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import sha256_of_file

_LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class BuildResult:
    """The manifest that was written, and the names of folders that have no label and were left out."""

    manifest: Manifest
    unlabelled: tuple[str, ...]


@dataclass(frozen=True)
class DicomCohort:
    """A folder of DICOM studies with a table of labels; the study of label `id` is the folder `dicom_dir/id`.

    Args:
        dicom_dir: folder with one sub-folder per study.
        labels_csv: see `labels.read_labels`.
        masks_dir: folder with one sub-folder per study that has masks, see `masks_in`; no masks when None.
        b_values_s_per_mm2: b-values of the volumes, distinct, >= 0; computed by a fit where they were not acquired.
        rules: words, limits and places of the selection; the default ones when None.
    """

    dicom_dir: Path
    labels_csv: Path
    masks_dir: Path | None = None
    b_values_s_per_mm2: Sequence[float] = MODEL_B_VALUES_S_PER_MM2
    rules: Rules | None = None


@dataclass(frozen=True)
class CohortPlan:
    """The manifest to write and what it says of the cohort.

    Args:
        output: the manifest; ends in `.json`.
        source: where the studies come from, in words.
        label_definition: what label 1 means, in words.
        licence: licence of the data, in words.
        test_share: share of the patients in the test split when the labels have no `split` column, in (0, 1).
        seed: seed of that split, in [0, 2^32 - 1].
        overwrite: replace a manifest that is already there.
        lesions_make_label: label 1 means that there is a lesion; a map of lesions that contradicts it is refused.
    """

    output: Path
    source: str = ""
    label_definition: str = ""
    licence: str = ""
    test_share: float = 0.25
    seed: int = 0
    overwrite: bool = False
    lesions_make_label: bool = True

    @property
    def volumes_dir(self) -> Path:
        """Folder of the volumes."""
        return self.output.with_suffix("")

    def check(self, *, workers: int = 1) -> None:
        """Raise `ManifestError` where a number is out of range or the manifest would replace something."""
        _check_numbers(test_share=self.test_share, seed=self.seed, workers=workers)
        _check_output(self.output, overwrite=self.overwrite)


def build_manifest(
    cohort: DicomCohort, plan: CohortPlan, *, workers: int = 1, progress: Progress = silent
) -> BuildResult:
    """Convert each labelled study once, write the cohort's manifest, and return it with the folders left out.

    The volumes of a study go to `<output without .json>/id/`, see `convert_study`. A study that was converted before
    from the same files is not converted again. A study that cannot be used is listed in the manifest's `refused` and
    does not stop the others; a mask that cannot be used is listed in `refused_masks`, and its study is kept without it.
    The manifest is written last.

    Args:
        cohort: where the studies, labels and masks are.
        plan: the manifest to write.
        workers: largest number of processes, >= 1; more than one needs multiprocessing's usual `if __name__ == ...`.
        progress: called with (studies done, studies in all) after each study.

    Raises:
        ManifestError: an argument or the labels are unusable, an id has no folder, one person is in two splits,
            `output` exists or its folder of volumes holds something else, or no study is left of a class.
        SplitError: too few patients of a class for a test split.
        OSError: the volumes or the manifest cannot be written.
    """
    check_b_values(cohort.b_values_s_per_mm2)
    plan.check(workers=workers)
    table, dicom_dir = read_labels(cohort.labels_csv), cohort.dicom_dir
    unlabelled = _match_folders(dicom_dir, table, plan.volumes_dir)
    masks, b_values = _masks(cohort.masks_dir, table), tuple(float(b) for b in cohort.b_values_s_per_mm2)
    labels = joined_patients(table, dicom_dir)
    studies = [(one, DicomStudy(dicom_dir / one.id, b_values, cohort.rules, masks.get(one.id))) for one in labels]
    labels_sha256 = sha256_of_file(cohort.labels_csv)
    manifest = convert_cohort(studies, plan, labels_sha256=labels_sha256, workers=workers, progress=progress)
    return BuildResult(manifest, unlabelled)


def _masks(masks_dir: Path | None, labels: Sequence[Label]) -> dict[str, MaskSource]:
    """Return the masks of each study that has any; raise where there is a folder of them and it holds none."""
    if masks_dir is None:
        return {}
    found = {one.id: masks for one in labels if (masks := masks_in(masks_dir / one.id)) is not None}
    if not found:
        raise ManifestError(
            f"masks must be ID/lesions.nii.gz, ID/gland.nii.gz or SEG of a study, got none in {masks_dir}. "
            "Check the path, and that its folders have the ids of the labels."
        )
    return found


def convert_cohort(
    studies: Sequence[tuple[Label, StudySource]],
    plan: CohortPlan,
    *,
    labels_sha256: str,
    refused: Sequence[RefusedStudy] = (),
    workers: int = 1,
    progress: Progress = silent,
) -> Manifest:
    """Convert labelled studies and write their manifest, last.

    Args:
        studies: labels and where the volumes come from, at least one; all of the same b-values or channels.
        plan: what to write; checked before.
        labels_sha256: checksum of the tables that the labels come from.
        refused: studies that were left out before, to be listed with those that are refused here.
        workers: largest number of processes, >= 1.
        progress: called with (studies done, studies in all) after each study.

    Raises:
        ManifestError: the volumes' folder holds something else, one person is in two splits, no study is left of a
            class.
        SplitError: too few patients of a class for a test split.
        OSError: the volumes or the manifest cannot be written.
    """
    labels = [label for label, _ in studies]
    if labels[0].split is None:
        _splits(labels, plan)  # too few patients: say so before the long work
    converted, more = _convert_all(studies, plan.volumes_dir, workers=workers, progress=progress)
    kept = [label for label in labels if label.id in converted]
    everything = [*refused, *more]
    _require_both_classes(kept, everything)
    splits = _splits(kept, plan)
    refused_of = {one.id: _refused_masks(one, converted[one.id], plan) for one in kept}
    records = [_record(one, splits[one.id], converted[one.id], plan, refused=refused_of[one.id]) for one in kept]
    refused_masks = [one for of_study in refused_of.values() for one in of_study]
    refused_studies = tuple(sorted(everything, key=lambda one: one.id))
    about = Provenance(
        created_by=SOFTWARE,
        labels_sha256=labels_sha256,
        source=plan.source,
        label_definition=plan.label_definition,
        licence=plan.licence,
    )
    manifest = _manifest(
        studies[0][1], records, plan, about, refused=refused_studies, refused_masks=tuple(refused_masks)
    )
    write_manifest(manifest, plan.output)
    return manifest


def _manifest(
    first: StudySource,
    records: Sequence[StudyRecord],
    plan: CohortPlan,
    about: Provenance,
    *,
    refused: tuple[RefusedStudy, ...],
    refused_masks: tuple[RefusedMask, ...],
) -> Manifest:
    has_masks = bool(refused_masks) or any(record.lesions or record.gland for record in records)
    return Manifest(
        schema_version=version_of(channels=bool(first.diffusion_channels), masks=has_masks)[0],
        name=plan.output.stem,
        b_values_s_per_mm2=first.b_values_s_per_mm2,
        diffusion_channels=first.diffusion_channels,
        provenance=about,
        studies=tuple(records),
        refused=refused,
        refused_masks=refused_masks,
        lesions_make_label=plan.lesions_make_label or not has_masks,
    )


def check_b_values(b_values_s_per_mm2: Sequence[float]) -> None:
    """Raise `ManifestError` unless b-values are distinct and >= 0."""
    values = list(b_values_s_per_mm2)
    if not values or len(set(values)) < len(values) or not all(math.isfinite(b) and b >= 0 for b in values):
        raise ManifestError(f"b-values must be distinct and >= 0, got {values}. The model's are 100, 600 and 1000.")


def _check_numbers(*, test_share: float, seed: int, workers: int) -> None:
    if not 0.0 < test_share < 1.0:
        raise ManifestError(f"test_share must be between 0 and 1, got {test_share}. Choose for example 0.25.")
    if not 0 <= seed <= _LARGEST_SEED:
        raise ManifestError(f"seed must be from 0 to {_LARGEST_SEED}, got {seed}. Choose for example 0.")
    if workers < 1:
        raise ManifestError(f"workers must be at least 1, got {workers}. One process is the least.")


def _check_output(output: Path, *, overwrite: bool) -> None:
    """Raise where the manifest would replace something."""
    if output.suffix != ".json":
        raise ManifestError(f"output must end in .json, got {output}. Name the manifest, e.g. data_manifest/NAME.json.")
    if output.is_dir() or (output.exists() and not overwrite):
        raise ManifestError(
            f"output must not exist, got {output}, which does. Choose another name, or give --overwrite to replace a "
            "manifest."
        )


def _match_folders(dicom_dir: Path, labels: Sequence[Label], volumes_dir: Path) -> tuple[str, ...]:
    """Return the folders without a label; raise for a label without a folder and for volumes among DICOM files."""
    if not dicom_dir.is_dir():
        raise ManifestError(
            f"DICOM_DIR must be a folder with one sub-folder per study, got {dicom_dir}. Check the path."
        )
    volumes = volumes_dir.resolve()
    if volumes == dicom_dir.resolve() or any(volumes.is_relative_to((dicom_dir / one.id).resolve()) for one in labels):
        raise ManifestError(
            f"volumes must not go among the DICOM files, got {volumes_dir}, which is for those. Choose another output."
        )
    folders = {
        one.name for one in dicom_dir.iterdir() if one.is_dir() and one.name[0] != "." and one.resolve() != volumes
    }
    unknown = [label.id for label in labels if label.id not in folders]
    unlabelled = folders - {label.id for label in labels}
    if unknown:  # the names of other folders are not shown: they may be those of patients
        raise ManifestError(
            f"each id of the labels must be a folder of {dicom_dir}, got {unknown[0]!r} "
            f"and {len(unknown) - 1} more without one ({len(unlabelled)} folders have no label). Correct the ids."
        )
    return tuple(sorted(unlabelled))


def _convert_all(
    studies: Sequence[tuple[Label, StudySource]], volumes_dir: Path, *, workers: int, progress: Progress
) -> tuple[dict[str, Sidecar], list[RefusedStudy]]:
    for label, _ in studies:
        require_conversion_or_nothing(volumes_dir / label.id)
    volumes_dir.mkdir(parents=True, exist_ok=True)
    converted: dict[str, Sidecar] = {}
    refused: list[RefusedStudy] = []
    items = [(label.id, source) for label, source in studies]
    with closing(map_in_order(partial(convert_or_refuse, volumes_dir=volumes_dir), items, workers=workers)) as outcomes:
        for (name, _), outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, RefusedStudy):
                refused.append(outcome)
            else:
                converted[name] = outcome
            progress(len(converted) + len(refused), len(items))
    return converted, refused


def _require_both_classes(kept: Sequence[Label], refused: Sequence[RefusedStudy]) -> None:
    classes = {label.label for label in kept}
    if classes != {0, 1}:
        first = f" First refusal: {refused[0].id}: {refused[0].reason}" if refused else ""
        raise ManifestError(
            f"a cohort must keep studies of both classes, got {len(kept)} usable ones with labels {sorted(classes)}, "
            f"{len(refused)} refused. Mend or replace the refused ones.{first}"
        )


def _splits(labels: Sequence[Label], plan: CohortPlan) -> dict[str, str]:
    if labels[0].split is not None:
        return _named_splits(labels)
    train, test = split_patients(
        {label.id: label.label for label in labels},
        {label.id: label.patient for label in labels},
        share=plan.test_share,
        seed=plan.seed,
        purpose="test",
    )
    return dict.fromkeys(train, "train") | dict.fromkeys(test, "test")


def _named_splits(labels: Sequence[Label]) -> dict[str, str]:
    first_of: dict[str, Label] = {}
    for label in labels:
        first = first_of.setdefault(label.patient, label)
        if first.split != label.split:
            raise ManifestError(
                f"studies of one person must lie in one split, got {first.id!r} and {label.id!r} in two: "
                "their DICOM Patient ID says that they are one patient. Correct the column `split`."
            )
    return {label.id: str(label.split) for label in labels}


def _record(
    label: Label, split: str, sidecar: Sidecar, plan: CohortPlan, *, refused: Sequence[RefusedMask]
) -> StudyRecord:
    def file(name: str) -> VolumeFile:
        return VolumeFile(path=f"{plan.volumes_dir.name}/{label.id}/{name}", sha256=sidecar.sha256[name])

    unusable = {one.mask for one in refused}
    masks = {kind: name for kind, name in MASK_FILES.items() if name in sidecar.sha256 and kind not in unusable}
    return StudyRecord(
        id=label.id,
        patient=label.patient,
        label=_class(label),
        split="train" if split == "train" else "test",
        t2=file(T2_FILE),
        dwi=file(DWI_FILE),
        b_values_acquired_s_per_mm2=sidecar.b_values_acquired_s_per_mm2,
        b_values_computed=sidecar.b_values_computed,
        finding=label.finding,
        **{kind: file(name) for kind, name in masks.items()},
    )


def _class(label: Label) -> Literal[0, 1]:
    return 1 if label.label else 0


def _refused_masks(label: Label, sidecar: Sidecar, plan: CohortPlan) -> list[RefusedMask]:
    """Return the masks of a study that cannot be used: those that were refused, and lesions against its label."""
    if sidecar.masks is None:
        return []
    refused = dict(sidecar.masks.refused)
    if plan.lesions_make_label and sidecar.masks.lesions is not None:
        fault = label_fault(_class(label), sidecar.masks.lesions)
        if fault:
            refused["lesions"] = ("contradictory_labels", fault)
    return [RefusedMask(id=label.id, mask=kind, code=code, reason=reason) for kind, (code, reason) in refused.items()]
