"""The metrics against scikit-learn, brute force over thresholds, a quadratic DeLong and their invariances."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_roc_auc
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from prostate_alm.method.metrics import (
    TooFewPositivesWarning,
    auc,
    delong_test,
    fpr_at_false_negatives,
    fpr_at_tpr,
    partial_auc_above_tpr,
    roc_points,
    threshold_at_tpr,
)

RANDOM = np.random.default_rng(0)


@st.composite
def ranked(draw, most=40):
    """Labels with both classes and scores with many ties."""
    size = draw(st.integers(2, most))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size).filter(lambda y: 0 < sum(y) < len(y)))
    scores = draw(st.lists(st.integers(-4, 4), min_size=size, max_size=size))
    return np.array(labels), np.array(scores, dtype=float) / 4


def sample(size, seed, *, share=0.3, shift=1.0):
    random = np.random.default_rng(seed)
    labels = (random.random(size) < share).astype(int)
    labels[:4] = [0, 0, 1, 1]
    return labels, random.normal(size=size) + shift * labels


def fpr_by_brute_force(labels, scores, tpr):
    positive, negative = scores[labels == 1], scores[labels == 0]
    return min(
        np.mean(negative >= threshold) for threshold in np.unique(scores) if np.mean(positive >= threshold) >= tpr
    )


@settings(max_examples=150, deadline=None)
@given(ranked())
def test_auc_is_that_of_scikit_learn(data):
    labels, scores = data
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(ranked())
def test_roc_points_are_those_of_scikit_learn(data):
    labels, scores = data
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_points(labels, scores), (fpr, tpr), atol=1e-12)


def test_auc_is_that_of_monai_and_ignite():
    labels, scores = sample(300, 1)
    scores = np.round(scores, 1)
    ours = auc(labels, scores)
    assert compute_roc_auc(torch.tensor(scores), torch.tensor(labels)) == pytest.approx(ours, abs=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, inside ignite's import
        from ignite.metrics import ROC_AUC
    metric = ROC_AUC()
    metric.update((torch.tensor(scores), torch.tensor(labels)))
    assert metric.compute() == pytest.approx(ours, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(ranked(), st.floats(0.001, 1.0))
def test_fpr_at_tpr_is_the_smallest_over_all_thresholds(data, tpr):
    labels, scores = data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewPositivesWarning)
        found = fpr_at_tpr(labels, scores, tpr)
    assert found == fpr_by_brute_force(labels, scores, tpr)
    threshold = threshold_at_tpr(labels, scores, tpr)
    assert np.mean(scores[labels == 0] >= threshold) == found
    assert np.mean(scores[labels == 1] >= threshold) >= tpr


def test_fpr_at_every_tpr_that_rounds_badly():
    # 0.55 * 100 is above 55 in floating point; one positive too many would be asked for.
    labels, scores = sample(400, 2)
    labels[:] = 0
    labels[RANDOM.permutation(400)[:100]] = 1
    for hundredth in range(1, 100):
        assert fpr_at_tpr(labels, scores, hundredth / 100) == fpr_by_brute_force(labels, scores, hundredth / 100)


def test_fpr_where_no_threshold_hits_the_tpr_exactly():
    """The authors' public code prints 0 there: 3 positives have no threshold of TPR 0.5."""
    labels, scores = np.array([1, 1, 1, 0, 0, 0]), np.array([5.0, 3.0, 1.0, 4.0, 3.5, 2.0])
    assert fpr_at_tpr(labels, scores, 0.5) == 2 / 3
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert not np.isclose(tpr, 0.5).any()
    assert fpr[tpr >= 0.5].min() == 2 / 3


