"""Synthetic cohorts as recipes: what to make, and the checksums of what comes out; the data are made when needed."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prostate_alm.data.build import check_b_values
from prostate_alm.data.manifest import Manifest, StudyRecord, read_manifest
from prostate_alm.data.synthetic import SyntheticCohort, ensure_cohort
from prostate_alm.parallel import available_workers, map_in_order
from prostate_alm.phantom.cohort import PHANTOM_VERSION
from prostate_alm.progress import Progress, silent
from prostate_alm.shipped import find_recipe
from prostate_alm.whole_files import write_text_atomically

NOTE = "recipe.json"
"""Beside the volumes of a cohort: what they were made from, and the outcome of the comparison with the checksums."""

logger = logging.getLogger(__name__)


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
