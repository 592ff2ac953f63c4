"""Where an answer sees lesions: a map of probabilities and its candidates, on the grid of T2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prostate_alm.delivery.prediction import LesionCandidate


@dataclass(frozen=True, eq=False, slots=True)
class LesionFindings:
    """What a lesion model found in a study, on the grid of its T2 volume.

    Args:
        probability: (X, Y, Z) float32 in [0, 1].
        labels: (X, Y, Z) uint8: 0 is background, n is candidate number n.
        affine_lps: (4, 4), from voxel indices to the patient's coordinates (LPS) in mm.
        candidates: as numbered in `labels`, the surest first.
    """

    probability: NDArray[np.float32]
    labels: NDArray[np.uint8]
    affine_lps: NDArray[np.float64]
    candidates: tuple[LesionCandidate, ...]
