"""From a logit to a probability: Platt scaling, which keeps the ranking."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from prostate_alm.method.metrics import auc

Floats = NDArray[np.float64]

_ITERATIONS = 100
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class PlattScaling:
    """P(positive | logit) = sigmoid(slope · logit + intercept), slope > 0.

    It holds where positives are as frequent as among the samples of the fit: `prevalence`.
    """

    slope: float
    intercept: float
    prevalence: float
    samples: int

    def probability(self, logits: ArrayLike) -> Floats:
        """Return the probabilities of logits, of their shape."""
        scaled: Floats = expit(self.slope * np.asarray(logits, dtype=np.float64) + self.intercept)
        return scaled


def fit_platt(labels: ArrayLike, logits: ArrayLike) -> PlattScaling:
    """Fit a probability to logits by Platt scaling.

    Minimises -Σ_i [t_i log p_i + (1 - t_i) log(1 - p_i)] with p_i = sigmoid(slope · z_i + intercept) and the smoothed
    targets t = (P + 1) / (P + 2) of the P positives, t = 1 / (N + 2) of the N negatives. They lie inside (0, 1), so
    that the minimum is finite also where the logits separate the classes.

    Args:
        labels: (n,), 0 or 1, at least one of each.
        logits: (n,), finite.

    Raises:
        ValueError: a label, a logit or a shape is wrong, a class is absent, or the fit does not rise with the logit
            because they rank positives no higher than negatives.

    Reference:
        Platt, Advances in Large Margin Classifiers (2000); Lin, Lin and Weng, Machine Learning 68 (2007).

    >>> scaling = fit_platt([1, 1, 0, 0], [10.0, 9.0, -9.0, -10.0])
    >>> scaling.probability([-10.0, 0.0, 10.0]).round(2).tolist()
    [0.24, 0.5, 0.76]
    """
    ranking = auc(labels, logits)  # checks what it is given
    truth, values = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    positives, count = int(truth.sum()), len(truth)
    target = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (count - positives + 2))
    centre, spread = values.mean(), values.std()
    if spread > 0:
        slope, intercept = fit_logistic((values - centre) / spread, target)
        slope, intercept = slope / spread, intercept - slope * centre / spread
    if spread == 0 or slope <= 0:
        raise ValueError(
            f"logits must rise from negatives to positives to be calibrated, got an AUC of {ranking:.3f} on {count} "
            "samples. A model without any ranking has no probabilities: train it longer or on more data."
        )
    return PlattScaling(float(slope), float(intercept), positives / count, count)


def fit_logistic(values: Floats, target: Floats) -> tuple[float, float]:
    """Return slope and intercept of the least cross-entropy between the targets and sigmoid(slope · x + intercept).

    Newton's method; steps are halved until the cross-entropy, which is convex, falls.

    Args:
        values: (n,), x, of about zero mean and unit variance; not all the same.
        target: (n,), in [0, 1]; where all are 0 or 1, no x may separate them.

    >>> slope, intercept = fit_logistic(np.array([-1.0, -1.0, 1.0, 1.0]), np.array([0.0, 0.5, 0.5, 1.0]))
    >>> round(slope, 4), round(abs(intercept), 4)
    (1.0986, 0.0)
    """
    design = np.stack([values, np.ones_like(values)], axis=1)  # (n, 2)
    weights = np.zeros(2)
    loss = _cross_entropy(design @ weights, target)
    for _ in range(_ITERATIONS):
        probability = expit(design @ weights)
        gradient = design.T @ (probability - target)
        if np.abs(gradient).max() < _TOLERANCE * len(target):
            break
        curvature = design.T @ (design * (probability * (1 - probability))[:, None])
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        scale = 1.0
        while _cross_entropy(design @ (weights - scale * step), target) > loss and scale > 1e-10:
            scale /= 2
        weights = weights - scale * step
        loss = _cross_entropy(design @ weights, target)
    return float(weights[0]), float(weights[1])


def _cross_entropy(scores: Floats, target: Floats) -> float:
    return float((np.logaddexp(0, scores) - target * scores).sum())
