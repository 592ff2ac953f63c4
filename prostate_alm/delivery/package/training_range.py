"""What the training studies had: what a new study is compared with before its answer is trusted."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from prostate_alm.data.manifest import StudyRecord
from prostate_alm.delivery.card import TrainingRange

_DIGITS = 6  # significant; processors round the last ones differently, and the same input shall give the same bytes


def intensity_variation(region: Any) -> tuple[float, ...]:
    """Return standard deviation / mean of each channel, which no gain of a scanner changes; 0 without any signal.

    Args:
        region: array or tensor (C, X, Y, Z), unnormalised: resampled to `GridSpec.spacing_mm` and cropped or padded to
            `GridSpec.normalised_size`.

    >>> intensity_variation(np.array([[1.0, 3.0], [5.0, 5.0], [0.0, 0.0]]).reshape(3, 2, 1, 1))
    (0.5, 0.0, 0.0)
    """
    channels = np.asarray(region, dtype=np.float64).reshape(len(region), -1)
    means, deviations = channels.mean(axis=1), channels.std(axis=1)
    return tuple(float(d / m) if m > 0 else 0.0 for m, d in zip(means, deviations, strict=True))


def acquired_b_values(studies: Iterable[StudyRecord]) -> tuple[tuple[float, ...], ...]:
    """Return each set of b-values that a study was acquired with, once."""
    return tuple(sorted({tuple(sorted(study.b_values_acquired_s_per_mm2)) for study in studies}))


def range_of(
    studies: Sequence[StudyRecord], *, t2_spacings_mm: Sequence[Sequence[float]], variations: Sequence[Sequence[float]]
) -> TrainingRange:
    """Return the range of training studies whose volumes were read.

    What the volumes do not say stays None: the field strength, and the diffusion's own spacing, since it came onto the
    grid of T2.

    Args:
        studies: the N training studies.
        t2_spacings_mm: (N, 3).
        variations: (N, C), see `intensity_variation`.
    """
    return TrainingRange(
        t2_spacing_mm=_ranges(t2_spacings_mm),
        b_values_acquired_s_per_mm2=acquired_b_values(studies),
        intensity_variation=_ranges(variations),
    )


def _ranges(rows: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """Return the smallest and the largest value of each column."""
    columns = np.asarray(rows)  # (N, K)
    return tuple((_rounded(low), _rounded(high)) for low, high in zip(columns.min(0), columns.max(0), strict=True))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
