"""The answer for a study as a DICOM structured report (TID 1500) that belongs to the study itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from highdicom import sr
from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom import codes
from prostate_alm.delivery.dicom.evidence import PRODUCT, Evidence, Reference, ReferencedStack, evidence_of
from prostate_alm.delivery.dicom.frames import PlacedLesions, frames_of
from prostate_alm.delivery.dicom.objects import (
    LONG_STRING,
    equipment,
    new_uid,
    plain_text,
    take_over_study,
)
from prostate_alm.delivery.dicom.sr_lesions import lesion_groups, surest_place
from prostate_alm.delivery.prediction import NOTICE, Answer, ModelIdentity, Prediction, Refused

if TYPE_CHECKING:
    from prostate_alm.delivery.predict import StudyResult

SERIES_NUMBER = 9901
"""High, so that an archive lists it below the images."""
SERIES_DESCRIPTION = "prostate-alm report, research use only"
DECIMALS = 4
"""Of every number: finer ones differ between machines, and the same answer must give the same report."""

_CONTAINS = sr.RelationshipTypeValues.CONTAINS
_CONTEXT = sr.RelationshipTypeValues.HAS_ACQ_CONTEXT


def structured_report(
    result: StudyResult, *, study_dir: Path | None = None, created_at: datetime | None = None
) -> Dataset:
    """Return the answer as a structured report in the study of the images, unverified and preliminary.

    It is a Comprehensive SR, with lesion candidates a Comprehensive 3D SR with a measurement group for each.

    Series UID = f(study, model), SOP Instance UID = f(study, model, content): the same answer gives the same
    identifiers, a different one (another operating point, say) another object in the same series.

    Args:
        result: of `predict_folder`; the files of the study must still be there.
        study_dir: folder of the study; needed where it was refused, since nothing of it was selected.
        created_at: local time of the report, the only part that depends on the clock; now, if not given.

    Returns:
        A data set with file meta information: `save_as(path, enforce_file_format=True)` writes it.

    Raises:
        EvidenceError: the refused study is not one study of one patient, or `study_dir` is missing.
        OSError: an image is gone.

    Reference:
        DICOM PS3.16 TID 1500, TID 1410, TID 1501, TID 1600.
    """
    evidence = evidence_of(result, study_dir)
    lesions = placed_lesions(result, evidence)
    return report_of(result.answer, evidence, created_at=created_at or datetime.now(), lesions=lesions)


def placed_lesions(result: StudyResult, evidence: Evidence) -> PlacedLesions | None:
    """Return what a model of lesions found, on the images of T2; None of other models, and of a refused study."""
    if result.lesions is None or result.volumes is None:
        return None
    return PlacedLesions(result.lesions, frames_of(result.volumes.selection, evidence))


def report_of(
    answer: Answer, evidence: Evidence, *, created_at: datetime, lesions: PlacedLesions | None = None
) -> Dataset:
    """Return the report of an answer on the given images; see `structured_report`."""
    key = (str(evidence.study.StudyInstanceUID), answer.model.sha256, "report")
    content = _content(answer, evidence, key=key, lesions=lesions)
    kind = sr.Comprehensive3DSR if _is_3d(lesions) else sr.ComprehensiveSR
    report = kind(
        evidence=_as_datasets(evidence),
        content=_without_images(content),
        series_instance_uid=new_uid(*key, "series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=new_uid(*key, _digest(content)),
        instance_number=1,
        is_complete=isinstance(answer, Prediction),
        is_final=False,
        is_verified=False,
        series_description=SERIES_DESCRIPTION,
        coding_schemes=[codes.private_scheme()],
        content_date=created_at.date(),
        content_time=created_at.time().replace(microsecond=0),
        **equipment(answer.model),
    )
    report.ContentSequence = content.ContentSequence
    if isinstance(answer, Refused):
        report.CompletionFlagDescription = plain_text(f"Refused: {answer.code}", LONG_STRING)
    take_over_study(report, evidence, created_at=created_at)
    return report


def _is_3d(lesions: PlacedLesions | None) -> bool:
    """Return whether a report holds places: without a candidate it is like that of any other model."""
    return lesions is not None and bool(lesions.candidates)


def _without_images(content: Dataset) -> Dataset:
    """Return the root without what refers to images, which highdicom copies and searches in a third of the time.

    It looks for images that are no evidence; here all are.
    """
    root = Dataset()
    for element in content:
        if element.keyword != "ContentSequence":
            root.add(element)
    root.ContentSequence = [one for one in content.ContentSequence if one.ValueType != "CONTAINER"]
    return root


def _content(answer: Answer, evidence: Evidence, *, key: tuple[str, ...], lesions: PlacedLesions | None) -> Dataset:
    """Return the root of the content tree."""
    groups = [] if lesions is None else lesion_groups(answer.model, lesions, algorithm=_algorithm(answer))
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(answer.model)),
        procedure_reported=codes.PROCEDURE,
        imaging_measurements=[_group(answer, evidence, key=key, lesions=lesions), *groups],
        title=codes.MEASUREMENT_REPORT if _is_3d(lesions) else codes.TITLE,
    )
    root = report[0]
    measurements = root.ContentSequence.pop()  # the template wants notice and images before them
    notice = f"{NOTICE} The model was trained on synthetic data." if answer.model.data_is_synthetic else NOTICE
    root.ContentSequence.append(_text(codes.SUMMARY, _summary(answer, lesions)))
    root.ContentSequence.append(_text(codes.NOTICE, notice))
    root.ContentSequence.append(_library(evidence))
    root.ContentSequence.append(measurements)
    _separate(root)
    return root


def _summary(answer: Answer, lesions: PlacedLesions | None) -> str:
    """Return the result in a line, which a viewer shows before the list of images."""
    if isinstance(answer, Refused):
        return f"Refused ({answer.code}): {answer.reason}"
    point = answer.operating_point
    threshold = "" if point.threshold_probability is None else f" (threshold {point.threshold_probability:.3f})"
    return (
        f"{answer.decision.capitalize()} at the operating point for a sensitivity of {point.target_tpr:g}; "
        f"probability of {_critical(answer)} {answer.probability:.3f}{threshold}; "
        f"reasons to distrust it: {len(answer.warnings) or 'none'}{_candidates(lesions)}"
    )


def _candidates(lesions: PlacedLesions | None) -> str:
    if lesions is None:
        return ""
    sure = f", the surest with probability {lesions.candidates[0].probability:.2f}" if lesions.candidates else ""
    return f"; lesion candidates: {len(lesions.candidates) or 'none'}{sure}"


def _critical(answer: Prediction) -> str:
    """Return which class the decision is about, and, of several, what the study is called."""
    return "the critical class" if answer.classes is None else f"the critical class, {answer.classes.critical},"


def _separate(item: Dataset) -> None:
    """Say of each container that its items stand on their own: viewers join continuous ones to a text without names."""
    if item.ValueType == "CONTAINER":
        item.ContinuityOfContent = "SEPARATE"
    for inner in item.get("ContentSequence", ()):
        _separate(inner)


def _observer(model: ModelIdentity) -> sr.ObserverContext:
    """Return who observed: no person, a packed model; its UID is the same for every study."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=new_uid("model", model.sha256),
        name=PRODUCT,
        manufacturer_name=PRODUCT,
        model_name=plain_text(f"{model.name} {model.version}"),
        serial_number=model.sha256,
    )
    return sr.ObserverContext(observer_type=codes.DEVICE, observer_identifying_attributes=device)