def test_fpr_at_the_tpr_of_the_tables_is_that_of_roc_curve():
    labels, scores = sample(3000, 3)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    for level in (1.0, 0.98, 0.95, 0.9):
        assert fpr_at_tpr(labels, scores, level) == pytest.approx(fpr[tpr >= level].min(), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(ranked(), st.data())
def test_fpr_at_false_negatives(data, more):
    labels, scores = data
    positives = int(labels.sum())
    missed = more.draw(st.integers(0, positives - 1))
    found = fpr_at_false_negatives(labels, scores, missed)
    assert found == fpr_by_brute_force(labels, scores, (positives - missed) / positives)
    if missed == 0:
        assert found == fpr_at_tpr(labels, scores, 1.0)


@pytest.mark.parametrize(("positives", "tpr", "warned"), [(49, 0.98, True), (50, 0.98, False), (3, 1.0, False)])
def test_too_few_positives_for_the_tpr(positives, tpr, warned):
    labels = np.array([1] * positives + [0] * 20)
    scores = np.arange(len(labels), dtype=float)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fpr_at_tpr(labels, scores, tpr)
    assert [type(one.category()) for one in caught] == [TooFewPositivesWarning] * warned
    if warned:
        assert str(caught[0].message).startswith("positives must be at least 50 for a TPR of 0.98, got 49")


@settings(max_examples=150, deadline=None)
@given(ranked(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 0.99]))
def test_partial_auc_is_scikit_learns_with_the_classes_swapped(data, tpr):
    labels, scores = data
    found = partial_auc_above_tpr(labels, scores, tpr)
    if tpr == 0:
        assert found == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        return
    # With labels and signs swapped, FPR' = 1 - TPR, so that "above a TPR" is "below an FPR". Its standardised value
    # s = (1 + (A - lowest) / (highest - lowest)) / 2 (McClish) is undone to the area A.
    bound = 1 - tpr
    standard = roc_auc_score(1 - labels, -scores, max_fpr=bound)
    area = (2 * standard - 1) * (bound - bound**2 / 2) + bound**2 / 2
    assert found == pytest.approx(area / bound, abs=1e-9)


def delong_by_pairs(labels, a, b):
    """Follow the definition: all pairs, covariance matrices of the structural components."""
    components = []
    for scores in (a, b):
        positive, negative = scores[labels == 1], scores[labels == 0]
        psi = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
        components.append((psi.mean(1), psi.mean(0)))
    covariance = sum(np.cov(np.stack(pair)) / len(pair[0]) for pair in zip(*components, strict=True))
    difference = components[0][0].mean() - components[1][0].mean()
    z = difference / math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    return z, 2 * norm.sf(abs(z))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 8])
def test_delong_is_that_of_its_definition(seed, decimals):
    labels, a = sample(120, seed)
    b = 0.5 * a + np.random.default_rng(seed + 50).normal(size=120)
    a, b = np.round(a, decimals), np.round(b, decimals)
    result = delong_test(labels, a, b)
    z, p_value = delong_by_pairs(labels, a, b)
    assert result.z == pytest.approx(z, rel=1e-9)
    assert result.p_value == pytest.approx(p_value, rel=1e-9)
    assert result.auc_a == pytest.approx(roc_auc_score(labels, a), abs=1e-12)
    assert result.auc_b == pytest.approx(roc_auc_score(labels, b), abs=1e-12)


def test_delong_is_antisymmetric_and_sees_only_ranks():
    labels, a = sample(200, 7)
    b = a + np.random.default_rng(8).normal(size=200)
    one, other = delong_test(labels, a, b), delong_test(labels, b, a)
    assert one.z == -other.z
    assert one.p_value == other.p_value
    assert delong_test(labels, np.exp(a), 3 * b - 1) == one
    shuffle = np.random.default_rng(9).permutation(200)
    assert delong_test(labels[shuffle], a[shuffle], b[shuffle]).z == pytest.approx(one.z)


