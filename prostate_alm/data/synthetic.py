"""Synthetic cohorts to train on: studies made as DICOM, read like any others; what a bundle uses when given none.

A recipe says what to make, and the checksums of what comes out: the data are made when needed.
"""

import hashlib
import logging
import operator
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prostate_alm.data.build import CohortPlan, DicomCohort, build_manifest, check_b_values
from prostate_alm.data.convert import labels_bytes
from prostate_alm.data.manifest import Manifest, StudyRecord, read_manifest
from prostate_alm.data.masks import MASK_FILES
from prostate_alm.imaging.geometry import LPS_TO_RAS
from prostate_alm.imaging.volume import MODEL_B_VALUES_S_PER_MM2
from prostate_alm.parallel import available_workers, map_in_order
from prostate_alm.phantom.cohort import (
    DEFAULT_DIFFICULTY,
    IMAGE_DIFFICULTY_MAX,
    PHANTOM_VERSION,
    make_cohort,
    plan_study,
    render_study,
    write_study,
)
from prostate_alm.phantom.masks import render_masks
from prostate_alm.progress import Progress, silent
from prostate_alm.shipped import find_recipe
from prostate_alm.whole_files import write_bytes_atomically, write_text_atomically

DEFAULT_STUDIES = 60

logger = logging.getLogger(__name__)


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


NOTE = "recipe.json"
"""Beside the volumes of a cohort: what they were made from, and the outcome of the comparison with the checksums."""


class Recipe(BaseModel):
    """A synthetic cohort as a file: `phantom_version` and `cohort` say what to make, `voxels_sha256` what comes out.

    `voxels_sha256` has one checksum for each study, of the voxels of all of its volumes; it may be empty.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe_version: int = Field(ge=1, le=1)
    phantom_version: int = Field(ge=1)
    cohort: SyntheticCohort
    voxels_sha256: dict[str, str] = {}


class Note(BaseModel):
    """What a cohort was made from; `differing` are the studies whose voxels differ from those of `compared_sha256`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phantom_version: int
    cohort: SyntheticCohort
    compared_sha256: str = ""
    differing: tuple[str, ...] = ()


@dataclass(frozen=True)
class MadeCohort:
    """The manifest of a cohort, and the studies whose voxels differ from the recipe's checksums."""

    manifest: Path
    differing: tuple[str, ...]


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        ValueError: one line where it is no recipe, or one of studies that this version does not make.
        OSError: the file cannot be read.
    """
    try:
        recipe = Recipe.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise ValueError(
            f"recipe must follow its schema, got: {first['msg']} in {path} at {place}. See docs/phantom.md."
        ) from error
    if recipe.phantom_version != PHANTOM_VERSION:
        raise ValueError(
            f"phantom_version of a recipe must be {PHANTOM_VERSION}, got {recipe.phantom_version} in {path}. "
            "Its studies are made by another version of the software."
        )
    check_b_values(recipe.cohort.b_values_s_per_mm2)
    return recipe


def make_from_recipe(path: Path, folder: Path, *, progress: Callable[[str], Progress] = lambda _: silent) -> Path:
    """Return the manifest of a recipe's cohort in `folder`; make what of it is missing, and compare the checksums once.

    Voxels that differ are told as a warning, since another processor or library may round in another way: the cohort is
    as good, and results say by the manifest's checksum which one they are of.

    Args:
        path: the recipe, or a shipped one such as data_manifest/phantom-400.json; its name is that of the manifest.
        folder: receives DICOM studies, manifest and volumes.
        progress: name of the work -> what is called after each study, e.g. `progress_bar`.

    Raises:
        ValueError: the recipe cannot be used, or the folder holds another cohort of that name.
    """
    made = make_and_check(path, folder, progress=progress)
    if made.differing:
        logger.warning(difference_in_words(path, made.differing))
    return made.manifest


def make_and_check(path: Path, folder: Path, *, progress: Callable[[str], Progress] = lambda _: silent) -> MadeCohort:
    """Make a recipe's cohort as `make_from_recipe` does, and name the studies that differ from its checksums."""
    path = find_recipe(path)
    recipe, manifest_path = read_recipe(path), folder / f"{path.stem}.json"
    note, own_sha256 = _claim(manifest_path, recipe), hashlib.sha256(path.read_bytes()).hexdigest()
    ensure_cohort(manifest_path, recipe.cohort, progress=progress)
    if note.compared_sha256 != own_sha256:
        found = voxel_checksums(read_manifest(manifest_path), manifest_path, progress=progress("checking volumes"))
        differing = tuple(name for name, sha256 in found.items() if recipe.voxels_sha256.get(name, sha256) != sha256)
        note = note.model_copy(update={"compared_sha256": own_sha256, "differing": differing})
        _write_note(note, manifest_path)
    return MadeCohort(manifest_path, note.differing)


