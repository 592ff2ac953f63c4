"""The report of an answer with the images that belong to it: all rest on the same images and are made together."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom.evidence import evidence_of, selected_evidence
from prostate_alm.delivery.dicom.frames import frames_of
from prostate_alm.delivery.dicom.maps import map_of, probability_quantity, saliency_quantity
from prostate_alm.delivery.dicom.segmentation import segmentation_of
from prostate_alm.delivery.dicom.sr import placed_lesions, report_of
from prostate_alm.delivery.preprocess import map_on_t2

if TYPE_CHECKING:
    from prostate_alm.delivery.package.opened import PackedModel
    from prostate_alm.delivery.predict import StudyResult

ReportObject = Literal["sr", "seg", "map"]


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
