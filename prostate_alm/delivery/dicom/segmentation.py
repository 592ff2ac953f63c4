"""The candidates of an answer as a DICOM Segmentation: one segment each, on the frames of T2."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from datetime import datetime

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom import codes
from prostate_alm.delivery.dicom.evidence import PRODUCT
from prostate_alm.delivery.dicom.frames import PlacedLesions, label_of
from prostate_alm.delivery.dicom.objects import (
    LONG_STRING,
    equipment,
    fix_what_is_drawn,
    new_uid,
    plain_text,
    take_over_study,
)
from prostate_alm.delivery.prediction import ModelIdentity

SERIES_NUMBER = 9903
SERIES_DESCRIPTION = "prostate-alm lesion candidates, research use only"


def segmentation_of(model: ModelIdentity, lesions: PlacedLesions, *, created_at: datetime) -> Dataset | None:
    """Return the candidates of a study as a binary Segmentation in the study of the images.

    Segment n is candidate n; its Tracking UID is that of the candidate's measurements in the report. Frames lie on
    those of T2; empty ones are left out. Series UID = f(study, model), SOP Instance UID = f(study, model, labels).

    Args:
        model: that answered.
        lesions: what it found.
        created_at: local time.

    Returns:
        A data set with file meta information; None without a candidate, since a Segmentation has one segment or more.

    Reference:
        DICOM PS3.3 A.51, C.8.20.
    """
    if not lesions.candidates:
        return None
    frames = lesions.frames
    labels = frames.planes(lesions.findings.labels)
    key = (str(frames.evidence.study.StudyInstanceUID), model.sha256, "lesions")
    content = hashlib.sha256(labels.tobytes()).hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of patients who have no birth date, until `take_over_study`
        made = Segmentation(
            source_images=[frames.as_source()],
            pixel_array=labels,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=list(_segments(model, lesions)),
            series_instance_uid=new_uid(*key, "series"),
            series_number=SERIES_NUMBER,
            sop_instance_uid=new_uid(*key, content),
            instance_number=1,
            series_description=SERIES_DESCRIPTION,
            content_label="LESIONS",
            content_description="Candidates of lesions, found by a program. Research use only.",
            **frames.places(),
            **equipment(model),
        )
    frames.refer_to_frames(made, codes.SEGMENTED)
    fix_what_is_drawn(made, new_uid(*key, "dimensions"), created_at=created_at)
    take_over_study(made, frames.evidence, created_at=created_at)
    return made


def _segments(model: ModelIdentity, lesions: PlacedLesions) -> Iterator[SegmentDescription]:
    algorithm = AlgorithmIdentificationSequence(
        name=plain_text(f"{PRODUCT}: {model.name}", LONG_STRING),
        family=codes.ARTIFICIAL_INTELLIGENCE,
        version=plain_text(model.version, LONG_STRING),
        parameters={"sha256": model.sha256},
    )
    for one in lesions.candidates:
        yield SegmentDescription(
            segment_number=one.number,
            segment_label=label_of(one),
            segmented_property_category=codes.ABNORMAL_STRUCTURE,
            segmented_property_type=codes.LESION,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=lesions.uid_of(model, one),
            tracking_id=label_of(one),
            anatomic_regions=[codes.PROSTATE],
            display_color=_colour(one.number),
        )


def _colour(number: int) -> CIELabColor:
    """Return the colour of a candidate: red, and towards yellow the less sure it is."""
    towards_yellow = 1 - 0.6 ** (number - 1)
    red, yellow = np.array([53.0, 80.0, 67.0]), np.array([97.0, -21.0, 94.0])  # L*, a*, b*
    return CIELabColor(*(red + towards_yellow * (yellow - red)).tolist())
