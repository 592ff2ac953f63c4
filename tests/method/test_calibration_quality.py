"""Calibration error by a plain loop, Brier score and slope by scikit-learn, the intercept by its defining equation."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from prostate_alm.method.calibration import calibration_quality


def drawn(slope: float, shift: float, *, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return labels, and probabilities that need `slope` and then `shift` on their log odds to be true."""
    random = np.random.default_rng(0)
    stated = random.normal(0, 1.5, count)
    return (random.random(count) < expit(slope * stated + shift)).astype(int), expit(stated)


def test_error_and_brier_score_are_those_of_loops_and_scikit_learn() -> None:
    labels, stated = drawn(0.5, 1.0)
    stated[:3] = (0.0, 1.0, 0.1)  # both ends, and an edge of a bin
    total = 0.0
    for place in range(10):
        inside = [i for i, p in enumerate(stated) if place / 10 <= p < (place + 1) / 10 or (place == 9 and p == 1)]
        if inside:
            gap = sum(labels[i] for i in inside) / len(inside) - sum(stated[i] for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(gap)
    found = calibration_quality(labels, stated)
    assert found.expected_calibration_error == pytest.approx(total, abs=1e-12)
    assert found.brier == pytest.approx(brier_score_loss(labels, stated))


def test_a_probability_of_one_is_in_the_last_bin() -> None:
    """By hand: 1 + 1 + 0 observed and 0.95 + 0.95 + 1 stated differ by 0.9, the study of 0.2 by 0.2."""
    found = calibration_quality([1, 1, 0, 0], [0.95, 0.95, 1.0, 0.2])
    assert found.expected_calibration_error == pytest.approx((0.9 + 0.2) / 4)


def test_the_slope_is_that_of_a_logistic_regression() -> None:
    labels, stated = drawn(0.5, 1.0)
    fitted = LogisticRegression(C=1e12, tol=1e-12, max_iter=1000).fit(logit(stated)[:, None], labels)
    found = calibration_quality(labels, stated)
    assert found.slope is not None
    assert found.slope.estimate == pytest.approx(float(fitted.coef_[0, 0]), abs=1e-5)


def test_the_intercept_makes_the_stated_share_the_observed_one() -> None:
    labels, stated = drawn(1.0, 1.0)
    found = calibration_quality(labels, stated)
    assert expit(logit(stated) + found.intercept.estimate).mean() == pytest.approx(labels.mean(), abs=1e-10)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    hits, estimates, widths = np.zeros(2), [], []
    for seed in range(100):
        random = np.random.default_rng(seed)
        stated = random.normal(0, 1.5, 100)
        labels = (random.random(100) < expit(stated)).astype(int)
        found = calibration_quality(labels, expit(stated))
        assert found.slope is not None
        hits += [found.slope.low <= 1 <= found.slope.high, found.intercept.low <= 0 <= found.intercept.high]
        estimates.append((found.slope.estimate, found.intercept.estimate))
        widths.append((found.slope.high - found.slope.low, found.intercept.high - found.intercept.low))
    assert (hits >= 87).all()  # of 100 at 95 %: fewer have a chance of 1e-3
    # nor are they wider than the estimates scatter; a deviation of 100 is known to 7 %
    assert np.mean(widths, axis=0) == pytest.approx(2 * 1.96 * np.std(estimates, axis=0, ddof=1), rel=0.25)


def test_separated_classes_have_no_slope_but_an_intercept() -> None:
    for stated in ([0.2, 0.3, 0.3, 0.9], [0.9, 0.4, 0.4, 0.1], [0.5] * 4):
        found = calibration_quality([0, 0, 1, 1], stated)
        assert found.slope is None
        assert expit(logit(stated) + found.intercept.estimate).mean() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("stated", "more", "message"),
    [
        ([-0.1, 0.5], {}, "probabilities must be in"),
        ([0.1, 1.5], {}, "probabilities must be in"),
        ([0.1, 0.5], {"bins": 0}, "bins must be at least 1"),
        ([0.1, 0.5], {"confidence": 1.0}, "confidence in"),
    ],
)
def test_what_is_no_probability_is_refused(stated: list[float], more: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration_quality([0, 1], stated, **more)  # type: ignore[arg-type]
