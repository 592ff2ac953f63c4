"""Whether the studies that a model answers move away from those it was validated on, or from those before."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from prostate_alm.delivery.answers import read_answers
from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.prediction import Answer, Prediction
from prostate_alm.delivery.quality import LIMITS, has_known_b_values
from prostate_alm.method.calibration import PlattScaling
from prostate_alm.method.metrics import Floats
from prostate_alm.whole_files import write_bytes_atomically

ALPHA = 0.05
"""Chance of any false alarm, over all quantities and all periods that ever come, where nothing moves."""

ComparedWith = Literal["cohort", "earlier"]
QUANTITIES = ("probability", "T2 voxels", "diffusion voxels", "field strength", "intensity", "b-values", "refusals")
TESTS = 2 * len(QUANTITIES)  # against the cohort and against the periods before
_SHARES = ("b-values", "refusals")
_REFERENCES = {"cohort": "the validation cohort", "earlier": "the periods before"}
_UNITS = {
    "probability": " of a positive study",
    "T2 voxels": ", mm",
    "diffusion voxels": ", mm",
    "field strength": ", T",
    "intensity": ", standard deviation / mean",
    "b-values": ", share unknown to the training",
    "refusals": ", share",
}
_COLOURS, _MARKS = ("#0072b2", "#b34700", "#009e73", "#cc79a7", "#56b4e9"), ("o", "s", "^", "D", "v")
_TINY = 1e-15
_ROUNDING = 1e-3  # relative: ends of the cohort's ranges have six digits, and headers often fewer
_MEASURED: dict[str, Callable[[Prediction], Sequence[float | None]]] = {
    "probability": lambda one: (one.probability,),
    "T2 voxels": lambda one: () if one.acquisition is None else one.acquisition.t2_spacing_mm,
    "diffusion voxels": lambda one: () if one.acquisition is None else one.acquisition.diffusion_spacing_mm,
    "field strength": lambda one: () if one.acquisition is None else (one.acquisition.field_strength_t,),
    "intensity": lambda one: () if one.acquisition is None else one.acquisition.intensity_variation,
}


class DriftError(ValueError):
    """Answers that cannot be compared; one line."""


@dataclass(frozen=True)
class Period:
    """The answers of a period, a month for example, in any order."""

    name: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class PeriodTest:
    """One comparison of a period: `p` below `limit` means that the quantity moved."""

    quantity: str
    reference: ComparedWith
    p: float
    limit: float

    @property
    def moved(self) -> bool:
        """Whether chance alone would hardly do so."""
        return self.p < self.limit


@dataclass(frozen=True)
class PeriodDrift:
    """What a period holds and how it compares; quantities that no answer says are absent from both."""

    name: str
    studies: int
    shares: dict[str, tuple[int, int]]
    quartiles: dict[str, tuple[tuple[float, float, float], ...]]
    findings: tuple[PeriodTest, ...]

    @property
    def moved(self) -> tuple[PeriodTest, ...]:
        """Return the comparisons that say that something moved."""
        return tuple(one for one in self.findings if one.moved)


def read_periods(folders: Sequence[Path], *, sha256: str) -> list[Period]:
    """Return the answers of a model by period.

    Args:
        folders: one a period, in order of time, named after it; or a single one: its sub-folders are the periods, or,
            where it holds the answers itself, the months (UTC) in which their files were written.
        sha256: of the model's file.

    Raises:
        DriftError: a folder holds no answers, or answers of another model.
    """
    if len(folders) == 1 and not _answers(folders[0]):
        folders = [one for one in sorted(folders[0].iterdir()) if one.is_dir() and _answers(one)] or folders
    found = {folder: _answers(folder) for folder in folders}
    for folder, answers in found.items():
        if not answers:
            raise DriftError(f"answers must be a folder that `prostate-alm predict` wrote, got none in {folder}.")
        others = sum(answer.model.sha256 != sha256 for answer in answers.values())
        if others:
            raise DriftError(
                f"answers must be of the model given, got {others} of another in {folder}. Name its model."
            )
    if len(folders) > 1:
        return [Period(folder.name, tuple(answers.values())) for folder, answers in found.items()]
    (answers,) = found.values()
    written = {path: datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m") for path in answers}
    in_order = sorted(answers, key=lambda path: written[path])
    groups = itertools.groupby(in_order, key=lambda path: written[path])
    return [Period(month, tuple(answers[path] for path in paths)) for month, paths in groups]


def drift_of(periods: Sequence[Period], card: ModelCard, *, alpha: float = ALPHA) -> list[PeriodDrift]:
    """Compare each period with the validation cohort and with all periods before it.

    The k-th period has α / (k (k + 1)) of the chance of a false alarm, shared by its `TESTS` comparisons. As
    Σ 1 / (k (k + 1)) = 1, all periods that ever come have α together: looking again costs nothing.

    Args:
        periods: in order of time.
        card: of the model.
        alpha: chance of any false alarm, in (0, 1).
    """
    if not 0 < alpha < 1:
        raise DriftError(f"alpha must be in (0, 1), got {alpha:g}. Give 0.05, for example.")
    found, before = [], list[Answer]()
    for k, period in enumerate(periods, start=1):
        limit = alpha / (TESTS * k * (k + 1))
        compared = [*_with_cohort(period.answers, card), *_with_earlier(period.answers, before, card)]
        findings = tuple(PeriodTest(quantity, reference, p, limit) for quantity, reference, p in compared)
        found.append(_summary(period, card, findings))
        before += period.answers
    return found


def outside_p(values: Floats, low: float, high: float, *, cohort: int) -> float:
    """Return the chance that as many values lie outside the range of a cohort, where all come from one source.

    The share of a source that lies outside the range of n draws follows Beta(2, n - 1) whatever the source, so that
    the number of m new ones outside follows BetaBinomial(m, 2, n - 1). Exact for values without ties, else too large.

    Args:
        values: (M,) of the period.
        low: smallest of the cohort.
        high: largest of the cohort.
        cohort: n, how many studies it has, at least 2.

    Reference:
        Wilks 1942, Statistical prediction with special reference to the problem of tolerance limits.

    >>> round(outside_p(np.array([5.0]), 0.0, 1.0, cohort=9), 3)  # one new value is outside in 2 of n + 1 = 10 orders
    0.2
    """
    outside = int(((values < low) | (values > high)).sum())
    return float(stats.betabinom.sf(outside - 1, len(values), 2, cohort - 1))


def _with_cohort(answers: Sequence[Answer], card: ModelCard) -> list[tuple[str, ComparedWith, float]]:
    """Return the comparisons with the validation cohort: probabilities as a whole, the others with its range."""
    trained, cohort = card.training_range, len(card.validation.labels)
    field = None if trained.field_strength_t is None else (_widened(trained.field_strength_t, LIMITS.field_strength_t),)
    ranges = {
        "T2 voxels": trained.t2_spacing_mm,
        "diffusion voxels": trained.dwi_spacing_mm,
        "field strength": field,
        "intensity": trained.intensity_variation,
    }
    found: list[tuple[str, ComparedWith, float]] = []
    values = _values(answers, "probability")
    if values is not None:
        found.append(("probability", "cohort", _ks(values[:, 0], _cohort_probabilities(card))))
    for quantity, ends in ranges.items():
        values = _values(answers, quantity)
        if values is None or ends is None or values.shape[1] != len(ends) or cohort < 2:
            continue
        each = [
            outside_p(column, *_widened(one, _ROUNDING * abs(one[1])), cohort=cohort)
            for column, one in zip(values.T, ends, strict=True)
        ]
        found.append((quantity, "cohort", min(1.0, len(each) * min(each))))
    return found


def _with_earlier(
    answers: Sequence[Answer], before: Sequence[Answer], card: ModelCard
) -> list[tuple[str, ComparedWith, float]]:
    """Return the comparisons with all that came before."""
    found: list[tuple[str, ComparedWith, float]] = []
    for quantity in _MEASURED:
        now, then = _values(answers, quantity), _values(before, quantity)
        if now is None or then is None or now.shape[1] != then.shape[1]:
            continue
        each = [_ks(a, b) for a, b in zip(now.T, then.T, strict=True)]
        found.append((quantity, "earlier", min(1.0, len(each) * min(each))))
    then_shares = _shares(before, card)
    for quantity, (count, of) in _shares(answers, card).items():
        if quantity in then_shares:
            then_count, then_of = then_shares[quantity]
            table = [[count, of - count], [then_count, then_of - then_count]]
            found.append((quantity, "earlier", float(stats.fisher_exact(table).pvalue)))
    return found


def _cohort_probabilities(card: ModelCard) -> Floats:
    """Return the calibrated probabilities of the validation cohort, each by members that had not trained on it."""
    return PlattScaling(**card.calibration.model_dump()).probability(card.validation.logits)


def _ks(first: Floats, second: Floats) -> float:
    """Return the p-value of the two-sample test of Kolmogorov and Smirnov; too large where values repeat."""
    return float(stats.ks_2samp(first, second).pvalue)


def _widened(ends: tuple[float, float], by: float) -> tuple[float, float]:
    return ends[0] - by, ends[1] + by


def _answers(folder: Path) -> dict[Path, Answer]:
    return {folder / name: answer for name, answer in read_answers(folder).items()}


def _answered(answers: Sequence[Answer]) -> list[Prediction]:
    return [one for one in answers if isinstance(one, Prediction)]


def _values(answers: Sequence[Answer], quantity: str) -> Floats | None:
    """Return what the answers say of a quantity (N, K); None where none says it."""
    rows = [_MEASURED[quantity](one) for one in _answered(answers)]
    whole = [row for row in rows if row and None not in row]
    return np.array(whole, dtype=np.float64) if whole and len({len(row) for row in whole}) == 1 else None


def _shares(answers: Sequence[Answer], card: ModelCard) -> dict[str, tuple[int, int]]:
    """Return how many of how many studies were refused, and were acquired with b-values unknown to the training."""
    answered = _answered(answers)
    found = {"refusals": (len(answers) - len(answered), len(answers))} if answers else {}
    if answered and card.training_range.b_values_acquired_s_per_mm2:
        sets = (one.b_values_acquired_s_per_mm2 for one in answered)
        unknown = sum(not has_known_b_values(one, card.training_range) for one in sets)
        found["b-values"] = (unknown, len(answered))
    return found


def _summary(period: Period, card: ModelCard, findings: tuple[PeriodTest, ...]) -> PeriodDrift:
    quartiles = {}
    for quantity in _MEASURED:
        values = _values(period.answers, quantity)
        if values is not None:
            low, middle, high = np.percentile(values, (25, 50, 75), axis=0)
            quartiles[quantity] = tuple(zip(low.tolist(), middle.tolist(), high.tolist(), strict=True))
    return PeriodDrift(period.name, len(period.answers), _shares(period.answers, card), quartiles, findings)


def lines_of(drift: Sequence[PeriodDrift]) -> list[str]:
    """Return a line for each thing that moved, and one that says that nothing did."""
    found = [
        f"{period.name}: {one.quantity} moved against {_REFERENCES[one.reference]}, "
        f"p {_at_most(one.p)}, limit {one.limit:.1e}{_told(period, one.quantity)}"
        for period in drift
        for one in period.moved
    ]
    return found or ["nothing moved in " + ("one period" if len(drift) == 1 else f"{len(drift)} periods")]


def _at_most(p: float) -> str:
    return f"= {p:.1e}" if p > _TINY else f"< {_TINY:.0e}"


def _told(period: PeriodDrift, quantity: str) -> str:
    """Return what the period has of a quantity: medians, or a share."""
    if quantity in period.shares:
        count, of = period.shares[quantity]
        return f": {count} of {of}"
    medians = " x ".join(f"{middle:.3g}" for _, middle, _ in period.quartiles[quantity])
    return f": median {medians}"


def draw_drift(drift: Sequence[PeriodDrift], card: ModelCard) -> Figure:
    """Draw each quantity over the periods: medians and quartiles or shares, what the cohort had, and what moved.

    Args:
        drift: of `drift_of`.
        card: of the model.
    """
    figure = Figure(figsize=(max(9.0, 0.45 * len(drift) + 5), 11.0), layout="constrained")
    places = figure.subplots(4, 2, sharex=True).ravel()
    for axes, quantity in zip(places, QUANTITIES, strict=False):
        if quantity in _SHARES:
            _draw_shares(axes, drift, quantity)
        else:
            _draw_quartiles(axes, drift, quantity)
            _draw_cohort(axes, card, quantity)
        for place, period in enumerate(drift):
            if any(one.quantity == quantity for one in period.moved):
                axes.axvspan(place - 0.4, place + 0.4, color="#ffd9bf", zorder=0)
        axes.set_title(f"{quantity}{_UNITS[quantity]}", loc="left", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in places[-3:]:
        axes.set_xticks(range(len(drift)), [period.name for period in drift], rotation=90, fontsize="small")
        axes.tick_params(labelbottom=True)
    _draw_key(places[-1])
    return figure


def write_picture(drift: Sequence[PeriodDrift], card: ModelCard, path: Path) -> None:
    """Write `draw_drift` as a file of the kind that its name says.

    Raises:
        DriftError: it is no kind of picture.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in ("png", "svg", "pdf"):
        raise DriftError(f"picture must be a .png, .svg or .pdf, got {path.name}. Give another name.")
    content = io.BytesIO()
    draw_drift(drift, card).savefig(content, format=kind, dpi=100)
    write_bytes_atomically(path, content.getvalue())


