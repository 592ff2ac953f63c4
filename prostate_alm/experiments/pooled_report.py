"""The report of several replicates of a plan: pooled effects as CSV, Markdown and figures, and what is missing."""

import csv
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from prostate_alm.experiments.effects import MEAN
from prostate_alm.experiments.markdown import NONE, grid, signed
from prostate_alm.experiments.paper_tables import loss_names, rate_columns
from prostate_alm.experiments.plan import pair_as_name, pair_in_words
from prostate_alm.experiments.replicates import (
    RESAMPLES,
    Gap,
    PooledEffect,
    Replicate,
    find_gaps,
    pooled_effects,
    read_replicates,
)
from prostate_alm.experiments.report import HEADINGS, SPLIT_WORDS
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import write_text_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAWN = {"test_all_positives": (-0.17, "o", "tab:blue"), "test_draws": (0.17, "s", "tab:orange")}
"""Test sets of the figure: offset, mark and colour."""


def write_pooled_report(
    roots: Sequence[Path], output: Path, *, resamples: int = RESAMPLES, progress: Progress = silent
) -> list[Path]:
    """Write what ALM changes on average over replicates, whatever part of them is finished.

    Args:
        roots: folders of experiments of one plan that differ in their seed only.
        output: folder of the report; made when absent, files of an earlier report are replaced.
        resamples: of the bootstrap over replicates and test images.
        progress: called after each pair of classes and class ratio.

    Returns:
        The files: `effect_pooled.csv`, one `effect-pooled-*.png` for each pair of classes with results, `report.md`.

    Raises:
        ValueError: a folder is no experiment, or they are not replicates of each other.
    """
    replicates = read_replicates(roots)
    effects = pooled_effects(replicates, resamples=resamples, progress=progress)
    output.mkdir(parents=True, exist_ok=True)
    table = output / "effect_pooled.csv"
    _write_csv(table, effects)
    drawable = {effect.pair: None for effect in effects if effect.split in _DRAWN and effect.effect is not None}
    figures = [output / f"effect-pooled-{pair_as_name(pair)}.png" for pair in drawable]
    for pair, path in zip(drawable, figures, strict=True):
        title = f"{pair_in_words(pair)}, mean of {len(replicates)} replicates"
        draw_pooled_effects(path, [effect for effect in effects if effect.pair == pair], title=title)
    report = output / "report.md"
    write_text_atomically(report, _markdown(replicates, effects, figures, resamples=resamples))
    return [table, *figures, report]


def _write_csv(path: Path, effects: Iterable[PooledEffect]) -> None:
    header = ("pair", "ratio", "test_set", "loss", "metric", "difference", "low", "high", "replicates", "paper")
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((*header, "paper_all", "losses", "cells", "rises"))
        for one in effects:
            place = (pair_as_name(one.pair), f"1:{one.ratio}", one.split, _name(one.loss), one.column)
            figures = [_rounded(value) for value in (one.effect, one.low, one.high)]
            paper = [_rounded(value) for value in (one.paper, one.paper_all)]
            counts = (one.losses, one.cells, one.rises)
            writer.writerow((*place, *figures, one.replicates, *paper, *counts))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _name(loss: str) -> str:
    return "mean" if loss == MEAN else loss_names()[loss]


def _markdown(
    replicates: Sequence[Replicate], effects: Sequence[PooledEffect], figures: Sequence[Path], *, resamples: int
) -> str:
    plan, seeds = replicates[0].results.plan, ", ".join(str(replicate.seed) for replicate in replicates)
    parts = [
        f"# Pooled results of the plan `{plan.name}`",
        f"{len(replicates)} replicates with seeds {seeds}, {plan.members} members each. ALM minus baseline of the "
        f"ensembles in percentage points, mean over the replicates, [95 % interval], (paper). Intervals are by a "
        f"paired bootstrap of {resamples} resamples over replicates and test images. A cell is a loss in a replicate; "
        "a loss that lacks an ensemble in a replicate is left out of the mean of that replicate. "
        f"{NONE} where there is no figure: the last section says why.",
        "## Mean effect of ALM over the losses",
        _summary(effects),
        "## Effect of ALM for each loss",
    ]
    for (pair, split), group in groupby(effects, key=lambda effect: (effect.pair, effect.split)):
        some = list(group)
        if any(effect.effect is not None for effect in some):
            parts += [f"### {pair_in_words(pair)}, {SPLIT_WORDS[split]}", _losses(some)]
    parts += [f"![{path.stem}]({path.name})" for path in figures]
    parts += ["## What is missing", _missing(find_gaps(replicates))]
    return "\n\n".join(parts) + "\n"


def _rows(effects: Iterable[PooledEffect]) -> list[list[PooledEffect]]:
    """Return the effects on one test set of a loss, or of the mean, at a class ratio: one for each column."""
    rows: dict[tuple[object, ...], list[PooledEffect]] = {}
    for effect in effects:
        rows.setdefault((effect.pair, effect.split, effect.ratio, effect.loss), []).append(effect)
    return list(rows.values())


