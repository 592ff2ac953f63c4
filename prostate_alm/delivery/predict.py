"""One study to one answer: a probability and a decision with all that it rests on, or a refusal with the reason."""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from prostate_alm import __version__
from prostate_alm.data.gland import Localises
from prostate_alm.delivery.card import GridSpec, ModelCard, PlattCalibration, StoredOperatingPoint
from prostate_alm.delivery.gland import CroppedGrid, crop_grid, crop_place, gland_warnings
from prostate_alm.delivery.lesions import LesionFindings, lesion_warnings, study_lesions
from prostate_alm.delivery.prediction import (
    UNEXPECTED,
    AppliedOperatingPoint,
    Identity,
    ModelIdentity,
    Prediction,
    Refused,
    UsedSeries,
    schema_version_for,
)
from prostate_alm.delivery.preprocess import cropped_channels, network_input, normalised_image
from prostate_alm.delivery.quality import acquisition_of, model_warnings, quality_warnings
from prostate_alm.delivery.scores import calibrated, classes_answer, critical_logits, member_logits, study_logits
from prostate_alm.delivery.sources import content_sha256
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.folder import Identifiers, identifiers_of
from prostate_alm.imaging.rulebook import Rules, default_rules
from prostate_alm.imaging.selection import Refusal, Selection
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import StudyVolumes, load_selection

if TYPE_CHECKING:
    from prostate_alm.delivery.package.described import DescribedModel
    from prostate_alm.delivery.package.opened import PackedModel

    Described = DescribedModel | PackedModel


@contextmanager
def quiet_about_values() -> Iterator[None]:
    """Keep warnings and log lines of pydicom and highdicom back; a context, or a decorator."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [one.disabled for one in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)(\.|$)")
        for one in loggers:
            one.disabled = True
        try:
            yield
        finally:
            for one, was in zip(loggers, before, strict=True):
                one.disabled = was


__all__ = [
    "StudyReading",
    "StudyResult",
    "answer_reading",
    "network_input",
    "predict_folder",
    "read_folder",
    "refused_source",
]


_PACKAGES = ("SimpleITK", "numpy", "pydicom", "torch")  # those that a number of the answer may depend on
_Outcome = TypeVar("_Outcome")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StudyResult:
    """An answer with what it was made of: volumes on the T2 grid, the network's input (C, X, Y, Z); None if refused.

    `lesions` is where a lesion model sees them; None of other models. `grid` says where the image lies in T2; None for
    the model's own, whose crop is around the middle.
    """

    answer: Prediction | Refused
    volumes: StudyVolumes | None
    image: torch.Tensor | None
    lesions: LesionFindings | None = None
    grid: GridSpec | None = None


@dataclass(frozen=True, eq=False)
class _Asked:
    """What is the same in the answer and in the refusal of a study."""

    folder: Path
    place: str | None  # as the user knows it; None where nothing may identify the study
    source_sha256: str | None
    model: ModelIdentity
    software: dict[str, str]


@dataclass(frozen=True, eq=False)
class StudyReading:
    """A study before any network has seen it: volumes on the T2 grid, channels and image (C, X, Y, Z), or why not."""

    asked: _Asked
    selection: Selection | None = None
    refusal: Refusal | None = None
    volumes: StudyVolumes | None = None
    channels: NDArray[np.float32] | None = None
    image: torch.Tensor | None = None
    cropped: CroppedGrid | None = None


@quiet_about_values()
def predict_folder(
    directory: Path,
    model: PackedModel,
    *,
    target_tpr: float | None = None,
    identify: bool = False,
    rules: Rules | None = None,
    place: str | None = None,
    source_sha256: str | None = None,
) -> StudyResult:
    """Answer the study in a folder; a study that cannot be used is a refusal and raises nothing.

    logit = mean of the members' logits; probability = sigmoid(slope · logit + intercept); positive where
    logit >= threshold of the operating point.

    Args:
        directory: a folder that holds one study, under any names.
        model: the packed model.
        target_tpr: which of the stored operating points decides; None for the model's default.
        identify: put the identifiers of the study into the answer.
        rules: how series are chosen; `rules.json` when None.
        place: what `identify` gives as path; None for the folder.
        source_sha256: digest of the folder's contents where it is known already; None to compute it.

    Raises:
        ValueError: the model has no such operating point.
        NotADirectoryError: there is no such folder.

    Reference:
        Section 5.2 of the paper.
    """
    point = model.card.operating_point(target_tpr)
    read = partial(read_folder, directory, model, localiser=model.localiser)
    reading = read(identify=identify, rules=rules, place=place, source_sha256=source_sha256)
    image = reading.image
    logits = Refusal("", "") if image is None else _guarded(lambda: member_logits(model.network, image[None])[0])
    if isinstance(logits, Refusal):
        reading = reading if image is None else replace(reading, refusal=logits)
        return answer_reading(reading, model, torch.empty(0, 1), point=point)
    return answer_reading(reading, model, logits, point=point)


@quiet_about_values()
def read_folder(
    directory: Path,
    model: Described,
    *,
    identify: bool = False,
    rules: Rules | None = None,
    place: str | None = None,
    source_sha256: str | None = None,
    localiser: Localises | None = None,
) -> StudyReading:
    """Read the study in a folder up to the image that a network sees; see `predict_folder`.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not directory.is_dir():
        raise NotADirectoryError(f"study must be an existing folder, got {directory}. Check the path.")
    known_as = (place or str(directory)) if identify else None
    digest = _guarded(lambda: source_sha256 or content_sha256(directory))
    known = None if isinstance(digest, Refusal) else digest
    asked = _Asked(directory, known_as, known, model.identity, software_of(rules))
    selection = _guarded(lambda: explain_study(directory, rules=rules))
    if isinstance(digest, Refusal):
        return StudyReading(asked, refusal=digest)
    if isinstance(selection, Refusal):
        return StudyReading(asked, refusal=selection)
    reading = _guarded(lambda: _read(asked, selection, model.card, localiser, rules=rules))
    return StudyReading(asked, selection, reading) if isinstance(reading, Refusal) else reading