def _library(evidence: Evidence) -> sr.ContainerContentItem:
    """Return the images, one group a volume (TID 1600)."""
    library = sr.ContainerContentItem(codes.IMAGE_LIBRARY, relationship_type=_CONTAINS)
    library.ContentSequence = sr.ContentSequence([_library_group(stack) for stack in evidence.stacks])
    return library


def _library_group(stack: ReferencedStack) -> sr.ContainerContentItem:
    """Return the images of one volume with what they have in common (TID 1601)."""
    group = sr.ContainerContentItem(codes.IMAGE_LIBRARY_GROUP, relationship_type=_CONTAINS)
    name = sr.TextContentItem(codes.GROUP_NAME, plain_text(stack.name), relationship_type=_CONTEXT)
    items: list[sr.ContentItem] = [name]
    if stack.b_value_s_per_mm2 is not None:
        b_value = stack.b_value_s_per_mm2
        items.append(sr.NumContentItem(codes.B_VALUE, b_value, codes.S_PER_MM2, relationship_type=_CONTEXT))
    for one in stack.references:
        items.append(
            sr.ImageContentItem(
                codes.SOURCE,
                one.sop_class_uid,
                one.sop_instance_uid,
                referenced_frame_numbers=list(one.frames) or None,
                relationship_type=_CONTAINS,
            )
        )
    group.ContentSequence = sr.ContentSequence(items)
    return group


