"""Two estimators of disturbed images: noise within slices, and motion between interleaved slices.

Both are ratios, which no gain changes, over the middle half of each slice. docs/predict.md says how often they err.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prostate_alm.imaging.volume import Volume

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
