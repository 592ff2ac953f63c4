"""Masks that are DICOM Segmentation objects of the study: they name it, and must not contradict one another."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prostate_alm.data.cohorts.image_files import checksum
from prostate_alm.data.manifest import MASK_KINDS, MaskKind
from prostate_alm.data.masks import LabelMap, StudyMasks, gland_on, lesions_on
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.segmentation import Segmentation, read_segmentation, segmentation_files
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume

logger = logging.getLogger(__name__)


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
