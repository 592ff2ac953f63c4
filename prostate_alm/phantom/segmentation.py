"""The masks of a synthetic study as a DICOM Segmentation object, as a reader's workstation would have sent it."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.sr.coding import Code
from pydicom.uid import UID

from prostate_alm.phantom.dicom import FIXED_DATE, FIXED_TIME, derived_uid
from prostate_alm.phantom.masks import PhantomMasks, render_masks
from prostate_alm.phantom.study import StudyPlan

SERIES_NUMBER = 100
_SEGMENTS = {
    "gland": ("Prostate", Code("123037004", "SCT", "Anatomical Structure"), Code("41216001", "SCT", "Prostate")),
    "lesions": (
        "Lesion 1",
        Code("49755003", "SCT", "Morphologically Altered Structure"),
        Code("52988006", "SCT", "Lesion"),
    ),
}


def write_segmentation(plan: StudyPlan, study_dir: Path, path: Path) -> Path:
    """Write the gland and, where somebody could outline it, the lesion of a study as one Segmentation object.

    Without a lesion its segment is described and has no frame: somebody looked and found none.

    Args:
        plan: what the study was drawn from.
        study_dir: its DICOM files, whose axial T2 the object refers to.
        path: the file to write; its folder is made where absent.

    Returns:
        `path`.

    Raises:
        ValueError: the folder is not that of the study.

    Reference:
        DICOM PS3.3 A.51 (Segmentation IOD).
    """
    images = [pydicom.dcmread(one) for one in sorted(study_dir.glob("*-t2-axial/*.dcm"))]
    masks = render_masks(plan)
    if len(images) != len(masks.gland) or images[0].StudyInstanceUID != derived_uid(plan.uid_key, "study"):
        raise ValueError(
            f"study_dir must be that of {plan.identifier}, got another or none in {study_dir}. Write the study first."
        )
    normal = np.cross(masks.grid.steps_mm[0], masks.grid.steps_mm[1])
    images.sort(key=lambda image: float(np.dot(image.ImagePositionPatient, normal)))
    path.parent.mkdir(parents=True, exist_ok=True)
    made = _object(images, masks, uid_key=plan.uid_key)
    _fix_what_is_drawn(made, uid_key=plan.uid_key)
    made.save_as(path)
    return path


def _fix_what_is_drawn(made: Any, *, uid_key: str) -> None:
    """Replace the clock and the random identifiers of highdicom, in place: the same plan gives the same bytes."""
    made.SeriesDate = made.ContentDate = made.InstanceCreationDate = FIXED_DATE
    made.SeriesTime = made.ContentTime = made.InstanceCreationTime = FIXED_TIME
    for equipment in made.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = FIXED_DATE + FIXED_TIME
    for one in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        one.DimensionOrganizationUID = derived_uid(uid_key, "dimensions", SERIES_NUMBER)


def _object(images: Sequence[pydicom.Dataset], masks: PhantomMasks, *, uid_key: str) -> Segmentation:
    arrays = {"gland": masks.gland} | ({} if masks.lesions is None else {"lesions": masks.lesions})
    segments = [
        SegmentDescription(number, *_SEGMENTS[kind], SegmentAlgorithmTypeValues.MANUAL)
        for number, kind in enumerate(arrays, start=1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of phantoms whose patients have no birth date
        return Segmentation(
            source_images=images,
            pixel_array=np.stack(list(arrays.values()), axis=-1),  # (K, J, I, segments)
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=segments,
            series_instance_uid=UID(derived_uid(uid_key, "series", SERIES_NUMBER)),
            series_number=SERIES_NUMBER,
            sop_instance_uid=UID(derived_uid(uid_key, "instance", SERIES_NUMBER, 1)),
            instance_number=1,
            manufacturer="prostate-alm",
            manufacturer_model_name="phantom",
            software_versions="phantom",
            device_serial_number="1",
            content_label="MASKS",
        )