def _draw_quartiles(axes: Axes, drift: Sequence[PeriodDrift], quantity: str) -> None:
    """Draw a mark with whiskers for each component of a quantity, side by side."""
    components = max((len(period.quartiles.get(quantity, ())) for period in drift), default=0)
    for k in range(components):
        shift = 0.12 * (k - (components - 1) / 2)
        own = [(i, period.quartiles[quantity][k]) for i, period in enumerate(drift) if quantity in period.quartiles]
        places, quartiles = [i + shift for i, _ in own], np.array([values for _, values in own])  # (P, 3)
        low, middle, high = quartiles.T
        bars = [middle - low, high - middle]
        axes.errorbar(
            places, middle, yerr=bars, fmt=_MARKS[k % len(_MARKS)], color=_COLOURS[k % len(_COLOURS)], capsize=2
        )
    if not components:
        axes.text(0.5, 0.5, "no answer says it", transform=axes.transAxes, ha="center", color="0.4")


def _draw_cohort(axes: Axes, card: ModelCard, quantity: str) -> None:
    """Lay what the cohort had behind: quartiles of its probabilities, else its ranges."""
    trained = card.training_range
    field = None if trained.field_strength_t is None else (trained.field_strength_t,)
    low, high = np.percentile(_cohort_probabilities(card), (25, 75)).tolist()
    ranges = {
        "probability": ((low, high),),
        "T2 voxels": trained.t2_spacing_mm,
        "diffusion voxels": trained.dwi_spacing_mm,
        "field strength": field,
        "intensity": trained.intensity_variation,
    }
    for k, (low, high) in enumerate(ranges[quantity] or ()):
        colour = _COLOURS[k % len(_COLOURS)]
        axes.axhspan(low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(low, color=colour, alpha=0.5, linewidth=0.8)
        axes.axhline(high, color=colour, alpha=0.5, linewidth=0.8)


def _draw_shares(axes: Axes, drift: Sequence[PeriodDrift], quantity: str) -> None:
    """Draw shares with exact 95 % intervals (Clopper and Pearson)."""
    own = [(i, period.shares[quantity]) for i, period in enumerate(drift) if quantity in period.shares]
    if own:
        tests = [stats.binomtest(count, of) for _, (count, of) in own]
        ends = np.array([(one.proportion_ci().low, one.statistic, one.proportion_ci().high) for one in tests])  # (P, 3)
        bars = [ends[:, 1] - ends[:, 0], ends[:, 2] - ends[:, 1]]
        axes.errorbar([i for i, _ in own], ends[:, 1], yerr=bars, fmt="o", color=_COLOURS[0], capsize=2)
    axes.set_ylim(-0.03, 1.03)


def _draw_key(axes: Axes) -> None:
    axes.set_axis_off()
    text = (
        "Marks: median and quartiles of the studies answered,\nor a share with its 95 % interval.\n"
        "Pale band: the cohort, quartiles of its probabilities,\nranges of all else. One colour a component.\n"
        "Orange column: moved."
    )
    axes.text(0.0, 0.95, text, va="top", fontsize="small", transform=axes.transAxes)
