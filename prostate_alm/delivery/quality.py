"""Reasons to distrust an answer: a study unlike those of the training, or images that look disturbed.

docs/predict.md gives each code with its rule and the error rates of the estimators.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prostate_alm.delivery.card import CONFIDENCE, GridSpec, ModelCard, StoredOperatingPoint, TrainingRange
from prostate_alm.delivery.prediction import Acquisition, QualityWarning
from prostate_alm.delivery.preprocess import intensity_variation, outside_t2_mm
from prostate_alm.imaging.rulebook import default_rules
from prostate_alm.imaging.rules import listed
from prostate_alm.imaging.volume import StudyVolumes, Volume
from prostate_alm.method.operating_point import positives_for_guarantee

_MAD_OF_UNIT_NOISE = 0.6745  # median absolute deviation of a normal distribution
_GAIN_OF_MASK = 6.0  # the mask's root sum of squares
_FEWEST_SLICES = 5


@dataclass(frozen=True)
class ArtefactLimits:
    """Beyond which an image counts as disturbed; halfway between clean and disturbed volumes, see docs/predict.md."""

    t2_noise: float = 0.09
    slice_jump: float = 0.85


def noise_to_signal(volume: Volume) -> float:
    """Return the standard deviation of the noise within slices over the median signal; 0 without any signal.

    The mask (1 -2 1)ᵀ(1 -2 1) removes what is linear along rows or columns; noise of unit deviation leaves it with a
    deviation of 6. The median makes edges count little.

    Args:
        volume: (I, J, K) with I and J of 6 or more.

    Reference:
        Immerkær, Fast noise variance estimation, Computer Vision and Image Understanding 64, 1996.

    >>> noise = np.random.default_rng(0).normal(100.0, 5.0, (64, 64, 5)).astype(np.float32)
    >>> round(noise_to_signal(Volume(noise, np.eye(4))), 2)
    0.05
    """
    middle = _middle(volume)
    along = middle[:-2] - 2 * middle[1:-1] + middle[2:]
    residual = along[:, :-2] - 2 * along[:, 1:-1] + along[:, 2:]
    signal = float(np.median(middle))
    return float(np.median(np.abs(residual))) / _MAD_OF_UNIT_NOISE / _GAIN_OF_MASK / signal if signal > 0 else 0.0


def slice_jump(volume: Volume) -> float:
    """Return how much neighbouring slices differ, over slices that are two apart; 0 with fewer than 5 slices.

    Slices are acquired interleaved, first the odd, then the even ones. In a patient who lies still the ratio is below
    1, since anatomy changes less over one gap than over two; a move between the halves brings it to 1 and beyond.
    The median over the stack leaves single slices out of account.

    Args:
        volume: (I, J, K), slices along K.

    >>> ramp = np.arange(1.0, 9.0) * np.linspace(1, 2, 32)[:, None, None] + np.zeros((32, 32, 8))
    >>> bent = ramp + 100 * np.linspace(0, 1, 32)[:, None, None] ** 2 * np.arange(8)
    >>> round(slice_jump(Volume(bent.astype(np.float32), np.eye(4))), 1) < 0.6
    True
    """
    if volume.voxels.shape[2] < _FEWEST_SLICES:
        return 0.0
    middle = _middle(volume)
    middle = middle / np.maximum(middle.mean(axis=(0, 1)), np.finfo(np.float32).tiny)  # coils are brighter at one end
    one_apart = np.abs(middle[:, :, 1:] - middle[:, :, :-1]).mean(axis=(0, 1))
    two_apart = np.abs(middle[:, :, 2:] - middle[:, :, :-2]).mean(axis=(0, 1))
    usual = float(np.median(two_apart))
    return float(np.median(one_apart)) / usual if usual > 0 else 0.0


def _middle(volume: Volume) -> NDArray[np.float64]:
    """Return the middle half of each slice in rows and columns, where the pelvis is."""
    rows, columns = (count // 4 for count in volume.voxels.shape[:2])
    kept = volume.voxels[rows : volume.voxels.shape[0] - rows, columns : volume.voxels.shape[1] - columns]
    return kept.astype(np.float64)


@dataclass(frozen=True)
class QualityLimits:
    """How far a study may differ before a warning.

    Spacing and intensity may lie outside the range of the training by a share of its end; magnets are called 3 T from
    2.89 T on; `core_mm` is the middle of the T2 volume (left-right, front-back, foot-head) that a prostate fills.
    """

    spacing_share: float = 0.1
    intensity_share: float = 0.25
    field_strength_t: float = 0.15
    core_mm: tuple[float, float, float] = (50.0, 40.0, 40.0)
    missing_crop_mm: float = 3.0
    artefacts: ArtefactLimits = field(default_factory=ArtefactLimits)


LIMITS = QualityLimits()
SYNTHETIC = "This model was trained on synthetic images: its answer says nothing about a patient."


def quality_warnings(
    volumes: StudyVolumes,
    channels: NDArray[np.float32],
    *,
    card: ModelCard,
    member_logits: Sequence[float],
    limits: QualityLimits = LIMITS,
) -> tuple[QualityWarning, ...]:
    """Return the reasons to distrust an answer, in a fixed order; empty where there are none.

    Args:
        volumes: the study on the T2 grid.
        channels: (C, X, Y, Z), the study on the model's grid before it is normalised.
        card: what the model says of its training.
        member_logits: one for each member of the ensemble.
        limits: how far a study may differ.
    """
    found = (
        *((one.code, one.message) for one in volumes.selection.doubts),
        *_spacing(volumes, card.training_range, limits),
        *_scanner(volumes, card.training_range, limits),
        *_b_values(volumes, card.training_range),
        *_intensity(channels, card.training_range, limits),
        *_field_of_view(volumes, card.grid, limits),
        *_artefacts(volumes, limits),
        *_members(member_logits, card.validation.logits),
    )
    return tuple(QualityWarning(code=code, message=message) for code, message in found)


def acquisition_of(volumes: StudyVolumes, channels: NDArray[np.float32]) -> Acquisition:
    """Return how a study was acquired, for those who compare many; numbers of six digits.

    Args:
        volumes: the study on the T2 grid.
        channels: (C, X, Y, Z), the study on the model's grid before it is normalised.
    """
    t2, diffusion_mm = volumes.selection.t2, _diffusion_spacing_mm(volumes)
    return Acquisition(
        field_strength_t=None if t2 is None else t2.field_strength_t,
        t2_spacing_mm=_six_digits(np.linalg.norm(volumes.t2.affine_ras_mm[:3, :3], axis=0).tolist()),
        diffusion_spacing_mm=() if diffusion_mm is None else _six_digits(diffusion_mm.tolist()),
        intensity_variation=_six_digits(intensity_variation(channels)),
    )


def _six_digits(values: Sequence[float]) -> tuple[float, ...]:
    """Return values without the digits that differ between processors."""
    return tuple(float(f"{value:.6g}") for value in values)


def model_warnings(card: ModelCard, point: StoredOperatingPoint) -> tuple[QualityWarning, ...]:
    """Return the reasons to distrust any answer of a model at an operating point, whatever the study.

    Args:
        card: what the model says of itself.
        point: the operating point that decides.
    """
    found = []
    if card.data_is_synthetic:
        found.append(("synthetic_model", SYNTHETIC))
    if point.threshold_guaranteed is None:
        found.append(("few_positives", few_positives(point)))
    return tuple(QualityWarning(code=code, message=message) for code, message in found)


def few_positives(point: StoredOperatingPoint) -> str:
    """Return in a sentence why a threshold is not sure to reach its target: what it rests on and would need."""
    target = f"{100 * point.target_tpr:g} %"
    rests = f"The threshold for a sensitivity of {target} rests on {point.positives} validation positives"
    needed = positives_for_guarantee(point.target_tpr, confidence=CONFIDENCE)
    if needed is None:
        return f"{rests}; no number of them guarantees 100 %."
    return f"{rests}; {needed} would be needed to keep it with {100 * CONFIDENCE:g} % confidence."


Found = Iterator[tuple[str, str]]


def _spacing(volumes: StudyVolumes, trained: TrainingRange, limits: QualityLimits) -> Found:
    pairs = (
        ("T2", np.linalg.norm(volumes.t2.affine_ras_mm[:3, :3], axis=0), trained.t2_spacing_mm),
        ("diffusion", _diffusion_spacing_mm(volumes), trained.dwi_spacing_mm),
    )
    for name, spacing_mm, ranges in pairs:
        if ranges is None or spacing_mm is None:
            continue
        if not all(_within(mm, one, share=limits.spacing_share) for mm, one in zip(spacing_mm, ranges, strict=True)):
            seen = " x ".join(_range(one, digits=2) for one in ranges)
            here = " x ".join(f"{mm:.2f}" for mm in spacing_mm)
            yield "spacing_outside_training", f"{name} has voxels of {here} mm, those of the training had {seen} mm."


def _diffusion_spacing_mm(volumes: StudyVolumes) -> NDArray[np.float64] | None:
    """Return the voxel size of the diffusion images as acquired, before they came onto the grid of T2."""
    if not volumes.acquired:
        return None
    spacing_mm: NDArray[np.float64] = np.linalg.norm(volumes.acquired[0].affine_ras_mm[:3, :3], axis=0)
    return spacing_mm


def _scanner(volumes: StudyVolumes, trained: TrainingRange, limits: QualityLimits) -> Found:
    t2 = volumes.selection.t2
    if t2 is None:
        return
    tesla, seen = t2.field_strength_t, trained.field_strength_t
    if tesla is not None and seen is not None:
        low, high = seen[0] - limits.field_strength_t, seen[1] + limits.field_strength_t
        if not low <= tesla <= high:
            yield (
                "field_strength_outside_training",
                f"the magnet has {tesla:g} T, those of the training {_range(seen)} T.",
            )
    known = {name.casefold() for name in trained.manufacturers}
    if known and t2.manufacturer and t2.manufacturer.casefold() not in known:
        yield (
            "manufacturer_not_in_training",
            f"the scanner is of {t2.manufacturer}, those of the training of {', '.join(trained.manufacturers)}.",
        )


def _b_values(volumes: StudyVolumes, trained: TrainingRange) -> Found:
    acquired, wanted = volumes.b_values_acquired_s_per_mm2, volumes.b_values_s_per_mm2
    computed = [b for b, is_computed in zip(wanted, volumes.b_values_computed, strict=True) if is_computed]
    if computed:
        beyond = [b for b in computed if not min(acquired) <= b <= max(acquired)]
        how = f", b {listed(beyond)} by extrapolation" if beyond else ""
        yield (
            "b_values_computed",
            f"b {listed(computed)} s/mm2 come from a fit to the acquired b {listed(acquired)}{how}.",
        )
    if not has_known_b_values(acquired, trained):
        seen = "; ".join(listed(one) for one in trained.b_values_acquired_s_per_mm2)
        yield (
            "b_values_not_in_training",
            f"acquired were b {listed(acquired)} s/mm2, in the training b {seen}.",
        )


def has_known_b_values(acquired_s_per_mm2: Sequence[float], trained: TrainingRange) -> bool:
    """Return whether b-values are a set of the training; true where the training does not say which it had."""
    sets = trained.b_values_acquired_s_per_mm2
    return not sets or any(_same_b_values(acquired_s_per_mm2, one) for one in sets)


def _same_b_values(first: Sequence[float], second: Sequence[float]) -> bool:
    tolerance = default_rules().b_value_tolerance_s_per_mm2
    pairs = zip(sorted(first), sorted(second), strict=False)
    return len(first) == len(second) and all(abs(a - b) <= tolerance for a, b in pairs)


def _intensity(channels: NDArray[np.float32], trained: TrainingRange, limits: QualityLimits) -> Found:
    if trained.intensity_variation is None:
        return
    values = intensity_variation(channels)
    for index, (value, seen) in enumerate(zip(values, trained.intensity_variation, strict=True)):
        if not _within(value, seen, share=limits.intensity_share):
            name = "T2" if index == 0 else f"diffusion image {index}"
            yield (
                "intensity_outside_training",
                f"the signal of {name} varies by {value:.2f} of its mean, in the training by {_range(seen, digits=2)}.",
            )


def _field_of_view(volumes: StudyVolumes, grid: GridSpec, limits: QualityLimits) -> Found:
    """Yield what of the crop was not imaged; where the prostate lies within it, no header says."""
    axes = zip(("left to right", "front to back", "foot to head"), outside_t2_mm(volumes, grid), strict=True)
    lacking = [f"{mm:.0f} mm {axis}" for axis, mm in axes if mm > limits.missing_crop_mm]
    if lacking:
        yield "t2_smaller_than_crop", f"T2 lacks {', '.join(lacking)} of the region that the network sees."
    share = _core_outside_diffusion(volumes, limits)
    if share > 0:
        yield (
            "prostate_outside_diffusion",
            f"diffusion does not cover {share:.0%} of the middle of the T2 volume, where the prostate is expected.",
        )


def _core_outside_diffusion(volumes: StudyVolumes, limits: QualityLimits) -> float:
    """Return the share of the middle of the T2 volume that lies outside the diffusion's field of view."""
    if not volumes.acquired:
        return 0.0
    diffusion = volumes.acquired[0]
    shape = np.array(volumes.t2.voxels.shape)
    middle = volumes.t2.affine_ras_mm[:3, :3] @ ((shape - 1) / 2) + volumes.t2.affine_ras_mm[:3, 3]
    axes = volumes.t2.affine_ras_mm[:3, :3] / np.linalg.norm(volumes.t2.affine_ras_mm[:3, :3], axis=0)
    steps = [np.linspace(-mm / 2, mm / 2, 11) for mm in limits.core_mm]
    points = np.stack(np.meshgrid(*steps, indexing="ij")).reshape(3, -1)  # (3, N) along the axes of T2
    world = axes @ points + middle[:, None]
    inverse = np.linalg.inv(diffusion.affine_ras_mm)
    voxels = inverse[:3, :3] @ world + inverse[:3, 3:]
    inside = (voxels >= -0.5) & (voxels <= np.array(diffusion.voxels.shape)[:, None] - 0.5)
    return float(1 - inside.all(axis=0).mean())


