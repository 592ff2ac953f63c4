"""Where an answer sees lesions: a map of probabilities and its candidates, on the grid of T2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from prostate_alm.delivery.card import (
    CONFIDENCE,
    GridSpec,
    LesionsSpec,
    ModelCard,
    StoredLesionPoint,
    StoredOperatingPoint,
)
from prostate_alm.delivery.gland import CroppedGrid, GlandLocation
from prostate_alm.delivery.prediction import AppliedLesionPoint, LesionCandidate, QualityWarning
from prostate_alm.delivery.preprocess import image_placement, imaged_part, labels_on_t2, lps_affine, map_on_t2
from prostate_alm.imaging.geometry import LPS_TO_RAS
from prostate_alm.imaging.volume import Volume
from prostate_alm.method.lesion_candidates import Candidates, lesion_candidates
from prostate_alm.method.operating_point import positives_for_guarantee

SHARE_OF_BOTH_SIDES = 1 / 3
"""A candidate of which at least so much lies on either side of the gland's middle is on both."""


@dataclass(frozen=True, eq=False, slots=True)
class LesionFindings:
    """What a lesion model found in a study, on the grid of its T2 volume.

    Args:
        probability: (X, Y, Z) float32 in [0, 1].
        labels: (X, Y, Z) uint8: 0 is background, n is candidate number n.
        affine_lps: (4, 4), from voxel indices to the patient's coordinates (LPS) in mm.
        candidates: as numbered in `labels`, the surest first.
        at_edge: numbers of the candidates that touch the edge of what the model sees.
    """

    probability: NDArray[np.float32]
    labels: NDArray[np.uint8]
    affine_lps: NDArray[np.float64]
    candidates: tuple[LesionCandidate, ...]
    at_edge: tuple[int, ...] = ()


def mean_map(outputs: torch.Tensor, t2: Volume, grid: GridSpec) -> NDArray[np.float64]:
    """Return the mean of the members' maps of logits, (X, Y, Z), at -inf where nothing was imaged.

    Args:
        outputs: (M, 1, X, Y, Z) of the members on the network's image.
        t2: of the study.
        grid: how the model was trained.
    """
    mean: NDArray[np.float64] = outputs.double().mean(0)[0].numpy()
    return np.where(imaged_part(t2, grid), mean, -np.inf)


def find_lesions(
    logits: NDArray[np.float64], t2: Volume, grid: GridSpec, *, threshold: float, gland: GlandLocation | None = None
) -> LesionFindings:
    """Return the candidates of a map at or above a threshold, and both on the grid of T2.

    The map on T2 is interpolated from σ of the logits, and 0 outside of what the network sees. Candidates are those of
    the network's own grid, each voxel of T2 being of the nearest one's; their volume is that of these voxels.

    Args:
        logits: (X, Y, Z), see `mean_map`.
        t2: of the study.
        grid: how the model was trained.
        threshold: least confidence, a logit.
        gland: where the gland lies; None where nobody knows, and candidates then have neither side nor level.
    """
    found = lesion_candidates(logits, floor_logit=threshold)
    labels = labels_on_t2(found.numbers.astype(np.uint8), t2, grid)
    affine = LPS_TO_RAS @ t2.affine_ras_mm  # its own inverse: RAS to LPS
    first, step = image_placement(t2, grid)
    peaks = np.column_stack([first + found.peaks * step, np.ones(len(found.peaks))])  # (C, 4), voxels turned to LPS
    peaks_mm = (peaks @ (LPS_TO_RAS @ lps_affine(t2)[0]).T)[:, :3]
    _mark_peaks(labels, affine, peaks_mm)
    volumes_mm3 = np.bincount(labels.ravel(), minlength=len(peaks) + 1)[1:] * abs(np.linalg.det(affine[:3, :3]))
    candidates = tuple(
        LesionCandidate(
            number=number,
            probability=float(expit(found.confidences[number - 1])),
            position_mm=_rounded(peaks_mm[number - 1]),
            volume_mm3=round(float(volumes_mm3[number - 1]), 1),
            side=None if gland is None else side_of(_places_mm(labels == number, affine), gland),
            level=None if gland is None else level_of(peaks_mm[number - 1], gland),
        )
        for number in range(1, len(peaks) + 1)
    )
    probability = map_on_t2(expit(logits).astype(np.float32), t2, grid)
    return LesionFindings(probability, labels, affine, candidates, _at_edge(found))


def side_of(places_mm: NDArray[np.float64], gland: GlandLocation) -> Literal["left", "right", "both"]:
    """Return the patient's side of the gland on which places (N, 3) lie, LPS: X grows towards the left.

    >>> gland = GlandLocation((5.0, 5, 5), low_mm=(-20.0, 0, 0), high_mm=(30.0, 9, 9), volume_ml=30)
    >>> side_of(np.array([[12.0, 0, 0], [9, 0, 0]]), gland)
    'left'
    """
    left = float((places_mm[:, 0] > (gland.low_mm[0] + gland.high_mm[0]) / 2).mean())
    if SHARE_OF_BOTH_SIDES <= left <= 1 - SHARE_OF_BOTH_SIDES:
        return "both"
    return "left" if left > 0.5 else "right"


