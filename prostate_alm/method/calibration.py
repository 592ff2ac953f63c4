"""From a logit to a probability: Platt scaling, which keeps the ranking; and how well stated probabilities hold."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtri

from prostate_alm.method.metrics import Floats, Interval, auc

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


BINS = 10
_MOST_SURE = 1e-12  # a probability of exactly 0 or 1 has no log odds


@dataclass(frozen=True)
class CalibrationQuality:
    """Probabilities beside what happened, on samples that the probabilities were not fitted to.

    `expected_calibration_error` is the mean distance of stated and observed share over bins of probability; `brier` the
    mean squared error. `slope` is 1 where the spread of the log odds is right, below 1 where they are too extreme; None
    where the classes do not overlap, which leaves it without a bound. `intercept` is what must be added to the log odds
    to state the observed share in all: above 0 where positives are more frequent than stated.
    """

    expected_calibration_error: float
    brier: float
    slope: Interval | None
    intercept: Interval
    samples: int


def calibration_quality(
    labels: ArrayLike, probabilities: ArrayLike, *, bins: int = BINS, confidence: float = 0.95
) -> CalibrationQuality:
    """Compare probabilities with what happened.

    ``ECE = Σ_b n_b/n |mean_b(y) - mean_b(p)|`` over bins of equal width of p; Brier = mean((p - y)²). The slope s
    maximises the likelihood of y under sigmoid(s · log(p / (1 - p)) + c), the intercept a that under sigmoid(log(p /
    (1 - p)) + a). Intervals are those of the normal approximation, from the curvature of the likelihood.

    Args:
        labels: (n,), 0 or 1, at least one of each.
        probabilities: (n,), of the class 1, in [0, 1].
        bins: number of bins, at least 1.
        confidence: of the intervals, in (0, 1).

    Raises:
        ValueError: a label, a probability, a shape, the bins or the confidence is wrong, or a class is absent.

    Reference:
        Cox, Biometrika 45 (1958); Naeini et al., AAAI 2015; Van Calster et al., BMC Medicine 17 (2019).

    >>> found = calibration_quality([0, 0, 1, 0, 1, 1], [0.2, 0.2, 0.2, 0.8, 0.8, 0.8])
    >>> round(found.expected_calibration_error, 3), round(found.slope.estimate, 3), round(found.intercept.estimate, 3)
    (0.133, 0.5, 0.0)
    """
    auc(labels, probabilities)  # checks what it is given
    truth, stated = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    if stated.min() < 0 or stated.max() > 1:
        raise ValueError(f"probabilities must be in [0, 1], got {stated.min():g} to {stated.max():g}.")
    if bins < 1 or not 0 < confidence < 1:
        raise ValueError(f"bins must be at least 1 and confidence in (0, 1), got {bins} and {confidence!r}.")
    log_odds = logit(np.clip(stated, _MOST_SURE, 1 - _MOST_SURE))
    z = float(ndtri((1 + confidence) / 2))
    return CalibrationQuality(
        expected_calibration_error=_expected_calibration_error(truth, stated, bins),
        brier=float(np.mean((stated - truth) ** 2)),
        slope=_slope(truth, log_odds, z),
        intercept=_intercept(truth, log_odds, z),
        samples=len(truth),
    )


def _expected_calibration_error(truth: Floats, stated: Floats, bins: int) -> float:
    place = np.minimum((stated * bins).astype(int), bins - 1)
    gap = np.bincount(place, weights=truth - stated, minlength=bins)  # n_b (mean y - mean p)
    return float(np.abs(gap).sum() / len(truth))


def _slope(truth: Floats, log_odds: Floats, z: float) -> Interval | None:
    positive, negative = log_odds[truth == 1], log_odds[truth == 0]
    if positive.min() >= negative.max() or negative.min() >= positive.max():
        return None  # the likelihood grows with the slope without end: Albert and Anderson, Biometrika 71 (1984)
    centre, spread = log_odds.mean(), log_odds.std()
    scaled = (log_odds - centre) / spread
    slope, intercept = fit_logistic(scaled, truth)
    p = expit(slope * scaled + intercept)
    design = np.stack([scaled, np.ones_like(scaled)], axis=1)  # (n, 2)
    variance = np.linalg.inv(design.T @ (design * (p * (1 - p))[:, None]))[0, 0]
    return _interval(slope / spread, math.sqrt(variance) / spread, z)


def _intercept(truth: Floats, log_odds: Floats, z: float) -> Interval:
    """Return a with Σ sigmoid(log odds + a) = Σ y, the stationary point of the likelihood; it rises with a."""
    positives = truth.sum()
    reach = float(np.abs(log_odds).max()) + math.log(len(truth)) + 1.0  # beyond, the sum is past any count
    found = float(brentq(lambda a: expit(log_odds + a).sum() - positives, -reach, reach, xtol=1e-12))
    p = expit(log_odds + found)
    return _interval(found, 1 / math.sqrt(float((p * (1 - p)).sum())), z)


def _interval(estimate: float, deviation: float, z: float) -> Interval:
    return Interval(float(estimate), float(estimate - z * deviation), float(estimate + z * deviation))
