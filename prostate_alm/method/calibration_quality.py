"""How far stated probabilities are from what happens: calibration error, slope, intercept, Brier score."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit, ndtri

from prostate_alm.method.calibration import fit_logistic
from prostate_alm.method.metrics import Interval, auc

Floats = NDArray[np.float64]

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
