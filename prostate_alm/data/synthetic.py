"""Synthetic cohorts to train on: studies made as DICOM, read like any others; what a bundle uses when given none."""

import operator
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from prostate_alm.data.build import CohortPlan, DicomCohort, build_manifest
from prostate_alm.data.convert import labels_bytes
from prostate_alm.data.masks import MASK_FILES
from prostate_alm.imaging.geometry import LPS_TO_RAS
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2
from prostate_alm.parallel import available_workers, map_in_order
from prostate_alm.phantom.cohort import (
    DEFAULT_DIFFICULTY,
    IMAGE_DIFFICULTY_MAX,
    make_cohort,
    plan_study,
    render_study,
    write_study,
)
from prostate_alm.phantom.masks import render_masks
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import write_bytes_atomically

DEFAULT_STUDIES = 60


class SyntheticCohort(BaseModel):
    """What determines a synthetic cohort: see `make_cohort`; `test_share` of the studies are for testing.

    With `findings` the manifest has the reader's three findings as well; `masks` adds lesions and gland to it. Either
    leaves all else as it is: the same parameters give the same studies and the same split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    studies: int = Field(ge=1)
    seed: int = Field(ge=0)
    difficulty: float = Field(default=DEFAULT_DIFFICULTY, ge=0, le=IMAGE_DIFFICULTY_MAX)
    reader_difficulty: float | None = Field(default=None, ge=0, le=1)
    lesions: Literal["separate", "graded"] = "separate"
    positive_share: float = Field(default=0.3, gt=0, lt=1)
    b_values_s_per_mm2: tuple[float, ...] = tuple(MODEL_B_VALUES_S_PER_MM2)
    test_share: float = Field(default=1 / 3, gt=0, lt=1)
    findings: bool = Field(default=False, exclude_if=operator.not_)  # notes and recipes without stay what they were
    masks: bool = Field(default=False, exclude_if=operator.not_)

    @property
    def name(self) -> str:
        """What a cohort is called that differs from others in size, seed and what its manifest has.

        >>> SyntheticCohort(studies=60, seed=0).name, SyntheticCohort(studies=60, seed=0, masks=True).name
        ('phantom-60-seed0', 'phantom-60-masks-seed0')
        """
        kinds = [kind for kind in ("findings", "masks") if getattr(self, kind)]
        return "-".join(["phantom", str(self.studies), *kinds, f"seed{self.seed}"])

    @property
    def phantom(self) -> dict[str, Any]:
        """The parameters of a single study."""
        return self.model_dump(exclude={"studies", "test_share", "findings", "masks"})


DEFAULT_COHORT = SyntheticCohort(studies=DEFAULT_STUDIES, seed=0)
"""What a bundle uses when given no cohort."""


def ensure_synthetic_cohort(
    folder: Path, cohort: SyntheticCohort, *, progress: Callable[[str], Progress] = lambda _: silent
) -> Path:
    """Return the manifest of a synthetic cohort in `folder`, called by its `name`; make what of it is missing.

    Args:
        folder: receives the DICOM studies with their labels, the manifest and its volumes.
        cohort: what to make; one that differs in more than its name says needs a manifest of your own choice, see
            `ensure_cohort`.
        progress: name of the work -> what is called after each study, e.g. `progress_bar`.

    Raises:
        ValueError: there are too few studies to split.
    """
    return ensure_cohort(folder / f"{cohort.name}.json", cohort, progress=progress)


def ensure_cohort(
    manifest: Path, cohort: SyntheticCohort, *, progress: Callable[[str], Progress] = lambda _: silent
) -> Path:
    """Return the manifest of a synthetic cohort; make what of it is missing: an interrupted call goes on where it was.

    The DICOM studies go beside the manifest, into a folder of its name and `-dicom`, masks into one with `-masks`.

    Args:
        manifest: the file; one that is there is taken to be that of the cohort.
        cohort: what to make.
        progress: name of the work -> what is called after each study, e.g. `progress_bar`.

    Raises:
        ValueError: a parameter is out of range, there are too few studies to split, or the folder of DICOM studies
            holds those of another cohort.
    """
    if manifest.is_file():
        return manifest
    dicom_dir, masks_dir = (manifest.with_name(f"{manifest.stem}-{kind}") for kind in ("dicom", "masks"))
    _make_studies(dicom_dir, cohort, progress=progress("making studies"))
    if cohort.masks:
        write_masks(masks_dir, cohort, progress=progress("making masks"))
    studies = DicomCohort(
        dicom_dir,
        dicom_dir / ("findings.csv" if cohort.findings else "labels.csv"),
        masks_dir=masks_dir if cohort.masks else None,
        b_values_s_per_mm2=cohort.b_values_s_per_mm2,
    )
    plan = CohortPlan(
        manifest,
        source="synthetic studies of prostate-alm, see docs/phantom.md",
        label_definition="1 = equivocal lesion (contrast would have helped), 0 = none or unmistakable",
        licence="Apache-2.0",
        test_share=cohort.test_share,
    )
    build_manifest(studies, plan, workers=available_workers(), progress=progress("reading studies"))
    return manifest


def _make_studies(dicom_dir: Path, cohort: SyntheticCohort, *, progress: Progress) -> None:
    """Do as `make_cohort` does, in several processes: it claims the folder first and writes the tables last."""
    make_cohort(dicom_dir, studies=1, **cohort.phantom)
    names = {index: plan_study(index, **cohort.phantom).identifier for index in range(1, cohort.studies + 1)}
    missing = [index for index, name in names.items() if not (dicom_dir / name).exists()]
    for done in range(1, cohort.studies - len(missing) + 1):
        progress(done, cohort.studies)
    one = partial(_make_study, phantom=cohort.phantom, dicom_dir=dicom_dir)
    with closing(map_in_order(one, missing, workers=available_workers())) as made:
        for done, _ in enumerate(made, start=cohort.studies - len(missing) + 1):
            progress(done, cohort.studies)
    make_cohort(dicom_dir, studies=cohort.studies, **cohort.phantom)


def _make_study(index: int, *, phantom: dict[str, Any], dicom_dir: Path) -> None:
    """Write a study under another name first, as `make_cohort` does, so that one with its own name is whole."""
    plan = plan_study(index, **phantom)
    partial_dir = dicom_dir / f".{plan.identifier}.partial"
    shutil.rmtree(partial_dir, ignore_errors=True)
    write_study(render_study(plan), partial_dir)
    partial_dir.rename(dicom_dir / plan.identifier)


def write_masks(folder: Path, cohort: SyntheticCohort, *, progress: Progress = silent) -> Path:
    """Write the masks of each study to `folder/ID/lesions.nii.gz` and `gland.nii.gz`, as `manifest build` reads them.

    A study in which the reader sees a lesion though there is none has no map of lesions; see `render_masks`.

    Args:
        folder: made where absent; files of these names are replaced.
        cohort: whose.
        progress: called with (studies done, studies in all) after each study.

    Returns:
        `folder`.
    """
    one = partial(_write_masks_of_study, phantom=cohort.phantom, folder=folder)
    with closing(map_in_order(one, range(1, cohort.studies + 1), workers=available_workers())) as written:
        for done, _ in enumerate(written, start=1):
            progress(done, cohort.studies)
    return folder


def write_segmentations(folder: Path, cohort: SyntheticCohort, *, dicom_dir: Path, progress: Progress = silent) -> Path:
    """Write the masks of each study as a DICOM Segmentation object, `folder/ID/seg.dcm`.

    Args:
        folder: made where absent; files of this name are replaced.
        cohort: whose.
        dicom_dir: folder of its DICOM studies, to whose T2 the objects refer.
        progress: called with (studies done, studies in all) after each study.

    Returns:
        `folder`.
    """
    from prostate_alm.phantom.segmentation import write_segmentation  # highdicom takes a second

    for done in range(1, cohort.studies + 1):
        plan = plan_study(done, **cohort.phantom)
        write_segmentation(plan, dicom_dir / plan.identifier, folder / plan.identifier / "seg.dcm")
        progress(done, cohort.studies)
    return folder


def _write_masks_of_study(index: int, *, phantom: dict[str, Any], folder: Path) -> None:
    plan = plan_study(index, **phantom)
    masks = render_masks(plan)
    affine_lps_mm = np.eye(4)
    affine_lps_mm[:3, :3], affine_lps_mm[:3, 3] = masks.grid.steps_mm.T, masks.grid.origin_mm
    affine_ras_mm = LPS_TO_RAS @ affine_lps_mm
    (folder / plan.identifier).mkdir(parents=True, exist_ok=True)
    for name, labels in ((MASK_FILES["lesions"], masks.lesions), (MASK_FILES["gland"], masks.gland)):
        if labels is not None:  # (K, J, I)
            content = labels_bytes(labels.transpose(2, 1, 0), affine_ras_mm)
            write_bytes_atomically(folder / plan.identifier / name, content)
