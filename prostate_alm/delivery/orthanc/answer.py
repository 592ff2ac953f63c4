"""What a watcher puts into a study: the report and the page of a packed model's answer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom.capture import secondary_capture
from prostate_alm.delivery.dicom.evidence import EvidenceError
from prostate_alm.delivery.dicom.results import report_objects, saliency_map
from prostate_alm.delivery.dicom.sr import structured_report
from prostate_alm.delivery.orthanc.work import ANSWERED, AnswerError, Respond, Response
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import StudyResult, predict_folder, quiet_about_values
from prostate_alm.delivery.prediction import UNEXPECTED, Refused
from prostate_alm.delivery.report.page import draw_page
from prostate_alm.delivery.report.words import Words
from prostate_alm.imaging.rulebook import Rules

Extra = Literal["refusals", "saliency"]


def responder(
    model: PackedModel,
    *,
    target_tpr: float | None = None,
    rules: Rules | None = None,
    words: Words | None = None,
    extras: Collection[Extra] = (),
) -> Respond:
    """Return what answers a study with a model: structured report and secondary capture, without identifiers in pixels.

    Of a model of lesions the segments of its candidates and the map of probabilities come with the report.

    Args:
        model: the packed model.
        target_tpr: which of the stored operating points decides; None for the model's default.
        rules: how series are chosen; None for the default ones.
        words: language and label of the page; English without a label when None.
        extras: "refusals": a refused study gets a structured report with code and reason, where it is one study;
            "saliency": an answered one gets the map of what the model looked at.

    Raises:
        ValueError: the model has no such operating point.
    """
    model.card.operating_point(target_tpr)

    @quiet_about_values()
    def respond(folder: Path) -> Response:
        result = predict_folder(folder, model, target_tpr=target_tpr, rules=rules)
        if isinstance(result.answer, Refused):
            if result.answer.code == UNEXPECTED:
                raise AnswerError(result.answer.reason)
            objects = _refusal(result, folder) if "refusals" in extras else ()
            return Response(result.answer.code, result.answer.reason, objects)
        page = draw_page(result, model, words)
        objects = (*report_objects(result).values(), secondary_capture(result, page))
        saliency = saliency_map(result, model) if "saliency" in extras else None
        return Response(ANSWERED, objects=objects if saliency is None else (*objects, saliency))

    return respond


def _refusal(result: StudyResult, folder: Path) -> tuple[Dataset, ...]:
    """Return the report of a refusal; none where nobody could know whose it is."""
    try:
        return (structured_report(result, study_dir=folder),)
    except EvidenceError:
        return ()
