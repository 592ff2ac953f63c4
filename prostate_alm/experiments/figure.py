"""The figures of what ALM changes: small multiples of class ratio by metric, a line for each loss, the mean below."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from prostate_alm.experiments.effects import MEAN, SPLITS, Effect, loss_in_words
from prostate_alm.experiments.paper_tables import loss_names, metric_of, rate_columns

_TITLE_WIDTH = 24  # characters of a panel's title
_BETTER, _WORSE, _PAPER = "tab:blue", "tab:red", "0.35"
_DRAWN = {"test_all_positives": (-0.17, "o", "tab:blue"), "test_draws": (0.17, "s", "tab:orange")}
"""Test sets of the figure of several replicates: offset, mark and colour."""


def draw_effects(path: Path, effects: Sequence[Effect], *, title: str) -> None:
    """Draw ALM minus baseline; blue is better than the baseline, red is worse, hollow marks are the paper's.

    Bands are paired 95 % intervals over the test samples, where they are known.

    Args:
        path: file to write; its suffix says the format.
        effects: of one pair of classes, or a cohort, and one test set; at least one.
        title: what the figure shows.
    """
    losses = [loss for loss in loss_names() if any(effect.loss == loss for effect in effects)]
    ratios = {effect.ratio for effect in effects}
    figure = Figure(figsize=(12, 1.5 + len(ratios) * (0.9 + 0.26 * (len(losses) + 1))), layout="constrained")
    _draw_panels(figure, effects, [*losses, MEAN], _draw_panel)
    figure.suptitle(f"ALM minus baseline, percentage points. {title}")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)


def draw_pooled_effects(path: Path, effects: Sequence[Effect], *, title: str) -> None:
    """Draw ALM minus baseline over replicates: a mark with its interval for each loss and test set, the mean below.

    Args:
        path: file to write; its suffix says the format.
        effects: of one pair of classes; drawn are those on all test positives and on draws at the class ratio.
        title: what the figure shows.
    """
    some = [effect for effect in effects if effect.split in _DRAWN]
    losses = [loss for loss in [*loss_names(), MEAN] if any(effect.loss == loss for effect in some)]
    ratios = {effect.ratio for effect in some}
    figure = Figure(figsize=(13, 1.7 + len(ratios) * (0.7 + 0.34 * len(losses))), layout="constrained")
    for axes in _draw_panels(figure, some, losses, _draw_pooled_panel):
        axes.get_yticklabels()[-1].set_fontweight("bold")
    figure.suptitle(f"ALM minus baseline, percentage points, with 95 % intervals. {title}")
    marks = [
        Line2D([], [], marker=shape, color=colour, label=SPLITS[one]) for one, (_, shape, colour) in _DRAWN.items()
    ]
    paper = _mark("|", "paper's mean of its eight losses", markersize=11, markeredgewidth=2.5, color="black")
    figure.legend(handles=[*marks, paper], loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)


def _draw_panels(
    figure: Figure,
    effects: Sequence[Effect],
    losses: Sequence[str],
    draw: Callable[[Axes, Sequence[Effect], Sequence[str]], None],
) -> list[Axes]:
    """Draw a panel for each class ratio (rows) and column; return the leftmost ones."""
    ratios, columns = sorted({effect.ratio for effect in effects}), rate_columns(effects[0].pair)
    grid = figure.subplots(len(ratios), len(columns), squeeze=False, sharex="col", sharey=True)
    for line, ratio in zip(grid, ratios, strict=True):
        for axes, column in zip(line, columns, strict=True):
            draw(axes, [one for one in effects if (one.ratio, one.column) == (ratio, column)], losses)
        line[0].set_ylabel(f"1:{ratio}", fontsize="large", fontweight="bold", rotation=0, labelpad=22)
        line[0].set_yticks(range(len(losses)), [loss_in_words(loss) for loss in losses])
        line[0].set_ylim(len(losses) - 0.4, -0.6)
    for top, bottom, column in zip(grid[0], grid[-1], columns, strict=True):
        top.set_title(textwrap.fill(metric_of(column).words, _TITLE_WIDTH))
        bottom.set_xlabel("better →" if metric_of(column).more_is_better else "← better")
    return list(grid[:, 0])


def _draw_panel(axes: Axes, effects: Sequence[Effect], losses: Sequence[str]) -> None:
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axhline(len(losses) - 1.5, color="0.8", linewidth=0.8)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    own = {effect.loss: effect for effect in effects}
    for place, effect in enumerate(own[loss] for loss in losses):
        shape = "D" if effect.loss == MEAN else "o"
        if effect.paper is not None:
            axes.plot(effect.paper, place, shape, markersize=7, markerfacecolor="none", markeredgecolor=_PAPER)
        if effect.loss == MEAN and effect.paper_all is not None:
            axes.plot(effect.paper_all, place, "|", markersize=15, markeredgewidth=2, color=_PAPER)
        if effect.effect is None:
            _write_missing(axes, 0.98, place, "missing")
            continue
        is_better = (effect.effect > 0) == metric_of(effect.column).more_is_better
        colour = (_BETTER if is_better else _WORSE) if effect.effect else "black"
        if effect.low is not None and effect.high is not None:
            axes.plot([effect.low, effect.high], [place, place], color=colour, linewidth=4, alpha=0.25)
        axes.plot(effect.effect, place, shape, markersize=7 if effect.loss == MEAN else 5, color=colour)


def _draw_pooled_panel(axes: Axes, effects: Sequence[Effect], losses: Sequence[str]) -> None:
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axhspan(len(losses) - 1.5, len(losses) - 0.5, color="0.93", zorder=0)
    axes.grid(axis="x", color="0.88")
    axes.set_axisbelow(True)
    for effect in effects:
        offset, shape, colour = _DRAWN[effect.split]
        place, is_mean = losses.index(effect.loss) + offset, effect.loss == MEAN
        if is_mean and effect.paper_all is not None:
            axes.plot(effect.paper_all, place, "|", markersize=11, markeredgewidth=2.5, color="black", zorder=4)
        if effect.effect is None or effect.low is None or effect.high is None:
            _write_missing(axes, 1, place, "missing ")
            continue
        axes.plot([effect.low, effect.high], [place, place], color=colour, linewidth=3 if is_mean else 1.3)
        axes.plot(effect.effect, place, shape, markersize=8 if is_mean else 4, color=colour)


def _write_missing(axes: Axes, right: float, place: float, text: str) -> None:
    axes.text(right, place, text, ha="right", va="center", color="0.6", transform=axes.get_yaxis_transform())


def _mark(shape: str, label: str, **style: object) -> Line2D:
    return Line2D([], [], linestyle="none", marker=shape, label=label, **style)  # type: ignore[arg-type]


def _legend() -> list[Line2D]:
    hollow = {"markerfacecolor": "none", "markeredgecolor": _PAPER}
    return [
        _mark("o", "ours, better (band: 95 % interval)", color=_BETTER),
        _mark("o", "ours, worse", color=_WORSE),
        _mark("o", "paper", **hollow),
        _mark("D", "mean of the losses shown (filled: ours)", **hollow),
        _mark("|", "paper's mean of its eight losses", color=_PAPER, markersize=12, markeredgewidth=2),
    ]