def answer_reading(
    reading: StudyReading, model: Described, logits: torch.Tensor, *, point: StoredOperatingPoint
) -> StudyResult:
    """Return the answer for a study that was read: a refusal where it was refused, whatever the logits are.

    Args:
        reading: of `read_folder`.
        model: the packed model.
        logits: of its members on the image, in order, (M, 1), (M, K) of several classes, or maps (M, 1, X, Y, Z).
        point: the operating point that decides.
    """
    if reading.refusal is not None:
        return _refused(reading.asked, reading.refusal, selection=reading.selection)
    outcome = _guarded(lambda: _answered(reading, model, logits, point=point))
    return _refused(reading.asked, outcome, selection=reading.selection) if isinstance(outcome, Refusal) else outcome


def refused_source(
    refusal: Refusal,
    model: ModelIdentity,
    *,
    source_sha256: str | None,
    rules: Rules | None = None,
    place: str | None = None,
) -> Refused:
    """Return the answer for files of which no study could be read, such as a damaged archive.

    Args:
        refusal: why.
        model: who was asked.
        source_sha256: digest of the file, None where it cannot be read.
        rules: how series would have been chosen.
        place: path of the file; None where nothing may identify it.
    """
    return Refused(
        study=None,
        code=refusal.code,
        reason=refusal.reason,
        series=(),
        model=model,
        software=software_of(rules),
        source_sha256=source_sha256,
        identity=None if place is None else _unread(place),
    )


def _guarded(action: Callable[[], _Outcome]) -> _Outcome | Refusal:
    """Return what an action returns, or why it could not: one bad study must not stop the others."""
    try:
        return action()
    except StudyRefused as refused:
        return Refusal(refused.code, refused.reason)
    except Exception as error:
        # where it happened, without the error's own words: those of the system hold paths
        logger.debug("study refused after an unexpected error\n%s", "".join(traceback.format_tb(error.__traceback__)))
        return Refusal(
            UNEXPECTED,
            f"study must be readable, got {type(error).__name__} while answering it. "
            "See what `prostate-alm study explain` says of its folder, and report the error.",
        )


def _read(
    asked: _Asked, selection: Selection, card: ModelCard, localiser: Localises | None, *, rules: Rules | None
) -> StudyReading:
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        volumes = load_selection(selection, b_values_s_per_mm2=card.grid.b_values_s_per_mm2, rules=rules)
        cropped = crop_grid(card.grid, volumes.t2, spec=card.gland, localiser=localiser)
        channels = cropped_channels(volumes, cropped.grid)  # (C, X, Y, Z)
    if not np.isfinite(channels).all():
        raise StudyRefused("no_finite_signal", "signal must be finite, got other numbers. Send the study again.")
    return StudyReading(asked, selection, None, volumes, channels, normalised_image(channels, cropped.grid), cropped)


