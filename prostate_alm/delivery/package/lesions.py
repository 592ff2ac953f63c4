"""What the candidates of an ensemble found in its validation studies, and the thresholds that a pack freezes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from prostate_alm.data.gland import crop_slice
from prostate_alm.data.manifest import StudyRecord
from prostate_alm.delivery.card import CONFIDENCE, GridSpec, LesionsSpec, StoredLesionPoint
from prostate_alm.delivery.lesions import mean_map
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.preprocess import PlacedGrid
from prostate_alm.imaging.volume import Volume
from prostate_alm.method.lesion_metrics import Detections
from prostate_alm.method.metrics import positives_needed
from prostate_alm.method.operating_point import binomial_interval

_STEPS = 10_000  # of a logit; cut downwards, so that a rounding never loses the lesion that a threshold rests on


def detections_in(outputs: torch.Tensor, t2: Volume, study: StudyRecord, *, folder: Path, grid: GridSpec) -> Detections:
    """Return what the candidates of the mean map of some members found in a training study.

    A lesion that the crop cut or left out was not found, as in training.

    Args:
        outputs: maps (M, 1, X, Y, Z) of the members that had the study for validation.
        t2: of the study.
        study: whose lesions were drawn.
        folder: where the manifest lies.
        grid: how the model was trained.
    """
    from prostate_alm.training.lesion_scores import detections_of

    lesions, count = _lesions_on_grid(study, folder, grid)
    return detections_of(mean_map(outputs, t2, grid), lesions, count=count)


def _lesions_on_grid(study: StudyRecord, folder: Path, grid: GridSpec) -> tuple[NDArray[np.int64], int]:
    """Return a study's map of lesions as the bundle's transforms make it, and how many lesions it has in all."""
    from monai.data import MetaTensor  # a pack may wait for MONAI, an answer does not
    from monai.transforms import Orientation, Spacing

    from prostate_alm.data.lesion_maps import CropLesions, CropStack

    if study.lesions is None:
        raise PackageError("not_packable", f"study must have lesions that were drawn, got none in {study.id}.")
    file: Any = nib.load(folder / study.lesions.path)
    drawn = torch.from_numpy(file.get_fdata(dtype=np.float32))[None]
    turned = Orientation(axcodes="LPS", labels=None)(MetaTensor(drawn, affine=file.affine))
    resampled = Spacing(pixdim=grid.spacing_mm, mode="nearest")(turned)
    whole = CropLesions(grid.normalised_size)({"lesions": _around(resampled, grid)})
    cropped = CropStack(grid.image_size)({"image": whole["lesions"]})["image"]
    return np.asarray(cropped[-1]).astype(np.int64), len(np.unique(drawn[drawn > 0]))


def _around(lesions: torch.Tensor, grid: GridSpec) -> torch.Tensor:
    """Return the part of a map (1, X, Y, Z) that a placed grid crops, those that it cuts marked; else all of it."""
    if not isinstance(grid, PlacedGrid):
        return lesions
    from prostate_alm.data.lesion_maps import mark_cut

    rows = zip(lesions.shape[1:], grid.normalised_size, grid.middle, strict=True)
    part = (slice(None), *(crop_slice(*row) for row in rows))
    return mark_cut(lesions, lesions[part])


def lesions_spec(cases: Sequence[Detections], *, targets: Sequence[float]) -> LesionsSpec:
    """Return what a card says of candidates: their FROC curve and a threshold for each target.

    The threshold is the highest confidence that still finds the target share of the validation lesions. Where too many
    were found by no candidate, it is that of the least sure one that was found, and `sensitivity` says what it reaches.

    Args:
        cases: what the candidates of each validation study found.
        targets: shares of the lesions, each in (0, 1].

    Raises:
        PackageError: there is no lesion, or no candidate found one.

    >>> cases = [Detections(np.array([2.0, 1.0]), np.array([1.5])), Detections(np.array([]), np.array([0.5]))]
    >>> [(point.threshold, point.false_positives_per_case) for point in lesions_spec(cases, targets=(0.5, 1)).points]
    [(2.0, 0.0), (1.0, 0.5)]
    """
    pooled = np.concatenate([case.found for case in cases]) if cases else np.empty(0)
    found = _cut(np.sort(pooled[np.isfinite(pooled)])[::-1])
    if not len(found):
        raise PackageError(
            "not_packable",
            f"validation lesions must be found by a candidate, got none of {len(pooled)} in {len(cases)} studies. "
            "Train for more epochs, or with more studies that have lesions.",
        )
    others = _cut(np.sort(np.concatenate([case.false_positives for case in cases]))[::-1])
    others = others[others >= found[-1]]
    return LesionsSpec(
        cases=len(cases),
        found=tuple(found.tolist()),
        missed=len(pooled) - len(found),
        false_positives=tuple(others.tolist()),
        points=tuple(_point(target, found, others, lesions=len(pooled), cases=len(cases)) for target in targets),
    )


def _point(
    target: float, found: NDArray[np.float64], others: NDArray[np.float64], *, lesions: int, cases: int
) -> StoredLesionPoint:
    threshold = found[min(positives_needed(lesions, target), len(found)) - 1]
    hits = int((found >= threshold).sum())
    interval = binomial_interval(hits, lesions, confidence=CONFIDENCE)
    return StoredLesionPoint(
        target_sensitivity=target,
        threshold=float(threshold),
        sensitivity=interval.estimate,
        sensitivity_low=interval.low,
        sensitivity_high=interval.high,
        false_positives_per_case=float((others >= threshold).sum()) / cases,
    )


def _cut(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([math.floor(logit * _STEPS) / _STEPS for logit in logits])
