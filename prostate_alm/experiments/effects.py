"""What ALM changes: constrained minus baseline ensemble, for each loss and on average, beside the paper's change."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from prostate_alm.experiments.paper_tables import loss_names, paper_effects, rate_columns
from prostate_alm.experiments.plan import Task
from prostate_alm.experiments.tables import Results, figure_at, percent, rate_paths

MEAN = "mean"
"""Name of the row that holds the mean over the losses."""

SPLITS = ("test", "test_draws", "test_all_positives")
"""Test set at the class ratio, the mean over many draws of it, and with all positives."""

_PAPER_TABLES: dict[tuple[Task | None, str], str] = {
    (None, "test"): "table1",
    (None, "test_draws"): "table1",
    ((0, 1), "test"): "table2",
    ((0, 1), "test_draws"): "table2",
    ((6, 7), "test"): "table5",
    ((6, 7), "test_draws"): "table5",
    ((0, 1), "test_all_positives"): "table6",
}


@dataclass(frozen=True)
class Effect:
    """ALM minus baseline in percentage points, None where an ensemble is missing.

    `loss` is `MEAN` for the mean over the losses that have both ensembles; `losses` says how many these are, `paper` is
    the paper's mean over the same ones, and `paper_all` over all of its losses. `low` and `high` bound the paired 95 %
    interval over the test samples; `p_value` is DeLong's, for the AUC.
    """

    pair: Task | None
    split: str
    ratio: int
    loss: str
    column: str
    effect: float | None
    paper: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    losses: int = 1
    paper_all: float | None = None


def all_effects(results: Results) -> list[Effect]:
    """Return the effects for all pairs, splits, class ratios, losses and columns of the plan.

    A class ratio at which no test positive was left out has the first split alone: the others are left out where the
    first has effects and they have none.

    Args:
        results: the experiment.
    """
    plan = results.plan
    effects = [
        effect
        for pair in plan.tasks
        for split in SPLITS
        for ratio in sorted(plan.ratios)
        for column in rate_columns(pair)
        for effect in _effects(results, pair, split=split, ratio=ratio, column=column)
    ]
    known = {(one.pair, one.split, one.ratio) for one in effects if one.effect is not None}
    return [
        one
        for one in effects
        if (one.pair, one.split, one.ratio) in known or (one.pair, SPLITS[0], one.ratio) not in known
    ]


def _effects(results: Results, pair: Task | None, *, split: str, ratio: int, column: str) -> Iterator[Effect]:
    table = _PAPER_TABLES.get((pair, split))
    paper = paper_effects(table, ratio, column) if table else {}
    ours: dict[str, float] = {}
    for loss in loss_names():
        if results.has(pair, ratio, loss, "alm"):
            known = Effect(pair, split, ratio, loss, column, None, paper.get(loss))
            effect = _measured(results, known)
            if effect.effect is not None:
                ours[loss] = effect.effect
            yield effect
    same = [paper[loss] for loss in ours if loss in paper]
    yield Effect(
        pair,
        split,
        ratio,
        MEAN,
        column,
        effect=fmean(ours.values()) if ours else None,
        paper=fmean(same) if same else None,
        losses=len(ours),
        paper_all=fmean(paper.values()) if paper else None,
    )


def _measured(results: Results, known: Effect) -> Effect:
    """Return `known` with our figures, where both ensembles have them."""
    path = rate_paths(known.split, [known.column])[known.column]
    constrained = results.metrics(known.pair, known.ratio, known.loss, "alm")
    baseline = results.metrics(known.pair, known.ratio, known.loss, "baseline")
    after, before = figure_at(constrained, path), figure_at(baseline, path)
    if not isinstance(after, int | float) or not isinstance(before, int | float):
        return known
    paired = ("against_baseline", known.split)
    low, high = (figure_at(constrained, (*paired, f"{path[-1]}_difference_{end}")) for end in ("low", "high"))
    return replace(
        known,
        effect=100.0 * (after - before),
        low=percent(low),
        high=percent(high),
        p_value=figure_at(constrained, (*paired, "p_value")) if known.column == "test_auc" else None,
    )


def auc_count(effects: list[Effect]) -> tuple[int, int]:
    """Return in how many cells the AUC rose, and in how many it could be compared.

    Args:
        effects: of one pair and split.
    """
    return _count(one.effect for one in _of_auc(effects))


def paper_auc_count(effects: list[Effect]) -> tuple[int, int]:
    """Return the same for the paper's figures."""
    return _count(one.paper for one in _of_auc(effects))


def _of_auc(effects: list[Effect]) -> list[Effect]:
    return [effect for effect in effects if effect.column == "test_auc" and effect.loss != MEAN]


def _count(differences: Iterable[float | None]) -> tuple[int, int]:
    known = [difference for difference in differences if difference is not None]
    return sum(difference > 0 for difference in known), len(known)
