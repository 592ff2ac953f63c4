"""Platt scaling against another library's logistic regression, and where that has no answer."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from prostate_alm.method.calibration import fit_platt


def draw(seed: int, *, count: int = 200, separation: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random(count) < 0.3).astype(int)
    return labels, random.normal(separation * labels, 1.0)


def reference(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Fit smoothed targets as weights: each sample once as positive and once as negative."""
    positives, negatives = labels.sum(), (1 - labels).sum()
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    fit = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    twice = np.concatenate([logits, logits])[:, None]
    fit.fit(twice, np.repeat([1, 0], len(labels)), sample_weight=np.concatenate([target, 1 - target]))
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("separation", [0.5, 2.0, 6.0])
def test_the_fit_is_that_of_another_library(seed: int, separation: float) -> None:
    labels, logits = draw(seed, separation=separation)
    scaling = fit_platt(labels, logits)
    assert (scaling.slope, scaling.intercept) == pytest.approx(reference(labels, logits), rel=1e-4, abs=1e-4)
    assert (scaling.prevalence, scaling.samples) == (labels.mean(), len(labels))


def test_separated_classes_have_a_finite_fit() -> None:
    """Logistic regression without smoothing has no maximum here; the gradient of ours vanishes at its minimum."""
    labels, logits = np.repeat([0, 1], [20, 5]), np.concatenate([np.linspace(-9, -1, 20), np.linspace(1, 9, 5)])
    scaling = fit_platt(labels, logits)
    assert np.isfinite([scaling.slope, scaling.intercept]).all()
    target = np.where(labels == 1, 6 / 7, 1 / 22)
    residual = expit(scaling.slope * logits + scaling.intercept) - target
    assert residual.sum() == pytest.approx(0, abs=1e-6)
    assert (residual * logits).sum() == pytest.approx(0, abs=1e-5)


def test_probabilities_do_not_depend_on_the_scale_of_the_logits() -> None:
    labels, logits = draw(7)
    expected = fit_platt(labels, logits).probability(logits)
    for scale, offset in ((1e-3, 0.0), (1e3, 5e5)):
        moved = logits * scale + offset
        np.testing.assert_allclose(fit_platt(labels, moved).probability(moved), expected, atol=1e-6)


def test_probabilities_agree_with_the_shares_they_speak_of() -> None:
    """Logits of a known model: P = sigmoid(2 z - 1); 20 000 samples, so that the fit is known to 0.05."""
    random = np.random.default_rng(0)
    logits = random.normal(size=20_000)
    labels = (random.random(20_000) < expit(2 * logits - 1)).astype(int)
    scaling = fit_platt(labels, logits)
    assert (scaling.slope, scaling.intercept) == pytest.approx((2, -1), abs=0.08)


@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([1, 1, 0, 0], [0.0, 1.0, 5.0, 6.0], "logits must rise from negatives to positives.*AUC of 0.000 on 4"),
        ([1, 0, 0], [2.0, 2.0, 2.0], "logits must rise from negatives to positives.*AUC of 0.500 on 3"),
        ([1, 1], [0.0, 1.0], "both classes"),
        ([1, 0], [np.nan, 0.0], "finite"),
    ],
)
def test_what_has_no_calibration_is_refused(labels: list[int], logits: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_platt(labels, logits)
