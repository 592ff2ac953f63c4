"""Synthetic cohorts to train on: studies made as DICOM, read like any others; what a bundle uses when given none."""

import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from prostate_alm.data.build import build_manifest
from prostate_alm.parallel import available_workers, map_in_order
from prostate_alm.phantom.cohort import (
    DEFAULT_DIFFICULTY,
    IMAGE_DIFFICULTY_MAX,
    make_cohort,
    plan_study,
    render_study,
    write_study,
)
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2
from prostate_alm.progress import Progress, silent

DEFAULT_STUDIES = 60


class SyntheticCohort(BaseModel):
    """What determines a synthetic cohort: see `make_cohort`; `test_share` of the studies are for testing.

    With `findings` the manifest has the reader's three findings as well. The same parameters give the same studies and
    the same split.
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
    findings: bool = False

    @property
    def phantom(self) -> dict[str, Any]:
        """The parameters of a single study."""
        return self.model_dump(exclude={"studies", "test_share", "findings"})


def default_manifest_path(folder: Path, *, studies: int = DEFAULT_STUDIES, seed: int = 0) -> Path:
    """Return where `ensure_synthetic_cohort` puts the manifest.

    >>> default_manifest_path(Path("data")).as_posix()
    'data/phantom-60-seed0.json'
    """
    return folder / f"phantom-{studies}-seed{seed}.json"


def ensure_synthetic_cohort(
    folder: Path,
    *,
    studies: int = DEFAULT_STUDIES,
    seed: int = 0,
    progress: Callable[[str], Progress] = lambda _: silent,
) -> Path:
    """Return the manifest of a synthetic cohort in `folder`; make what of it is missing.

    Args:
        folder: receives the DICOM studies with their labels, the manifest and its volumes.
        studies: number of studies.
        seed: seed of the cohort; the same seed gives the same studies.
        progress: name of the work -> what is called after each study, e.g. `progress_bar`.

    Raises:
        ValueError: `studies` or `seed` is out of range, or there are too few studies to split.
    """
    path = default_manifest_path(folder, studies=studies, seed=seed)
    return ensure_cohort(path, SyntheticCohort(studies=studies, seed=seed), progress=progress)


def ensure_cohort(
    manifest: Path, cohort: SyntheticCohort, *, progress: Callable[[str], Progress] = lambda _: silent
) -> Path:
    """Return the manifest of a synthetic cohort; make what of it is missing: an interrupted call goes on where it was.

    The DICOM studies go beside the manifest, into a folder of its name and `-dicom`.

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
    dicom_dir = manifest.with_name(f"{manifest.stem}-dicom")
    _make_studies(dicom_dir, cohort, progress=progress("making studies"))
    build_manifest(
        dicom_dir,
        dicom_dir / ("findings.csv" if cohort.findings else "labels.csv"),
        output=manifest,
        b_values_s_per_mm2=cohort.b_values_s_per_mm2,
        test_share=cohort.test_share,
        source="synthetic studies of prostate-alm, see docs/phantom.md",
        label_definition="1 = equivocal lesion (contrast would have helped), 0 = none or unmistakable",
        licence="Apache-2.0",
        workers=available_workers(),
        progress=progress("reading studies"),
    )
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
