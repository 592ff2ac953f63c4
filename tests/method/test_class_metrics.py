"""The figures of a critical class among K: loops over all thresholds, scikit-learn, and ties."""

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

from prostate_alm.method.class_metrics import (
    balanced_accuracy,
    confusion_table,
    critical_scores,
    decide,
    one_against_rest,
    rest_error_at_tpr,
)
from prostate_alm.method.metrics import fpr_at_tpr

K = 4


def cohort(seed, size=60, *, steps=None):
    """Logits that favour the label; with steps on a coarse grid, so that scores and logits tie."""
    random = np.random.default_rng(seed)
    labels = random.integers(K, size=size)
    labels[:K] = range(K)
    logits = random.normal(size=(size, K)) + 1.2 * np.eye(K)[labels]
    return labels, logits if steps is None else np.round(logits * steps) / steps


def loop(labels, logits, critical, tpr):
    """Try every threshold: the error of the others at the highest one that finds the share."""
    scores = [-math.log(math.fsum(math.exp(v - z[critical]) for k, v in enumerate(z) if k != critical)) for z in logits]
    for threshold in sorted(set(scores), reverse=True):
        found = [s >= threshold for s, y in zip(scores, labels, strict=True) if y == critical]
        if sum(found) >= tpr * len(found) - 1e-12:
            wrong = count = 0
            for s, z, y in zip(scores, logits, labels, strict=True):
                if y != critical:
                    rest = [-math.inf if k == critical else v for k, v in enumerate(z)]
                    wrong += s >= threshold or rest.index(max(rest)) != y
                    count += 1
            return wrong / count
    raise AssertionError


@pytest.mark.filterwarnings("ignore::prostate_alm.method.metrics.TooFewPositivesWarning")
@pytest.mark.parametrize("tpr", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("steps", [None, 1, 2])
@pytest.mark.parametrize("critical", [0, 3])
def test_the_error_of_the_others_is_that_of_a_loop_over_all_thresholds(critical, steps, tpr):
    for seed in range(3):
        labels, logits = cohort(seed, steps=steps)
        found = rest_error_at_tpr(labels, logits, critical=critical, tpr=tpr)
        assert found == pytest.approx(loop(labels, logits.tolist(), critical, tpr), abs=1e-12)
        assert found >= fpr_at_tpr(labels == critical, critical_scores(logits, critical), tpr)


def test_of_two_classes_it_is_the_fpr():
    labels, logits = cohort(0)
    labels = labels % 2
    for tpr in (0.8, 0.9, 1.0):
        expected = fpr_at_tpr(labels, logits[:, 1] - logits[:, 0], tpr)
        assert rest_error_at_tpr(labels, logits[:, :2], critical=1, tpr=tpr) == expected


def test_a_common_offset_and_the_numbers_of_the_classes_do_not_matter():
    labels, logits = cohort(1)
    rename = np.array([2, 0, 3, 1])
    renamed = np.empty_like(logits)
    renamed[:, rename] = logits + np.random.default_rng(2).normal(size=(len(logits), 1))
    for tpr in (0.8, 1.0):
        found = rest_error_at_tpr(rename[labels], renamed, critical=rename[1], tpr=tpr)
        assert found == pytest.approx(rest_error_at_tpr(labels, logits, critical=1, tpr=tpr))


def test_confusion_and_balanced_accuracy_are_scikit_learns():
    labels, logits = cohort(3)
    called = decide(logits, {1: 0.5})
    assert confusion_table(labels, called, classes=K).tolist() == confusion_matrix(labels, called).tolist()
    assert balanced_accuracy(labels, called, classes=K) == pytest.approx(balanced_accuracy_score(labels, called))
    few = labels < 2
    with_absent = balanced_accuracy(labels[few], called[few], classes=K)
    assert with_absent == pytest.approx(np.mean([(called[labels == k] == k).mean() for k in (0, 1)]))


def test_decisions_are_a_cascade_from_the_gravest():
    _, logits = cohort(4)
    thresholds = {2: -0.4, 0: 0.1}
    for row, called in zip(logits.tolist(), decide(logits, thresholds), strict=True):
        p = np.exp(row) / np.exp(row).sum()
        if p[2] / (1 - p[2]) >= math.exp(-0.4):
            expected = 2
        elif p[0] / (p[1] + p[3]) >= math.exp(0.1):
            expected = 0
        else:
            expected = 1 if row[1] >= row[3] else 3
        assert called == expected
    assert len(set(decide(logits, thresholds))) == 4  # every way is taken


def test_the_reduced_columns_can_be_resampled():
    labels, logits = cohort(5)
    truth, columns = one_against_rest(labels, logits, critical=2)
    rows = np.random.default_rng(0).integers(len(labels), size=2 * len(labels))
    again = one_against_rest(labels[rows], logits[rows], critical=2)
    assert np.array_equal(truth[rows], again[0])
    np.testing.assert_allclose(columns[rows], again[1])


@pytest.mark.parametrize(
    ("labels", "logits", "critical", "message"),
    [
        ([0, 4], np.zeros((2, 4)), 1, "labels must be whole numbers from 0 to 3, got 4"),
        ([0, 1.5], np.zeros((2, 4)), 1, "labels must be whole numbers from 0 to 3, got 1.5"),
        ([0, 1, 2], np.zeros((2, 4)), 1, r"labels must have shape \(2,\), got \(3,\)"),
        ([0, 1], np.zeros(2), 1, r"logits must have shape \(n, K\) with K >= 2, got \(2,\)"),
        ([0, 1], [[0, 0], [0, np.nan]], 1, r"logits must be finite, got \[0.0, nan\] at index 1"),
        ([0, 1], np.zeros((2, 4)), 4, r"critical must be classes from 0 to 3, got 4 in \[4\]"),
        ([0, 1], np.zeros((2, 4)), 2, "labels must hold both classes, got 0 positives of 2"),
        ([2, 2], np.zeros((2, 4)), 2, "labels must hold both classes, got 2 positives of 2"),
    ],
)
def test_bad_input(labels, logits, critical, message):
    with pytest.raises(ValueError, match=message):
        rest_error_at_tpr(labels, logits, critical=critical, tpr=0.9)
