"""Masks that are image files: drawn on T2 or on another image of the study, brought onto the grid of T2 by label."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_alm.data.cohorts.image_files import checksum, read_volume
from prostate_alm.data.manifest import MASK_KINDS, ManifestError, MaskKind
from prostate_alm.data.masks import (
    LabelMap,
    MaskSource,
    StudyMasks,
    gland_on,
    lesions_on,
    require_labels,
    require_lattice,
)
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.segmentation import Segmentation, read_segmentation, segmentation_files
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume

_ENDINGS = (".nii.gz", ".nii", ".mha")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskFile:
    """A label map: its file, the image that it was drawn on (None: T2), and whether its labels are grades of lesions.

    Without a file, somebody looked and found nothing. Grades are the same for two lesions of one grade: each part that
    does not touch another is a lesion then.
    """

    path: Path | None
    drawn_on: Path | None = None
    graded: bool = False


@dataclass(frozen=True)
class MaskFiles:
    """The files of one study's masks."""

    lesions: MaskFile | None = None
    gland: MaskFile | None = None

    def sha256(self) -> str:
        """Return a checksum of the files, each in its role; see `MaskSource.sha256`."""
        parts = []
        for one in (self.lesions, self.gland):
            files = [] if one is None else [path for path in (one.path, one.drawn_on) if path is not None]
            parts.append(f"{checksum(*files)} {one is not None and one.graded}")
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def read(self, study: StudyVolumes) -> StudyMasks:
        """Return the masks on the grid of T2; see `MaskSource.read`."""
        labels: dict[MaskKind, LabelMap] = {}
        refused: dict[MaskKind, StudyRefused] = {}
        for kind in MASK_KINDS:
            file = getattr(self, kind)
            if file is None:
                continue
            try:
                labels[kind] = _read(file, kind, study.t2)
            except StudyRefused as error:
                refused[kind] = error
            except Exception as error:  # a mask that defeats a reader must not stop its study
                logger.debug("mask refused after an unexpected error", exc_info=True)
                refused[kind] = StudyRefused(
                    "unexpected_error",
                    f"a mask must be readable, got {type(error).__name__} while reading that of the {kind}. "
                    "Export it again, and report the error if it stays.",
                )
        return StudyMasks(labels, refused)


def _read(file: MaskFile, kind: MaskKind, t2: Volume) -> LabelMap:
    if file.path is None:
        return np.zeros(t2.voxels.shape, np.uint8)
    drawn = read_volume(file.path)
    name = file.path.name
    require_labels(drawn.voxels, name=name)
    image, image_name = (t2, "T2") if file.drawn_on is None else (read_volume(file.drawn_on), file.drawn_on.name)
    require_lattice(drawn, image, name=name, image_name=image_name)
    if kind == "gland":
        return gland_on(t2, drawn, name=name)
    if file.graded:
        drawn = Volume((drawn.voxels > 0).astype(np.float32), drawn.affine_ras_mm)
    return lesions_on(t2, drawn, name=name)


def masks_in(folder: Path) -> MaskSource | None:
    """Return the masks that a folder holds for one study: `lesions` and `gland`, as .nii.gz, .nii or .mha, or else SEG.

    Args:
        folder: of the study; it may be absent.

    Returns:
        Where there are such files, these; else the DICOM Segmentation objects in the folder; None without either.

    Raises:
        ManifestError: there are two files for one mask.
    """
    found: dict[str, MaskFile] = {}
    for kind in MASK_KINDS:
        files = [path for ending in _ENDINGS if (path := folder / f"{kind}{ending}").is_file()]
        if len(files) > 1:
            raise ManifestError(
                f"there must be one file of a mask, got {files[0].name} and {files[1].name} in {folder}. Keep one."
            )
        if files:
            found[kind] = MaskFile(files[0])
    if found:
        return MaskFiles(**found)
    return Segmentations(folder) if any(segmentation_files(folder)) else None


@dataclass(frozen=True)
class Segmentations:
    """All Segmentation objects in a folder, at any depth; other files are passed over."""

    folder: Path

    def sha256(self) -> str:
        """Return a checksum of the objects, whatever their names; see `MaskSource.sha256`."""
        return checksum(*segmentation_files(self.folder))

    def read(self, study: StudyVolumes) -> StudyMasks:
        """Return the masks on the grid of T2; a fault of any object refuses what it holds, or both masks."""
        labels: dict[MaskKind, LabelMap] = {}
        refused: dict[MaskKind, StudyRefused] = {}
        try:
            found = [_of_study(path, study.selection) for path in segmentation_files(self.folder)]
        except StudyRefused as error:
            return StudyMasks({}, dict.fromkeys(MASK_KINDS, error))
        for kind in MASK_KINDS:
            try:
                one = _agreed(found, kind, study.t2)
            except StudyRefused as error:
                refused[kind] = error
            else:
                labels |= {} if one is None else {kind: one}
        return StudyMasks(labels, refused)


def _of_study(path: Path, selection: Selection) -> Segmentation:
    """Read an object and check that it is of the study whose T2 was chosen, and of its frame of reference."""
    try:
        found = read_segmentation(path)
    except StudyRefused:
        raise
    except Exception as error:  # a header of strangers may break in any way
        logger.debug("segmentation refused after an unexpected error", exc_info=True)
        raise StudyRefused(
            "unexpected_error", f"a SEG must be readable, got {type(error).__name__} while reading it. Export it again."
        ) from error
    if selection.t2 is None:
        raise StudyRefused(
            "other_study", f"a SEG must belong to a study of DICOM images, got other files beside {found.place}."
        )
    if found.study_uid != selection.t2.study_uid:
        raise StudyRefused(
            "other_study", f"a SEG must be of the study, got another Study Instance UID in {found.place}. Remove it."
        )
    frames = {one.frame_of_reference_uid for one in selection.t2.instances}
    if found.frame_of_reference_uid not in frames or not found.frame_of_reference_uid:
        raise StudyRefused(
            "other_frame_of_reference",
            f"a SEG must be in the frame of reference of T2, got another in {found.place}. Draw it on its images.",
        )
    return found


def _agreed(found: list[Segmentation], kind: MaskKind, t2: Volume) -> LabelMap | None:
    """Return a mask on which all objects that hold it agree, None where none does."""
    maps: dict[str, LabelMap] = {}
    for one in found:
        drawn = one.volume(kind)
        if drawn is not None:
            made = (lesions_on if kind == "lesions" else gland_on)(t2, drawn, name=one.place)
            maps.setdefault(one.place, made)
            for place, other in maps.items():
                if not np.array_equal(other, made):
                    raise StudyRefused(
                        "contradictory_masks",
                        f"SEG of one study must agree, got {int((other != made).sum())} voxels of {kind} that differ "
                        f"between {place} and {one.place}. Keep the right one.",
                    )
    return next(iter(maps.values()), None)