def level_of(place_mm: NDArray[np.float64], gland: GlandLocation) -> Literal["base", "mid", "apex"]:
    """Return in which third of the gland a place (3,) lies, from the head: base, mid, apex.

    >>> gland = GlandLocation((5.0, 5, 5), low_mm=(-20.0, 0, 0), high_mm=(30.0, 9, 9), volume_ml=30)
    >>> level_of(np.array([0.0, 0, 8]), gland)
    'base'
    """
    share = (place_mm[2] - gland.low_mm[2]) / (gland.high_mm[2] - gland.low_mm[2])
    return "base" if share > 2 / 3 else "apex" if share < 1 / 3 else "mid"


def study_lesions(
    outputs: torch.Tensor, t2: Volume, card: ModelCard, *, point: StoredOperatingPoint, cropped: CroppedGrid
) -> tuple[LesionFindings | None, AppliedLesionPoint | None]:
    """Return what a model of lesions found in a study, and the threshold of its candidates; nothing of other models.

    Args:
        outputs: of the members on the study's image.
        t2: of the study.
        card: of the model.
        point: the operating point that decides; candidates have the threshold of the same target.
        cropped: where the image lies, and the gland, where the model looked for it.
    """
    if card.lesions is None:
        return None, None
    stored, grid = card.lesions.point(point.target_tpr), cropped.grid
    gland = cropped.gland if isinstance(cropped.gland, GlandLocation) else None
    found = find_lesions(mean_map(outputs, t2, grid), t2, grid, threshold=stored.threshold, gland=gland)
    return found, applied_lesion_point(card.lesions, stored)


def applied_lesion_point(lesions: LesionsSpec, point: StoredLesionPoint) -> AppliedLesionPoint:
    """Return a threshold of candidates as an answer holds it."""
    return AppliedLesionPoint(
        **point.model_dump(),
        threshold_probability=float(expit(point.threshold)),
        lesions=lesions.lesions,
        cases=lesions.cases,
    )


def lesion_warnings(findings: LesionFindings, point: AppliedLesionPoint) -> tuple[QualityWarning, ...]:
    """Return the reasons to distrust the candidates of a study."""
    found = [("few_lesions", one) for one in few_lesions(point)]
    if findings.at_edge:
        listed = ", ".join(str(number) for number in findings.at_edge)
        message = f"Candidates that touch the edge of what the model sees, and may go on beyond it: {listed}."
        found.append(("candidate_at_crop_edge", message))
    return tuple(QualityWarning(code=code, message=message) for code, message in found)


def few_lesions(point: AppliedLesionPoint) -> Iterator[str]:
    """Yield why a threshold of candidates is not sure to find its share of lesions: what it rests on and would need."""
    target = f"{100 * point.target_sensitivity:g} %"
    if point.sensitivity < point.target_sensitivity:
        share = f"{100 * point.sensitivity:.0f} %"
        yield f"The candidates found {share} of {point.lesions} validation lesions, {target} were wanted."
        return
    needed = positives_for_guarantee(point.target_sensitivity, confidence=CONFIDENCE)
    if needed is None or point.lesions < needed:
        would = "no number of them guarantees 100 %" if needed is None else f"{needed} would be needed"
        yield f"The threshold that finds {target} of the lesions rests on {point.lesions} validation lesions; {would}."


def _mark_peaks(labels: NDArray[np.uint8], affine: NDArray[np.float64], peaks_mm: NDArray[np.float64]) -> None:
    """Give each candidate the voxel of its peak: one smaller than a voxel of T2 may be nearest to none."""
    homogeneous = np.column_stack([peaks_mm, np.ones(len(peaks_mm))])
    places = np.rint(homogeneous @ np.linalg.inv(affine).T)[:, :3].astype(int)
    for number, place in enumerate(np.clip(places, 0, np.array(labels.shape) - 1), start=1):
        if not (labels == number).any():
            labels[tuple(place)] = number


def _places_mm(inside: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    places: NDArray[np.float64] = np.argwhere(inside) @ affine[:3, :3].T + affine[:3, 3]
    return places


def _at_edge(found: Candidates) -> tuple[int, ...]:
    faces = [found.numbers.take(end, axis) for axis in range(3) for end in (0, -1)]
    numbers = np.unique(np.concatenate([face.ravel() for face in faces]))
    return tuple(int(number) for number in numbers if number)


def _rounded(place_mm: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (round(float(one), 2) + 0.0 for one in place_mm)  # no minus zero
    return x, y, z
