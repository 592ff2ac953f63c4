"""From what the members of an ensemble say of an image to the logit that is decided on, and to probabilities."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from prostate_alm.delivery.card import (
    ClassesSpec,
    LesionNetworkSpec,
    ModelCard,
    NetworkSpec,
    PlattCalibration,
    StoredOperatingPoint,
)
from prostate_alm.delivery.prediction import ClassesAnswer
from prostate_alm.method.class_metrics import critical_scores, decide
from prostate_alm.method.lesions import case_logits

if TYPE_CHECKING:
    from prostate_alm.results.mean_logits import MeanLogits


def member_logits(network: MeanLogits, image: torch.Tensor) -> torch.Tensor:
    """Return what each member says of images (B, C, X, Y, Z).

    Logits (B, M, 1), (B, M, K) of several classes, or of lesions maps (B, M, 1, X, Y, Z).
    """
    with torch.inference_mode():
        return torch.stack([member(image) for member in network.members], dim=1)


def study_logits(outputs: torch.Tensor, network: NetworkSpec | LesionNetworkSpec) -> torch.Tensor:
    """Return the logits (M, K) of what the members say of a study; of maps (M, 1, X, Y, Z) the soft maxima, (M, 1)."""
    if isinstance(network, NetworkSpec):
        return outputs
    return case_logits(outputs.double(), temperature=network.temperature)


def critical_logits(logits: torch.Tensor, classes: ClassesSpec | None) -> tuple[float, tuple[float, ...]]:
    """Return the logit that the operating point decides on, and that of each member.

    Of two classes the mean of the members' logits and these; of several the log-odds of the critical class of the mean
    logits, and of each member's own.

    Args:
        logits: (M, 1), or (M, K) of several classes.
        classes: of the model; None where there are two.

    >>> critical_logits(torch.tensor([[1.0], [2.0]]), None)
    (1.5, (1.0, 2.0))
    """
    if classes is None:
        own = tuple(logits[:, 0].tolist())
        return statistics.fmean(own), own
    scores = critical_scores(logits.double().numpy(), classes.critical)
    return float(critical_scores(_mean(logits), classes.critical)[0]), tuple(scores.tolist())


def _mean(logits: torch.Tensor) -> NDArray[np.float64]:
    return logits.double().mean(0, keepdim=True).numpy()  # (1, K)


def classes_answer(logits: torch.Tensor, card: ModelCard, point: StoredOperatingPoint) -> ClassesAnswer | None:
    """Return what is said of several classes: the critical one's calibrated probability, its rivals sharing the rest.

    p_k = (1 - p_c) exp z_k / Σ_{j ≠ c} exp z_j, with z the mean logits: the odds among the rivals are the network's.

    Args:
        logits: (M, K) of the members.
        card: of the model.
        point: the operating point that decides.

    Returns:
        None where there are two classes.
    """
    classes = card.classes
    if classes is None:
        return None
    mean, rivals = _mean(logits), list(classes.rivals)
    of_critical = calibrated(critical_logits(logits, classes)[0], card.calibration)
    shares = np.exp(mean[0, rivals] - np.logaddexp.reduce(mean[0, rivals]))
    probabilities = {classes.critical: of_critical, **dict(zip(rivals, (1 - of_critical) * shares, strict=True))}
    called = int(decide(mean, {classes.critical: point.threshold})[0])
    return ClassesAnswer(
        critical=classes.names[classes.critical],
        called=classes.names[called],
        probabilities={name: float(probabilities[number]) for number, name in enumerate(classes.names)},
    )


def calibrated(logit: float, calibration: PlattCalibration) -> float:
    """Return the probability of a logit: sigmoid(slope · logit + intercept), within [0, 1].

    >>> calibrated(0.0, PlattCalibration(slope=2.0, intercept=0.0, prevalence=0.5, samples=10))
    0.5
    """
    return float(1 / (1 + np.exp(-np.clip(calibration.slope * logit + calibration.intercept, -700, 700))))