def _artefacts(volumes: StudyVolumes, limits: QualityLimits) -> Found:
    noise = noise_to_signal(volumes.t2)
    if noise > limits.artefacts.t2_noise:
        yield (
            "noise_suspected",
            f"noise in T2 is about {noise:.0%} of its signal, more than {limits.artefacts.t2_noise:.0%}.",
        )
    images = [("T2", volumes.t2)]
    if volumes.acquired:
        images.append((f"diffusion at b {volumes.b_values_acquired_s_per_mm2[0]:g}", volumes.acquired[0]))
    for name, volume in images:
        jump = slice_jump(volume)
        if jump > limits.artefacts.slice_jump:
            yield (
                "motion_suspected",
                f"neighbouring slices of {name} differ {jump:.2f} times as much as slices two apart.",
            )


def _members(member_logits: Sequence[float], validation_logits: Sequence[float]) -> Found:
    """Yield a warning where the members differ on one study as much as studies differ from each other."""
    if len(member_logits) < 2 or len(validation_logits) < 2:
        return
    here, usual = statistics.stdev(member_logits), statistics.stdev(validation_logits)
    if here > usual:
        yield (
            "members_disagree",
            f"the scores of the model's networks differ by {here:.2f}, as much as those of the validation studies "
            f"({usual:.2f}).",
        )


def _within(value: float, limits: tuple[float, float], *, share: float) -> bool:
    low, high = limits
    return low * (1 - share) <= value <= high * (1 + share)


def _range(limits: tuple[float, float], *, digits: int = 1) -> str:
    low, high = (f"{value:.{digits}f}" for value in limits)
    return low if low == high else f"{low} to {high}"
