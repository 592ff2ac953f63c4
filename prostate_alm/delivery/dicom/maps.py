"""What a model saw, voxel by voxel, as a DICOM Parametric Map on the frames of T2."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from highdicom import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom import codes
from prostate_alm.delivery.dicom.frames import Frames
from prostate_alm.delivery.dicom.objects import equipment, fix_what_is_drawn, new_uid, take_over_study
from prostate_alm.delivery.prediction import ModelIdentity

DECIMALS = 4
"""Of every value: finer ones differ between machines, and the same answer must give the same map."""


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
