"""The report of an answer with what belongs to it: candidates as segments, and maps, on the frames of T2.

All rest on the same images and are made together.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from highdicom import AlgorithmIdentificationSequence, VOILUTTransformation
from highdicom.color import CIELabColor
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom import codes
from prostate_alm.delivery.dicom.evidence import PRODUCT, evidence_of, selected_evidence
from prostate_alm.delivery.dicom.frames import Frames, PlacedLesions, frames_of, label_of
from prostate_alm.delivery.dicom.objects import (
    LONG_STRING,
    equipment,
    fix_what_is_drawn,
    new_uid,
    plain_text,
    take_over_study,
)
from prostate_alm.delivery.dicom.sr import placed_lesions, report_of
from prostate_alm.delivery.prediction import ModelIdentity
from prostate_alm.delivery.preprocess import map_on_t2

if TYPE_CHECKING:
    from prostate_alm.delivery.package.opened import PackedModel
    from prostate_alm.delivery.predict import StudyResult


ReportObject = Literal["sr", "seg", "map"]

SERIES_NUMBER = 9903
SERIES_DESCRIPTION = "prostate-alm lesion candidates, research use only"
DECIMALS = 4
"""Of every value of a map: finer ones differ between machines, and the same answer must give the same map."""


def report_objects(
    result: StudyResult, *, study_dir: Path | None = None, created_at: datetime | None = None
) -> dict[ReportObject, Dataset]:
    """Return the structured report and, of a model of lesions, the candidates as segments and the map of probabilities.

    Without a candidate there are no segments.

    Args:
        result: of `predict_folder`; the files of the study must still be there.
        study_dir: folder of the study; needed where it was refused.
        created_at: local time of the objects; now, if not given.

    Raises:
        EvidenceError: the refused study is not one study of one patient, or `study_dir` is missing.
        OSError: an image is gone.
    """
    created_at = created_at or datetime.now()
    evidence = evidence_of(result, study_dir)
    lesions = placed_lesions(result, evidence)
    model = result.answer.model
    made: dict[ReportObject, Dataset] = {
        "sr": report_of(result.answer, evidence, created_at=created_at, lesions=lesions)
    }
    if lesions is not None:
        probability = lesions.findings.probability
        made["map"] = map_of(model, probability, probability_quantity(), lesions.frames, created_at=created_at)
        segments = segmentation_of(model, lesions, created_at=created_at)
        if segments is not None:
            made["seg"] = segments
    return made


def saliency_map(result: StudyResult, model: PackedModel, *, created_at: datetime | None = None) -> Dataset | None:
    """Return which parts of the image raised or lowered the logit, all paths together, as a Parametric Map.

    It is what the report shows: logits per cm³, smoothed, here on the frames of T2.

    Args:
        result: of `predict_folder`; the files of the study must still be there.
        model: that answered.
        created_at: local time of the object; now, if not given.

    Returns:
        The map; None of a refused study, in which no network looked.

    Raises:
        OSError: an image is gone.
    """
    if result.volumes is None or result.image is None:
        return None
    from prostate_alm.delivery.report.saliency import saliency, smooth_per_cm3

    grid, t2, selection = result.grid or model.card.grid, result.volumes.t2, result.volumes.selection
    total = smooth_per_cm3(saliency(model, result.image), grid.spacing_mm).sum(0).astype(np.float32)
    volume = map_on_t2(total, t2, grid)
    frames = frames_of(selection, selected_evidence(selection))
    quantity = saliency_quantity(volume)
    return map_of(result.answer.model, volume, quantity, frames, created_at=created_at or datetime.now())


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


@dataclass(frozen=True)
class Quantity:
    """What the voxels of a map are: `kind` tells series apart, `low` and `high` are the window that shows it."""

    kind: str
    series_number: int
    description: str
    label: str
    concept: CodedConcept
    unit: CodedConcept
    low: float
    high: float


def probability_quantity() -> Quantity:
    """Return what a map of probabilities of a lesion is."""
    return Quantity(
        "probability", 9904, "prostate-alm lesion probability, research use only", "PROBABILITY",
        codes.PROBABILITY, codes.SHARE, 0.0, 1.0,
    )  # fmt: skip


def saliency_quantity(saliency: NDArray[np.floating]) -> Quantity:
    """Return what a map of saliency is; its window holds the greatest value of both signs."""
    most = max(float(np.abs(saliency).max()), 10.0**-DECIMALS)
    return Quantity(
        "saliency", 9905, "prostate-alm saliency, research use only", "SALIENCY",
        codes.SALIENCY, codes.LOG_ODDS_PER_CM3, -most, most,
    )  # fmt: skip


def map_of(
    model: ModelIdentity, volume: NDArray[np.floating], quantity: Quantity, frames: Frames, *, created_at: datetime
) -> Dataset:
    """Return a volume as a Parametric Map in the study of the images: float32, stored value = real value.

    Series UID = f(study, model, quantity), SOP Instance UID = f(study, model, quantity, values).

    Args:
        model: that answered.
        volume: (X, Y, Z) on the grid of T2, finite.
        quantity: what it is.
        frames: of T2.
        created_at: local time.

    Returns:
        A data set with file meta information.

    Raises:
        ValueError: the volume has another shape than T2, or a value is not finite.

    Reference:
        DICOM PS3.3 A.75, C.7.6.16.2.11 (Real World Value Mapping).
    """
    if not np.isfinite(volume).all():
        raise ValueError(f"a map must be finite, got other numbers in the {quantity.kind}. Report it.")
    planes = np.round(frames.planes(volume), DECIMALS).astype(np.float32) + np.float32(0)  # no -0
    key = (str(frames.evidence.study.StudyInstanceUID), model.sha256, quantity.kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of patients who have no birth date, until `take_over_study`
        made = ParametricMap(
            source_images=[frames.as_source()],
            pixel_array=planes,
            series_instance_uid=new_uid(*key, "series"),
            series_number=quantity.series_number,
            sop_instance_uid=new_uid(*key, hashlib.sha256(planes.tobytes()).hexdigest()),
            instance_number=1,
            series_description=quantity.description,
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[_identity(quantity, planes)],
            voi_lut_transformations=[_window(quantity)],
            content_label=quantity.label,
            content_description=f"{quantity.concept.meaning}. Research use only.",
            **frames.places(),
            **equipment(model),
        )
    made.BodyPartExamined = "PROSTATE"
    frames.refer_to_frames(made, codes.CALCULATED)
    fix_what_is_drawn(made, new_uid(*key, "dimensions"), created_at=created_at)
    take_over_study(made, frames.evidence, created_at=created_at)
    return made


def _identity(quantity: Quantity, planes: NDArray[np.float32]) -> RealWorldValueMapping:
    """Return the mapping from stored to real values: none."""
    return RealWorldValueMapping(
        lut_label=quantity.label,
        lut_explanation=quantity.concept.meaning,
        unit=quantity.unit,
        value_range=(float(min(quantity.low, planes.min())), float(max(quantity.high, planes.max()))),
        slope=1.0,
        intercept=0.0,
        quantity_definition=quantity.concept,
    )


def _window(quantity: Quantity) -> VOILUTTransformation:
    return VOILUTTransformation(
        window_center=(quantity.low + quantity.high) / 2,
        window_width=quantity.high - quantity.low,
        voi_lut_function="LINEAR_EXACT",  # LINEAR is for whole numbers: a width of 1 has no greys, less is forbidden
    )