def _claim(manifest_path: Path, recipe: Recipe) -> Note:
    """Return the note of a cohort that was begun before, or leave one; refuse a place that holds another cohort."""
    file = manifest_path.with_suffix("") / NOTE
    own = Note(phantom_version=recipe.phantom_version, cohort=recipe.cohort)
    if file.is_file():
        earlier = Note.model_validate_json(file.read_bytes())
        if (earlier.phantom_version, earlier.cohort) == (own.phantom_version, own.cohort):
            return earlier
    elif not manifest_path.exists():
        _write_note(own, manifest_path)
        return own
    raise ValueError(
        f"manifest must be new or that of the same recipe, got another cohort in {manifest_path}. "
        "Choose another folder, or move it away with its volumes and DICOM studies."
    )


def _write_note(note: Note, manifest_path: Path) -> None:
    folder = manifest_path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / NOTE, note.model_dump_json(indent=1) + "\n")


def difference_in_words(path: Path, differing: tuple[str, ...]) -> str:
    """Return the line that says which studies differ."""
    return (
        f"voxels should have the checksums of the recipe, got others in {len(differing)} studies, the first is "
        f"{differing[0]}, in {path}. Another processor or library rounds in another way: say so beside the results."
    )


def record_checksums(path: Path, folder: Path, *, progress: Callable[[str], Progress] = lambda _: silent) -> Path:
    """Make a recipe's cohort and write the checksums of its voxels into the recipe.

    Returns:
        The manifest.

    Raises:
        ValueError: the recipe cannot be used, or the folder holds another cohort of that name.
    """
    recipe, manifest_path = read_recipe(path), folder / f"{path.stem}.json"
    _claim(manifest_path, recipe)
    ensure_cohort(manifest_path, recipe.cohort, progress=progress)
    found = voxel_checksums(read_manifest(manifest_path), manifest_path, progress=progress("checking volumes"))
    write_text_atomically(path, recipe.model_copy(update={"voxels_sha256": found}).model_dump_json(indent=1) + "\n")
    return manifest_path


def voxel_checksums(manifest: Manifest, manifest_path: Path, *, progress: Progress = silent) -> dict[str, str]:
    """Return the SHA-256 of the voxels of each study, volumes and masks as they are stored, whatever compressed them.

    Args:
        manifest: the cohort.
        manifest_path: where it was read from.
        progress: called after each study.
    """
    checksums = {}
    one = partial(_voxels_sha256, folder=manifest_path.parent)
    with closing(map_in_order(one, manifest.studies, workers=available_workers())) as found:
        for done, (study, sha256) in enumerate(zip(manifest.studies, found, strict=True), start=1):
            checksums[study.id] = sha256
            progress(done, len(manifest.studies))
    return checksums


def _voxels_sha256(study: StudyRecord, *, folder: Path) -> str:
    digest = hashlib.sha256()
    for volume in filter(None, (study.t2, study.dwi, study.lesions, study.gland)):
        image = nib.Nifti1Image.from_filename(folder / volume.path)
        voxels = np.asarray(image.dataobj.get_unscaled())
        little_endian = voxels.astype(voxels.dtype.newbyteorder("<"))
        digest.update(f"{little_endian.dtype.str} {voxels.shape}".encode() + little_endian.tobytes())
    return digest.hexdigest()
