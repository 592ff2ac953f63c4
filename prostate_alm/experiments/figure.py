"""The figure of what ALM changes: small multiples of class ratio by metric, a dot for each loss, the mean below."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from prostate_alm.experiments.effects import MEAN, Effect
from prostate_alm.experiments.paper_tables import RISING, loss_names, rate_columns

_TITLES = {
    "test_auc": "AUC",
    "fpr_at_tpr100": "FPR at 100 % TPR",
    "fpr_at_tpr95": "FPR at 95 % TPR",
    "fpr_at_tpr90": "FPR at 90 % TPR",
    **{f"rest_error_at_tpr{tpr}": f"others' error, {tpr} % TPR" for tpr in (80, 90, 95)},
    "balanced_accuracy": "balanced accuracy",
    "fpr_at_fn0": "FPR at 0 false negatives",
    "fpr_at_fn1": "FPR at 1 false negative",
}
_BETTER, _WORSE, _PAPER = "tab:blue", "tab:red", "0.35"


def draw_effects(path: Path, effects: Sequence[Effect], *, title: str) -> None:
    """Draw ALM minus baseline; blue is better than the baseline, red is worse, hollow marks are the paper's.

    Bands are paired 95 % intervals over the test samples, where they are known.

    Args:
        path: file to write; its suffix says the format.
        effects: of one pair of classes, or a cohort, and one test set; at least one.
        title: what the figure shows.
    """
    ratios, columns = sorted({effect.ratio for effect in effects}), rate_columns(effects[0].pair)
    losses = [loss for loss in loss_names() if any(effect.loss == loss for effect in effects)]
    height = 1.5 + len(ratios) * (0.9 + 0.26 * (len(losses) + 1))
    figure = Figure(figsize=(12, height), layout="constrained")
    grid = figure.subplots(len(ratios), len(columns), squeeze=False, sharex="col", sharey=True)
    for line, ratio in zip(grid, ratios, strict=True):
        for axes, column in zip(line, columns, strict=True):
            own = {effect.loss: effect for effect in effects if (effect.ratio, effect.column) == (ratio, column)}
            _draw_panel(axes, [own[loss] for loss in [*losses, MEAN]])
        line[0].set_ylabel(f"1:{ratio}", fontsize="large", fontweight="bold", rotation=0, labelpad=22)
        line[0].set_yticks(range(len(losses) + 1), [*(loss_names()[loss] for loss in losses), "mean"])
        line[0].set_ylim(len(losses) + 0.6, -0.6)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(_TITLES[column])
    for axes, column in zip(grid[-1], columns, strict=True):
        axes.set_xlabel("better →" if column in RISING else "← better")
    figure.suptitle(f"ALM minus baseline, percentage points. {title}")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=110)


def _draw_panel(axes: Axes, effects: Sequence[Effect]) -> None:
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axhline(len(effects) - 1.5, color="0.8", linewidth=0.8)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    for place, effect in enumerate(effects):
        shape = "D" if effect.loss == MEAN else "o"
        if effect.paper is not None:
            axes.plot(effect.paper, place, shape, markersize=7, markerfacecolor="none", markeredgecolor=_PAPER)
        if effect.loss == MEAN and effect.paper_all is not None:
            axes.plot(effect.paper_all, place, "|", markersize=15, markeredgewidth=2, color=_PAPER)
        if effect.effect is None:
            axes.text(
                0.98, place, "missing", ha="right", va="center", color="0.6", transform=axes.get_yaxis_transform()
            )
            continue
        is_better = effect.effect > 0 if effect.column in RISING else effect.effect < 0
        colour = _BETTER if is_better else _WORSE if effect.effect else "black"
        if effect.low is not None and effect.high is not None:
            axes.plot([effect.low, effect.high], [place, place], color=colour, linewidth=4, alpha=0.25)
        axes.plot(effect.effect, place, shape, markersize=7 if effect.loss == MEAN else 5, color=colour)


def _legend() -> list[Line2D]:
    def mark(shape: str, label: str, **style: object) -> Line2D:
        return Line2D([], [], linestyle="none", marker=shape, label=label, **style)  # type: ignore[arg-type]

    hollow = {"markerfacecolor": "none", "markeredgecolor": _PAPER}
    return [
        mark("o", "ours, better (band: 95 % interval)", color=_BETTER),
        mark("o", "ours, worse", color=_WORSE),
        mark("o", "paper", **hollow),
        mark("D", "mean of the losses shown (filled: ours)", **hollow),
        mark("|", "paper's mean of its eight losses", color=_PAPER, markersize=12, markeredgewidth=2),
    ]
