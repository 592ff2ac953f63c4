"""What the constraint did since the start of an epoch, and one word of advice."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

Advice = Literal["inactive", "active", "dominating"]

INACTIVE_RATIO = 0.01
"""Below this ratio of the gradient norms the constraint does next to nothing."""
DOMINATING_RATIO = 10.0
"""Above this ratio the base loss has next to no say."""


class MultiplierQuantiles(NamedTuple):
    """Quantiles of λ over the samples that have been positives of a step."""

    median: float
    p90: float
    maximum: float


@dataclass(frozen=True)
class Diagnostics:
    """The constraint over the steps since ``reset_diagnostics()``.

    Attributes:
        violated_share: share of the positives with q > 0, in [0, 1]; 0 without positives.
        q_mean: mean of q over the positives; a sum or a mean over negatives, as ``reduction`` says.
        q_max: largest q.
        multiplier_quantiles: median, 90 % quantile and maximum of λ now.
        mu: μ now.
        gradient_ratio: ``Σ |gradient of the constraint| / Σ |gradient of F|`` at the logits, over the steps; NaN if
            not measured (only ``ConstrainedLoss`` measures it), infinite if F has no gradient.
        advice: inactive, active or dominating; docs/method.md says what to do.
    """

    violated_share: float
    q_mean: float
    q_max: float
    multiplier_quantiles: MultiplierQuantiles
    mu: float
    gradient_ratio: float
    advice: Advice


class RunningSums:
    """Running sums of one epoch."""

    def __init__(self) -> None:
        self._count = self._violated = 0
        self._sum = self._max = 0.0
        self._base_norm: Tensor | float = 0.0
        self._constraint_norm: Tensor | float = 0.0

    def add_violations(self, violations: Sequence[float]) -> None:
        """Add the violations of one forward pass."""
        self._count += len(violations)
        self._violated += sum(value > 0 for value in violations)
        self._sum += math.fsum(violations)
        self._max = max(self._max, *violations)

    def add_base_gradient(self, gradient: Tensor) -> None:
        """Add the norm of ∂F/∂logits; stays on its device, so that a GPU need not wait."""
        self._base_norm = self._base_norm + gradient.detach().norm()

    def add_constraint_gradient(self, gradient: Tensor) -> None:
        """Add the norm of the constraint's gradient at the logits."""
        self._constraint_norm = self._constraint_norm + gradient.detach().norm()

    def summary(self, *, mu: float, multipliers: Collection[float]) -> Diagnostics:
        """Return the diagnostics of the sums so far."""
        share = self._violated / max(self._count, 1)
        ratio = _ratio(float(self._constraint_norm), float(self._base_norm))
        quantiles = np.quantile([*multipliers] or [0.0], [0.5, 0.9, 1.0])
        return Diagnostics(
            violated_share=share,
            q_mean=self._sum / max(self._count, 1),
            q_max=self._max,
            multiplier_quantiles=MultiplierQuantiles(*map(float, quantiles)),
            mu=mu,
            gradient_ratio=ratio,
            advice=_advice(share, ratio),
        )


def _ratio(constraint: float, base: float) -> float:
    if base > 0:
        return constraint / base
    return math.inf if constraint > 0 else math.nan


def _advice(violated_share: float, ratio: float) -> Advice:
    if violated_share == 0 or ratio < INACTIVE_RATIO:
        return "inactive"
    return "dominating" if ratio > DOMINATING_RATIO else "active"
