"""The constraint nearly as the paper prints it, for tests to begin from: sums, no bound, no price, any fall counts."""

from collections.abc import Sequence
from typing import Any

from prostate_alm.method.lagrangian import AugmentedLagrangian

PRINTED: dict[str, Any] = {
    "margin": 1.0,
    "mu": 0.2,
    "rho": 2.0,
    "reduction": "sum",
    "multiplier_max": None,
    "relaxation": 0.0,
    "auc_tolerance": 0.0,
}


def make_term(sample_ids: Sequence[str] = ("a", "b", "c"), **changes: Any) -> AugmentedLagrangian:
    return AugmentedLagrangian(sample_ids, **(PRINTED | changes))
