"""The sentences of a report: figures in words, the same on the page and in the HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.prediction import AppliedOperatingPoint, ClassesAnswer, Prediction
from prostate_alm.delivery.report.views import Views

SALIENCY = (
    "Orange raises the logit, blue lowers it, each path on its own scale; solid and dashed lines mark half of the "
    "greatest value. Saliency says which voxels moved the logit, not that there is a lesion."
)
FIELD = "Dotted: the model's field of view. Slices count from the feet; the patient's right is on the left."
_SIGNS = {"positive": "▲", "negative": "▽"}


def percent(share: float) -> str:
    """Return a share as a percentage; near 0 and 1 with a decimal, and never as the 0 or 100 that it is not.

    >>> [percent(share) for share in (0.0, 0.0001, 0.034, 0.5, 0.95, 0.996, 0.99999, 1.0)]
    ['0 %', '< 0.1 %', '3.4 %', '50 %', '95 %', '99.6 %', '> 99.9 %', '100 %']
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.1:
        return "< 0.1 %"
    if value > 99.9:
        return "> 99.9 %"
    return f"{value:.0f} %" if 10 <= value <= 90 else f"{value:.1f}".removesuffix(".0") + " %"


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> count(1, "positive"), count(2, "positive"), count(2, "study")
    ('1 positive', '2 positives', '2 studies')
    """
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else several}"


def decision(answer: Prediction) -> str:
    """Return the decision in capitals behind its sign, which a reader without colours can tell."""
    return f"{_SIGNS[answer.decision]} {answer.decision.upper()}"


def decision_reason(answer: Prediction, card: ModelCard) -> str:
    """Return what the decision compares."""
    point = answer.operating_point
    side = "at or above" if answer.decision == "positive" else "below"
    odds = card.calibration.slope * point.threshold + card.calibration.intercept
    return (
        f"The mean logit of the members, {answer.logit:.2f}, is {side} the threshold, {point.threshold:.2f} (a "
        f"probability of {percent(1 / (1 + math.exp(-odds)))})."
    )


def operating_point(point: AppliedOperatingPoint) -> str:
    """Return what the threshold did on the validation cohort."""
    return (
        f"At this threshold, {percent(point.tpr)} of the positives of the validation cohort were found "
        f"(95 % interval {_interval(point.tpr_low, point.tpr_high)}), and {percent(point.fpr)} of the negatives were "
        f"called positive ({_interval(point.fpr_low, point.fpr_high)}); n = {count(point.positives, 'positive')} and "
        f"{count(point.negatives, 'negative')}. It was chosen for a true-positive rate of {percent(point.target_tpr)}."
    )


def missed(point: AppliedOperatingPoint) -> str:
    """Return what a negative answer leaves open."""
    below = round((1 - point.tpr) * point.positives)
    return (
        f"A negative answer excludes nothing: {below} of the {point.positives} positives of the validation cohort were "
        f"below the threshold, and the interval allows up to {percent(1 - point.tpr_low)}."
    )


def calibration(card: ModelCard) -> str:
    """Return what the probability rests on."""
    fit = card.calibration
    return (
        f"Calibrated on {count(fit.samples, 'validation study')}, of which "
        f"{percent(fit.prevalence)} were positive; where positives are rarer or commoner, it is too high or too low."
    )


def agreement(answer: Prediction) -> str:
    """Return how many members are on the side of the mean."""
    threshold = answer.operating_point.threshold
    above = sum(logit >= threshold for logit in answer.member_logits)
    spread = f"standard deviation {answer.logit_std:.2f}"
    return f"{above} of {count(len(answer.member_logits), 'member')} at or above the threshold; {spread}."


def _interval(low: float, high: float) -> str:
    return f"{percent(low).removesuffix(' %')} to {percent(high)}"


def numbers(values: Sequence[float]) -> str:
    """Return numbers as a list for the eye.

    >>> numbers((100.0, 600.0))
    '100, 600'
    """
    return ", ".join(f"{value:g}" for value in values)


def b_values(answer: Prediction) -> str:
    """Return which of the model's b-values the scanner measured."""
    pairs = zip(answer.b_values_s_per_mm2, answer.b_values_computed, strict=True)
    each = ", ".join(f"b {value:g} {'computed' if computed else 'acquired'}" for value, computed in pairs)
    acquired = numbers(answer.b_values_acquired_s_per_mm2)
    fitted = " Computed ones come from a fit of the ADC." if any(answer.b_values_computed) else ""
    return f"The model saw {each}; the scanner acquired b {acquired} s/mm².{fitted}"


def describe_slices(views: Views, paths: Sequence[str]) -> str:
    """Return what the figure of the slices shows for who does not see it: shares of the paths, slice of the peak."""
    total = float(np.abs(views.saliency).sum())
    sums = [float(np.abs(one).sum()) for one in views.saliency]
    shares = (f"{name} path {percent(own / total if total else 0.0)}" for name, own in zip(paths, sums, strict=True))
    first, last = (views.first_slice + index for index in (views.slices[-1], views.slices[0]))
    return (
        f"Axial slices {first} to {last} of {views.slices_in_series} of T2 and diffusion, without and with saliency. "
        f"Greatest saliency in slice {views.first_slice + views.peak}. Of all saliency: {', '.join(shares)}."
    )


def describe_charts(answer: Prediction) -> str:
    """Return what the charts show for who does not see them."""
    logits = ", ".join(f"{logit:.2f}" for logit in answer.member_logits)
    return (
        f"Three charts. This study's probability, {percent(answer.probability)}, among those of the validation cohort "
        f"by class. The members' logits, {logits}, with their mean, {answer.logit:.2f}, and the threshold, "
        f"{answer.operating_point.threshold:.2f}. The ROC curve of the validation cohort with the operating point: "
        f"{percent(answer.operating_point.tpr)} of positives found, {percent(answer.operating_point.fpr)} of negatives "
        "called positive."
    )


def classes(found: ClassesAnswer) -> str:
    """Return the probabilities of all classes of a model of several, and what the study is called.

    >>> found = {"none": 0.7, "unmistakable": 0.1, "equivocal": 0.2}
    >>> classes(ClassesAnswer(critical="equivocal", called="none", probabilities=found)).split(". ")[0]
    'Called none: none 70 %, unmistakable 10 %, equivocal 20 %'
    """
    each = ", ".join(f"{name} {percent(probability)}" for name, probability in found.probabilities.items())
    return (
        f"Called {found.called}: {each}. The decision is about {found.critical}; logits are its log-odds against the "
        "others."
    )