def _summary(effects: Iterable[PooledEffect]) -> str:
    means = [effect for effect in effects if effect.loss == MEAN]
    header = ["data", "test set", "class ratio", "losses", "replicates", "cells with AUC up", *_headings(means)]
    rows = []
    for own in _rows(means):
        auc = own[0]
        place = [pair_in_words(auc.pair), SPLIT_WORDS[auc.split], f"1:{auc.ratio}"]
        counts = [str(auc.losses), str(auc.replicates), f"{auc.rises} of {auc.cells}"]
        rows.append([*place, *counts, *map(_figure, own)])
    return grid(header, rows)


def _headings(effects: Sequence[PooledEffect]) -> list[str]:
    return [HEADINGS[column] for column in rate_columns(effects[0].pair)]


def _losses(effects: Sequence[PooledEffect]) -> str:
    rows = []
    for own in _rows(effects):
        auc = own[0]
        name = f"**mean of {auc.losses}**" if auc.loss == MEAN else loss_names()[auc.loss]
        rows.append([f"1:{auc.ratio}", name, str(auc.replicates), f"{auc.rises} of {auc.cells}", *map(_figure, own)])
        if auc.loss == MEAN and auc.paper_all is not None:
            paper = [signed(one.paper_all, one.column) for one in own]
            rows.append([f"1:{auc.ratio}", "paper's mean of all", "", "", *paper])
    return grid(["class ratio", "loss", "replicates", "cells with AUC up", *_headings(effects)], rows)


def _figure(one: PooledEffect) -> str:
    interval = f" [{signed(one.low, one.column)}, {signed(one.high, one.column)}]" if one.effect is not None else ""
    paper = f" ({signed(one.paper, one.column)})" if one.paper is not None else ""
    return f"{signed(one.effect, one.column)}{interval}{paper}"


def _missing(gaps: Sequence[Gap]) -> str:
    if not gaps:
        return "Nothing: every cell of every replicate rests on all members."
    groups: dict[tuple[str, ...], list[str]] = {}
    for gap in gaps:
        cell = gap.cell
        use = "left out" if gap.is_absent else "used"
        key = (str(gap.seed), pair_in_words(cell.pair), f"1:{cell.ratio}", gap.training, gap.reason, use)
        groups.setdefault(key, []).append(loss_names()[cell.loss])
    header = ["seed", "data", "class ratio", "training", "reason", "cell", "losses"]
    return grid(header, ([*key, ", ".join(losses)] for key, losses in groups.items()))


def draw_pooled_effects(path: Path, effects: Sequence[PooledEffect], *, title: str) -> None:
    """Draw ALM minus baseline: class ratio by metric, a mark with its interval for each loss, the mean below.

    Args:
        path: file to write; its suffix says the format.
        effects: of one pair of classes; drawn are those on all test positives and on draws at the class ratio.
        title: what the figure shows.
    """
    from matplotlib.figure import Figure

    some = [effect for effect in effects if effect.split in _DRAWN]
    ratios, columns = sorted({effect.ratio for effect in some}), rate_columns(effects[0].pair)
    losses = [loss for loss in [*loss_names(), MEAN] if any(effect.loss == loss for effect in some)]
    height = 1.7 + len(ratios) * (0.7 + 0.34 * len(losses))
    figure = Figure(figsize=(13, height), layout="constrained")
    grid = figure.subplots(len(ratios), len(columns), squeeze=False, sharex="col", sharey=True)
    for line, ratio in zip(grid, ratios, strict=True):
        for axes, column in zip(line, columns, strict=True):
            _draw_panel(axes, [one for one in some if (one.ratio, one.column) == (ratio, column)], losses)
        line[0].set_ylabel(f"1:{ratio}", fontsize="large", fontweight="bold", rotation=0, labelpad=22)
        line[0].set_yticks(range(len(losses)), [_name(loss) for loss in losses])
        line[0].get_yticklabels()[-1].set_fontweight("bold")
        line[0].set_ylim(len(losses) - 0.4, -0.6)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(HEADINGS[column])
    for axes, column in zip(grid[-1], columns, strict=True):
        axes.set_xlabel("better →" if column == "test_auc" else "← better")
    figure.suptitle(f"ALM minus baseline, percentage points, with 95 % intervals. {title}")
    _draw_legend(figure)
    figure.savefig(path, dpi=110)


def _draw_panel(axes: "Axes", effects: Sequence[PooledEffect], losses: Sequence[str]) -> None:
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
            axes.text(1, place, "missing ", color="0.6", ha="right", va="center", transform=axes.get_yaxis_transform())
            continue
        axes.plot([effect.low, effect.high], [place, place], color=colour, linewidth=3 if is_mean else 1.3)
        axes.plot(effect.effect, place, shape, markersize=8 if is_mean else 4, color=colour)


def _draw_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker=shape, color=colour, label=SPLIT_WORDS[split])
        for split, (_, shape, colour) in _DRAWN.items()
    ]
    paper = Line2D([], [], linestyle="none", marker="|", markersize=11, markeredgewidth=2.5, color="black")
    paper.set_label("paper's mean of its eight losses")
    figure.legend(handles=[*marks, paper], loc="outside lower center", ncols=3, frameon=False)
