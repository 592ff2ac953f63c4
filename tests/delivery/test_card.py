"""What a model card may say: both ends of every limit, since a pack comes from strangers."""

import math
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from prostate_alm.delivery.card import GridSpec, NetworkSpec, PlattCalibration, StoredOperatingPoint, ValidationScores

NETWORK: dict[str, Any] = {"path_channels": (1,), "features": (8,), "pooling": ((2, 2, 1),)}
GRID: dict[str, Any] = {
    "spacing_mm": (2.0, 2.0, 3.0), "normalised_size": (46, 46, 22), "image_size": (40, 40, 20),
    "b_values_s_per_mm2": (100.0, 600.0, 1000.0),
}  # fmt: skip
POINT: dict[str, Any] = {
    "target_tpr": 0.95, "threshold": 0.0, "threshold_low": None, "threshold_high": None, "tpr": 1.0, "tpr_low": 0.9,
    "tpr_high": 1.0, "fpr": 0.5, "fpr_low": 0.4, "fpr_high": 0.6, "positives": 10, "negatives": 20,
}  # fmt: skip
CALIBRATION: dict[str, Any] = {"slope": 1.0, "intercept": 0.0, "prevalence": 0.3, "samples": 30}
SCORES: dict[str, Any] = {"labels": (0, 1), "logits": (-1.0, 1.0)}
RATES = ("tpr", "tpr_low", "tpr_high", "fpr", "fpr_low", "fpr_high")


@pytest.mark.parametrize(
    ("kind", "valid", "changes"),
    [
        (NetworkSpec, NETWORK, {"path_channels": (1,) * 16}),
        (NetworkSpec, NETWORK, {"features": (8,) * 16, "pooling": ((2, 2, 1),) * 16}),
        (GridSpec, GRID, {"b_values_s_per_mm2": tuple(float(100 * b) for b in range(1, 17))}),
        (GridSpec, GRID, {"b_values_s_per_mm2": (0.0,)}),
        (GridSpec, GRID, {"image_size": (46, 46, 22)}),
        (GridSpec, GRID, {"image_size": (1, 1, 1)}),
        (GridSpec, GRID, {"normalised_size": (1024, 1024, 1024)}),
        (GridSpec, GRID, {"spacing_mm": (100.0, 100.0, 100.0), "b_values_s_per_mm2": (10_000.0,)}),
        (NetworkSpec, NETWORK, {"features": (4096,), "pooling": ((16, 16, 1),)}),
        (StoredOperatingPoint, POINT, {"target_tpr": 1.0, "positives": 1, "negatives": 1}),
        *((StoredOperatingPoint, POINT, {name: end}) for name in RATES for end in (0.0, 1.0)),
        (PlattCalibration, CALIBRATION, {"samples": 2}),
    ],
)
def test_the_closed_ends_are_allowed(kind: type[BaseModel], valid: dict[str, Any], changes: dict[str, Any]) -> None:
    made = kind(**(valid | changes))
    assert {name: getattr(made, name) for name in changes} == changes


@pytest.mark.parametrize(
    ("kind", "valid", "changes", "where"),
    [
        (NetworkSpec, NETWORK, {"path_channels": ()}, "path_channels"),
        (NetworkSpec, NETWORK, {"path_channels": (1,) * 17}, "path_channels"),
        (NetworkSpec, NETWORK, {"features": (8,) * 17, "pooling": ((2, 2, 1),) * 17}, "features"),
        (NetworkSpec, NETWORK, {"features": (8, 8)}, "pooling must have 2 entries, got 1"),
        (NetworkSpec, NETWORK, {"spatial_dims": 2}, "spatial_dims"),
        (NetworkSpec, NETWORK, {"code": "import os"}, "code"),
        (GridSpec, GRID, {"b_values_s_per_mm2": ()}, "b_values_s_per_mm2"),
        (GridSpec, GRID, {"b_values_s_per_mm2": tuple(float(b) for b in range(17))}, "b_values_s_per_mm2"),
        (GridSpec, GRID, {"image_size": (40, 47, 20)}, "image_size must lie within normalised_size"),
        (GridSpec, GRID, {"image_size": (0, 40, 20)}, "image_size"),
        (GridSpec, GRID, {"normalised_size": (1025, 46, 22)}, "normalised_size"),
        (GridSpec, GRID, {"spacing_mm": (0.0, 2.0, 3.0)}, "spacing_mm"),
        (GridSpec, GRID, {"spacing_mm": (2.0, 2.0, 100.1)}, "spacing_mm"),
        (GridSpec, GRID, {"spacing_mm": (2.0, 2.0, math.nan)}, "spacing_mm"),
        (GridSpec, GRID, {"b_values_s_per_mm2": (10_001.0,)}, "b_values_s_per_mm2"),
        (NetworkSpec, NETWORK, {"features": (4097,)}, "features"),
        (NetworkSpec, NETWORK, {"features": (0,)}, "features"),
        (NetworkSpec, NETWORK, {"pooling": ((17, 2, 1),)}, "pooling"),
        (StoredOperatingPoint, POINT, {"target_tpr": 0.0}, "target_tpr"),
        (StoredOperatingPoint, POINT, {"positives": 0}, "positives"),
        (StoredOperatingPoint, POINT, {"negatives": 0}, "negatives"),
        *((StoredOperatingPoint, POINT, {name: value}, name) for name in RATES for value in (-0.01, 1.01)),
        (PlattCalibration, CALIBRATION, {"slope": 0.0}, "slope"),
        (PlattCalibration, CALIBRATION, {"prevalence": 0.0}, "prevalence"),
        (PlattCalibration, CALIBRATION, {"prevalence": 1.0}, "prevalence"),
        (PlattCalibration, CALIBRATION, {"samples": 1}, "samples"),
        (ValidationScores, SCORES, {"labels": (0, 2)}, "labels"),
        (ValidationScores, SCORES, {"labels": (0,)}, "labels must be as many as logits, got 1 and 2"),
    ],
)
def test_what_lies_beyond_is_refused(
    kind: type[BaseModel], valid: dict[str, Any], changes: dict[str, Any], where: str
) -> None:
    kind(**valid)
    with pytest.raises(ValidationError, match=where):
        kind(**(valid | changes))