def test_delong_without_variance():
    labels = np.array([0, 0, 1, 1])
    perfect, reversed_ = np.arange(4.0), -np.arange(4.0)
    assert delong_test(labels, perfect, perfect * 2).p_value == 1.0
    assert delong_test(labels, perfect, perfect * 2).z == 0.0
    certain = delong_test(labels, perfect, reversed_)
    assert (certain.z, certain.p_value) == (math.inf, 0.0)
    with pytest.raises(ValueError, match="each class must have at least 2 samples, got 1 positives and 2 neg"):
        delong_test([1, 0, 0], [1, 2, 3], [1, 2, 3])


def test_p_values_are_uniform_when_the_models_are_equally_good():
    small = 0
    for seed in range(200):
        labels, a = sample(80, seed, share=0.5, shift=0.0)
        small += delong_test(labels, a, np.random.default_rng(1000 + seed).normal(size=80)).p_value < 0.05
    assert 2 <= small <= 20  # 10 expected; binomial 99.9 % limits


@pytest.mark.parametrize(
    "metric", [auc, lambda y, s: fpr_at_tpr(y, s, 0.9), lambda y, s: partial_auc_above_tpr(y, s, 0.8)]
)
def test_order_scale_and_container_do_not_matter(metric):
    labels, scores = sample(200, 14)
    expected = metric(labels, scores)
    shuffle = np.random.default_rng(0).permutation(200)
    assert metric(labels[shuffle], scores[shuffle]) == pytest.approx(expected, abs=1e-12)
    assert metric(labels, np.exp(scores)) == expected
    assert metric(labels.tolist(), scores.tolist()) == expected
    assert metric(labels.astype(bool), scores) == expected
    assert metric(torch.tensor(labels), torch.tensor(scores, requires_grad=True)) == expected
    assert isinstance(expected, float)


def test_half_precision_tensors():
    assert auc(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0], dtype=torch.bfloat16)) == 1.0


def test_the_input_is_not_modified():
    labels, scores = sample(50, 15)
    copy = scores.copy()
    auc(labels, scores), threshold_at_tpr(labels, scores, 0.9), delong_test(labels, scores, scores)
    assert np.array_equal(scores, copy)


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 2], [0.0, 1.0], "labels must be 0 or 1, got .*2"),
        ([0, 1], [0.0, math.nan], "scores must be finite, got nan at index 1"),
        ([1, 0], [math.inf, 0.0], "scores must be finite, got inf at index 0"),
        ([0, 0], [0.0, 1.0], "labels must hold both classes, got 0 positives of 2"),
        ([1, 1], [0.0, 1.0], "labels must hold both classes, got 2 positives of 2"),
        ([], [], "labels must hold both classes, got 0 positives of 0"),
        ([0, 1], [0.0], r"same length, got shapes \(2,\) and \(1,\)"),
        ([[0], [1]], [0.0, 1.0], r"1-D and of the same length, got shapes \(2, 1\)"),
        ([0, 1], [[0.0], [1.0]], r"1-D and of the same length, got shapes \(2,\) and \(2, 1\)"),
    ],
)
def test_bad_input_is_named(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        auc(labels, scores)


@pytest.mark.parametrize("tpr", [0.0, -0.1, 1.01, math.nan])
def test_tpr_out_of_range(tpr):
    with pytest.raises(ValueError, match=r"tpr must be in \(0, 1\], got"):
        fpr_at_tpr([0, 1], [0, 1], tpr)
    with pytest.raises(ValueError, match=r"tpr must be in \(0, 1\], got"):
        threshold_at_tpr([0, 1], [0, 1], tpr)


@pytest.mark.parametrize("tpr", [-0.1, 1.0, math.nan])
def test_partial_auc_range(tpr):
    with pytest.raises(ValueError, match=r"tpr must be in \[0, 1\), got"):
        partial_auc_above_tpr([0, 1], [0, 1], tpr)


@pytest.mark.parametrize("missed", [-1, 1, 0.5])
def test_false_negatives_out_of_range(missed):
    with pytest.raises(ValueError, match=r"false_negatives must be a whole number from 0 to 0, .* got"):
        fpr_at_false_negatives([0, 1], [0, 1], missed)