def _group(
    answer: Answer, evidence: Evidence, *, key: tuple[str, ...], lesions: PlacedLesions | None
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Return the measurement group (TID 1501): numbers and judgements, then text."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=new_uid(*key, "tracking"), identifier=PRODUCT),
        finding_type=codes.CRITICAL_CLASS,
        finding_sites=[sr.FindingSite(codes.PROSTATE)],
        algorithm_id=_algorithm(answer),
        measurements=list(_measurements(answer, lesions)) if isinstance(answer, Prediction) else None,
        qualitative_evaluations=list(_judgements(answer)),
    )
    group[0].ContentSequence.extend(_texts(answer))
    if isinstance(answer, Prediction) and not _is_3d(lesions):  # last, since a viewer shows them one by one
        group[0].ContentSequence.extend(_source(one) for one in evidence.references)
    return group


def _algorithm(answer: Answer) -> sr.AlgorithmIdentification:
    """Return which algorithm answered (TID 4019)."""
    model = answer.model
    parameters = [
        f"SHA-256 of the packed model: {model.sha256}",
        f"members of the ensemble: {model.members}",
        f"trained on: {model.trained_on}",
        *(f"{name} {version}" for name, version in sorted(answer.software.items())),
    ]
    return sr.AlgorithmIdentification(
        name=plain_text(f"{PRODUCT}: {model.name}"),
        version=plain_text(model.version),
        parameters=[plain_text(one) for one in parameters],
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def _measurements(answer: Prediction, lesions: PlacedLesions | None) -> Iterator[sr.Measurement]:
    """Yield the numbers of an answer (TID 300)."""
    logits, point = answer.member_logits, answer.operating_point
    yield _measurement(codes.PROBABILITY, answer.probability, unit=codes.SHARE, places=surest_place(lesions))
    if point.threshold_probability is not None:
        yield _measurement(codes.THRESHOLD, point.threshold_probability, unit=codes.SHARE)
    yield _measurement(codes.LOGIT, answer.logit, derivation=codes.MEAN)
    yield _measurement(codes.LOGIT, answer.logit_std, derivation=codes.STANDARD_DEVIATION)
    yield _measurement(codes.LOGIT, min(logits), derivation=codes.MINIMUM)
    yield _measurement(codes.LOGIT, max(logits), derivation=codes.MAXIMUM)
    yield _measurement(codes.THRESHOLD_LOGIT, point.threshold)
    yield _measurement(codes.TARGET_SENSITIVITY, point.target_tpr, unit=codes.SHARE)
    for name, probability in answer.classes.probabilities.items() if answer.classes else ():
        yield _measurement(codes.probability_of(plain_text(name)), probability, unit=codes.SHARE)


def _measurement(
    name: sr.CodedConcept,
    value: float,
    *,
    unit: sr.CodedConcept = codes.LOG_ODDS,
    derivation: sr.CodedConcept | None = None,
    places: Sequence[sr.CoordinatesForMeasurement3D] | None = None,
) -> sr.Measurement:
    """Return one number; adding 0 turns -0 into 0."""
    return sr.Measurement(
        name, round(value, DECIMALS) + 0.0, unit, derivation=derivation, referenced_coordinates=places
    )


def _judgements(answer: Answer) -> Iterator[sr.QualitativeEvaluation]:
    """Yield what an answer says in codes."""
    if isinstance(answer, Refused):
        yield sr.QualitativeEvaluation(codes.STATUS, codes.NOT_ATTEMPTED)
        return
    yield sr.QualitativeEvaluation(codes.STATUS, codes.SUCCEEDED)
    yield sr.QualitativeEvaluation(codes.DECISION, codes.POSITIVE if answer.decision == "positive" else codes.NEGATIVE)
    if answer.classes is not None:
        yield sr.QualitativeEvaluation(codes.CLASS_CALLED, codes.class_concept(plain_text(answer.classes.called)))
    yield sr.QualitativeEvaluation(codes.QUALITY, codes.FOUND if answer.warnings else codes.NONE_FOUND)


def _texts(answer: Answer) -> Iterator[sr.TextContentItem]:
    """Yield what an answer says in words."""
    if isinstance(answer, Refused):
        yield _text(codes.REFUSAL_CODE, answer.code)
        yield _text(codes.REFUSAL_REASON, answer.reason)
        return
    yield from (_text(codes.WARNING, f"{one.code}: {one.message}") for one in answer.warnings)
    point = answer.operating_point
    yield _text(
        codes.OPERATING_POINT,
        f"positive where logit >= {point.threshold:.{DECIMALS}f}, chosen for sensitivity {point.target_tpr:g}; on "
        f"{point.positives} positive and {point.negatives} negative validation studies: sensitivity {point.tpr:.3f} "
        f"(95 % interval {point.tpr_low:.3f} to {point.tpr_high:.3f}), false-positive rate {point.fpr:.3f} "
        f"({point.fpr_low:.3f} to {point.fpr_high:.3f})",
    )
    if answer.classes is not None:
        yield _text(codes.CRITICAL_CLASS_NAME, answer.classes.critical)
    yield _text(codes.MEMBER_LOGITS, ", ".join(f"{one:.{DECIMALS}f}" for one in answer.member_logits))
    yield _text(codes.B_VALUES, _b_values(answer))


def _b_values(answer: Prediction) -> str:
    """Return which b-values the scanner measured and which ones were computed from them."""
    acquired = ", ".join(f"{one:g}" for one in answer.b_values_acquired_s_per_mm2)
    seen = (
        f"{value:g} ({'computed' if is_computed else 'acquired'})"
        for value, is_computed in zip(answer.b_values_s_per_mm2, answer.b_values_computed, strict=True)
    )
    return f"acquired {acquired} s/mm2; seen by the model {', '.join(seen)}"


def _text(name: sr.CodedConcept, value: str) -> sr.TextContentItem:
    return sr.TextContentItem(name, plain_text(value), relationship_type=_CONTAINS)


def _source(one: Reference) -> sr.SourceImageForMeasurementGroup:
    return sr.SourceImageForMeasurementGroup(
        one.sop_class_uid, one.sop_instance_uid, referenced_frame_numbers=list(one.frames) or None
    )


def _digest(content: Dataset) -> str:
    """Return the SHA-256 of a content tree."""
    return hashlib.sha256(content.to_json().encode()).hexdigest()


def _as_datasets(evidence: Evidence) -> list[Dataset]:
    """Return the references in highdicom's form; patient and study stay empty here, `take_over_study` fills them."""
    made = []
    for one in evidence.references:
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = evidence.study.StudyInstanceUID, one.series_uid
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(dataset, keyword, None)
        dataset.StudyDate = dataset.StudyTime = None
        made.append(dataset)
    return made
