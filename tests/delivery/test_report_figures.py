"""The axes of a report's charts say what lies there, however close or far the studies are."""

import matplotlib.axes
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.special import expit

from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.prediction import AppliedOperatingPoint, Prediction
from prostate_alm.delivery.report.figures import draw_cohort, draw_slice
from prostate_alm.delivery.report.views import Views
from prostate_alm.delivery.report.words import english


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
    draw_cohort(axes, card, answer, words=english())
    FigureCanvasAgg(figure).draw()
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


def test_a_slice_has_its_true_shape_and_its_bar_is_as_long_as_it_says() -> None:
    """Voxels of 0.5 by 1 mm, an image of 60 by 90 mm: measured in pixels of the drawing."""
    voxels = np.random.default_rng(0).random((120, 90, 3))
    views = Views(
        t2=voxels, diffusion=(voxels,), adc_um2_per_s=None, saliency=voxels[None], spacing_mm=(0.5, 1.0, 3.0),
        field=((10.0, 100.0), (10.0, 80.0)), slices=(2, 1, 0), peak=1, first_slice=1, slices_in_series=3,
    )  # fmt: skip
    figure = Figure(figsize=(5, 4))
    axes = figure.add_subplot()
    draw_slice(axes, voxels, views, index=1, window=(0.0, 1.0))
    FigureCanvasAgg(figure).draw()
    frame = axes.get_window_extent()
    assert frame.height / frame.width == pytest.approx(90 / 60, rel=0.01)
    (label,) = (text.get_text() for text in axes.texts if "mm" in text.get_text())
    (bar,) = (line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_transform() != axes.transData)
    ends = bar.get_transform().transform(np.column_stack([bar.get_xdata(), bar.get_ydata()]))
    assert np.ptp(ends[:, 0]) / frame.width == pytest.approx(float(label.removesuffix(" mm")) / 60, rel=0.01)
    letters = {text.get_text(): text.get_window_extent().get_points().mean(axis=0) for text in axes.texts}
    centre = frame.get_points().mean(axis=0)
    assert letters["R"][0] < centre[0] < letters["L"][0]  # as one looks at a patient from the feet
    assert letters["P"][1] < centre[1] < letters["A"][1]