def _answered(
    reading: StudyReading, model: Described, outputs: torch.Tensor, *, point: StoredOperatingPoint
) -> StudyResult:
    asked, selection, volumes, channels = reading.asked, reading.selection, reading.volumes, reading.channels
    cropped = reading.cropped
    if selection is None or volumes is None or channels is None or cropped is None:
        raise ValueError("reading must hold the volumes of a study that is answered, got none.")
    logits = study_logits(outputs, model.card.network)
    logit, of_members = critical_logits(logits, model.card.classes)
    classes = classes_answer(logits, model.card, point)
    lesions, lesion_point = study_lesions(outputs, volumes.t2, model.card, point=point, cropped=cropped)
    crop = crop_place(cropped)
    answer = Prediction(
        schema_version=schema_version_for(classes, None if lesions is None else lesions.candidates, crop),
        study=_pseudonym(selection) or "",
        probability=calibrated(logit, model.card.calibration),
        decision="positive" if logit >= point.threshold else "negative",
        logit=logit,
        logit_std=statistics.stdev(of_members) if len(of_members) > 1 else 0.0,
        member_logits=of_members,
        operating_point=_applied(point, model.card.calibration),
        b_values_s_per_mm2=volumes.b_values_s_per_mm2,
        b_values_acquired_s_per_mm2=volumes.b_values_acquired_s_per_mm2,
        b_values_computed=volumes.b_values_computed,
        series=_series(selection, is_named=True),
        warnings=(
            *model_warnings(model.card, point),
            *quality_warnings(volumes, channels, card=model.card, member_logits=of_members),
            *gland_warnings(cropped),
            *(() if lesions is None or lesion_point is None else lesion_warnings(lesions, lesion_point)),
        ),
        model=asked.model,
        software=asked.software,
        source_sha256=asked.source_sha256,
        acquisition=acquisition_of(volumes, channels),
        identity=_identity(asked, selection),
        classes=classes,
        lesions=None if lesions is None else lesions.candidates,
        lesion_point=lesion_point,
        crop=crop,
    )
    return StudyResult(answer, volumes, reading.image, lesions, cropped.grid)


def _applied(point: StoredOperatingPoint, calibration: PlattCalibration) -> AppliedOperatingPoint:
    """Return an operating point as an answer holds it."""
    stored = {name: getattr(point, name) for name in AppliedOperatingPoint.model_fields if hasattr(point, name)}
    return AppliedOperatingPoint(**stored, threshold_probability=calibrated(point.threshold, calibration))


def _refused(asked: _Asked, refusal: Refusal, *, selection: Selection | None) -> StudyResult:
    answer = Refused(
        study=None if selection is None else _pseudonym(selection),
        code=refusal.code,
        reason=refusal.reason,
        series=() if selection is None else _series(selection, is_named=asked.place is not None),
        model=asked.model,
        software=asked.software,
        source_sha256=asked.source_sha256,
        identity=_identity(asked, selection),
    )
    return StudyResult(answer, None, None)


def _pseudonym(selection: Selection) -> str | None:
    """Return the study's name in all that is written: a digest, None where there is not exactly one study."""
    uids = {one.series.study_uid for one in selection.series}
    return hashlib.sha256(uids.pop().encode()).hexdigest()[:16] if len(uids) == 1 else None


def _series(selection: Selection, *, is_named: bool) -> tuple[UsedSeries, ...]:
    """Return the series of an answer; `is_named` tells whether with the words that somebody typed at the scanner."""
    used = {one.uid for one in selection.used} if selection.refused is None else set()
    return tuple(
        UsedSeries(
            series_number=one.series.number,
            description=one.series.description if is_named else "",
            role=one.role,
            used=one.series.uid in used,
            b_values_s_per_mm2=one.series.b_values_s_per_mm2,
            reason=one.reason,
        )
        for one in selection.series
    )


def _identity(asked: _Asked, selection: Selection | None) -> Identity | None:
    """Return the identifiers of a study where the user asked for them."""
    if asked.place is None:
        return None
    images = [image for one in selection.series for image in one.series.instances] if selection else []
    if not images:
        return _unread(asked.place)
    found = identifiers_of(images[0].pixels.path) or Identifiers()
    return Identity(
        path=_written(asked.place),
        patient_id=found.patient_id,
        study_instance_uid=found.study_uid,
        accession_number=found.accession_number,
    )


def _unread(place: str) -> Identity:
    return Identity(path=_written(place), patient_id="", study_instance_uid="", accession_number="")


def _written(place: str) -> str:
    """Return a path as text that JSON can hold: bytes of its name that are no UTF-8 are escaped."""
    return os.fsencode(place).decode("utf-8", errors="backslashreplace")


def software_of(rules: Rules | None) -> dict[str, str]:
    """Return the versions that an answer depends on, and the checksum of the rules that choose series."""
    return {**_versions(), "rules": (rules or default_rules()).sha256()}


@cache
def _versions() -> dict[str, str]:
    return {"prostate-alm": __version__, **{name: version(name) for name in _PACKAGES}}
