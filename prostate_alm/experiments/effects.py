"""What ALM changes: constrained minus baseline ensemble, for each loss and on average, beside the paper's change."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import fmean

from prostate_alm.experiments.grid import ARMS, Cell
from prostate_alm.experiments.paper_tables import loss_names, paper_effects, rate_columns
from prostate_alm.experiments.plan import Plan, Task
from prostate_alm.experiments.tables import Results, figure_at, percent, rate_paths

MEAN = "mean"
"""Name of the row that holds the mean over the losses."""

SPLITS = {
    "test": "test set at the class ratio",
    "test_draws": "mean over many draws of the test set at the class ratio",
    "test_all_positives": "all test positives",
}
"""Test sets, in words."""

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

    Of several replicates it is the mean over them, with an interval over replicates and test images; `replicates` says
    how many have the loss, or any loss for `MEAN`; `cells` how many pairs of (loss, replicate) are in the mean, and
    `rises` in how many of them the figure rose.
    """

    pair: Task | None
    split: str
    ratio: int
    loss: str
    column: str
    effect: float | None = None
    paper: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    losses: int = 1
    paper_all: float | None = None
    replicates: int = 0
    cells: int = 0
    rises: int = 0


def all_effects(results: Results) -> list[Effect]:
    """Return the effects of an experiment; see `effects_of`."""
    return effects_of(results.plan, lambda known: _measured(results, known))


def effects_of(plan: Plan, measure: Callable[[Effect], Effect]) -> list[Effect]:
    """Return the effects for all pairs, splits, class ratios, losses and columns of a plan.

    A class ratio at which no test positive was left out has the first split alone: the others are left out where the
    first has effects and they have none.

    Args:
        plan: the plan.
        measure: puts our figures to the paper's; of `MEAN` it gets the mean of what it gave for the losses.
    """
    effects = [
        effect
        for pair in plan.tasks
        for split in SPLITS
        for ratio in sorted(plan.ratios)
        for column in rate_columns(pair)
        for effect in _of_losses(plan, Effect(pair, split, ratio, MEAN, column), measure)
    ]
    known = {(one.pair, one.split, one.ratio) for one in effects if one.effect is not None}
    return [
        one
        for one in effects
        if (one.pair, one.split, one.ratio) in known or (one.pair, "test", one.ratio) not in known
    ]


def _of_losses(plan: Plan, mean: Effect, measure: Callable[[Effect], Effect]) -> Iterator[Effect]:
    table = _PAPER_TABLES.get((mean.pair, mean.split))
    paper = paper_effects(table, mean.ratio, mean.column) if table else {}
    own = [measure(replace(mean, loss=loss, paper=paper.get(loss))) for loss in compared_losses(plan)]
    found = [one for one in own if one.effect is not None]
    yield from own
    yield measure(
        replace(
            mean,
            effect=_mean([one.effect for one in found]),
            paper=_mean([one.paper for one in found]),
            losses=len(found),
            paper_all=_mean(paper.values()),
        )
    )


def loss_in_words(loss: str) -> str:
    """Return the name of a loss, or of the mean over them, as the tables print it."""
    return "mean" if loss == MEAN else loss_names()[loss]


def compared_losses(plan: Plan) -> list[str]:
    """Return the losses that a plan trains with the constraint, too, in the paper's order."""
    return [loss for loss in loss_names() if loss in plan.losses and plan.has_alm(loss)]


def _mean(values: Collection[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _measured(results: Results, known: Effect) -> Effect:
    """Return `known` with our figures, where both ensembles have them."""
    if known.loss == MEAN:
        return known
    path = rate_paths(known.split, [known.column])[known.column]
    cell = Cell(known.pair, known.ratio, known.loss)
    baseline, constrained = (results.metrics(cell, arm) for arm in ARMS)
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


def rises(differences: Iterable[float | None]) -> tuple[int, int]:
    """Return how many differences are above 0, and how many there are.

    >>> rises([0.5, None, -0.5])
    (1, 2)
    """
    known = [difference for difference in differences if difference is not None]
    return sum(difference > 0 for difference in known), len(known)
