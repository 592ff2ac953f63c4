"""The axes of a report's charts say what lies there, however close or far the studies are."""

import matplotlib.axes
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.special import expit

from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.prediction import AppliedOperatingPoint, Prediction
from prostate_alm.delivery.report.figures import draw_cohort


def answer_of(model: PackedModel, logit: float, threshold: float) -> Prediction:
    point = AppliedOperatingPoint(
        target_tpr=0.95, threshold=threshold, tpr=0.95, tpr_low=0.9, tpr_high=1.0, fpr=0.5, fpr_low=0.4, fpr_high=0.6,
        positives=10, negatives=20,
    )  # fmt: skip
    return Prediction(
        study="0" * 16, probability=0.6, decision="positive", logit=logit, logit_std=0.1,
        member_logits=(logit - 0.1, logit + 0.1), operating_point=point, b_values_s_per_mm2=(100.0, 600.0, 1000.0),
        b_values_acquired_s_per_mm2=(100.0, 600.0, 1000.0), b_values_computed=(False,) * 3, series=(), warnings=(),
        model=model.identity, software={"prostate-alm": "0"}, source_sha256=None,
    )  # fmt: skip


def drawn(card: ModelCard, answer: Prediction) -> matplotlib.axes.Axes:
    figure = Figure()
    axes = figure.add_subplot()
    draw_cohort(axes, card, answer)
    figure.canvas.draw()
    return axes


@pytest.mark.parametrize("slope", [0.2, 1.0, 3.0, 40.0])
def test_a_tick_stands_where_the_logistic_function_has_its_probability(packed_model: PackedModel, slope: float) -> None:
    calibration = packed_model.card.calibration.model_copy(update={"slope": slope, "intercept": 0.3})
    card = packed_model.card.model_copy(update={"calibration": calibration})
    axes = drawn(card, answer_of(packed_model, 0.1, -0.2))
    low, high = axes.get_xlim()
    ticks = [(tick.get_position()[0], tick.get_text()) for tick in axes.get_xticklabels()]
    assert ticks
    for place, text in ticks:
        assert low < place < high
        assert 100 * expit(place) == pytest.approx(float(text.removesuffix(" %")), abs=0.05)


def test_every_study_of_the_validation_lies_within_the_axis_in_the_row_of_its_class(packed_model: PackedModel) -> None:
    card = packed_model.card
    axes = drawn(card, answer_of(packed_model, 0.1, -0.2))
    low, high = axes.get_xlim()
    labels, logits = np.array(card.validation.labels), np.array(card.validation.logits)
    for row, (label, name) in enumerate(((1, "positive"), (0, "negative"))):
        (marks,) = (line for line in axes.lines if line.get_marker() == "^v"[row])
        expected = np.sort(card.calibration.slope * logits[labels == label] + card.calibration.intercept)
        np.testing.assert_allclose(marks.get_xdata(), expected)
        assert low < min(expected) <= max(expected) < high
        assert np.abs(np.asarray(marks.get_ydata()) - row).max() < 0.35
        assert axes.get_yticklabels()[row].get_text() == f"{name}\nn = {(labels == label).sum()}"
