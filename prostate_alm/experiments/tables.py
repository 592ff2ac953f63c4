"""The paper's tables with our figures beside the paper's, and what is missing in them; nothing is computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_alm.experiments.grid import Cell, Training, side_folder
from prostate_alm.experiments.paper_tables import (
    CLASS_COLUMNS,
    COHORT_COLUMNS,
    RATE_COLUMNS,
    Key,
    loss_names,
    paper_table,
)
from prostate_alm.experiments.plan import Plan, Task, started_plan
from prostate_alm.experiments.run import SELECTION
from prostate_alm.results.run_folder import METRICS, RunFolder

PARAMETER_COLUMNS = ("margin", "gamma", "weight", "beta", "max_margin", "scale", "mu0", "rho", "delta")
TRAININGS: tuple[Training, ...] = ("baseline", "alm")


@dataclass(frozen=True)
class Layout:
    """A table: of which classes, and where each column lies in an ensemble's metrics; no columns: chosen parameters.

    `pair` is None for a cohort.
    """

    name: str
    title: str
    pair: Task | None
    columns: Mapping[str, tuple[str, str, str]]
    paper: str | None


@dataclass(frozen=True)
class Row:
    """A figure beside the paper's; AUCs and rates in percent, None where there is none.

    `low` and `high` bound the 95 % interval; `ours_mean_of_draws` is the mean over many draws of the test positives.
    """

    key: Key
    ours: float | None
    low: float | None
    high: float | None
    paper: float | None
    ours_mean_of_draws: float | None


@dataclass(frozen=True)
class Missing:
    """A cell of a table that lacks our figure, or has it from fewer members than planned, and why."""

    table: str
    ratio: int
    loss: str
    training: str
    reason: str


@dataclass(frozen=True)
class Table:
    """A layout, its cells (class ratio, loss, training) by class ratio, and a row for each figure of them."""

    layout: Layout
    cells: tuple[tuple[int, str, Training], ...]
    rows: tuple[Row, ...]
    missing: tuple[Missing, ...]


def rate_paths(split: str, columns: Sequence[str] = RATE_COLUMNS) -> dict[str, tuple[str, str, str]]:
    """Return where AUC and rates lie in an ensemble's metrics.json, for one of its splits.

    >>> rate_paths("test")["fpr_at_tpr95"]
    ('ensemble', 'test', 'fpr_at_tpr95')
    """
    return {column: ("ensemble", split, column.removeprefix("test_")) for column in columns}


_MEMBER_COLUMNS = {
    "ensemble_auc": ("ensemble", "test", "auc"),
    "member_auc_mean": ("member_mean", "test", "auc"),
    "member_auc_std": ("member_std", "test", "auc"),
}
_PAPER_LAYOUTS = (
    Layout("table1", "Cohort, test studies at the class ratio", None, rate_paths("test", COHORT_COLUMNS), "table1"),
    Layout("table3", "Cohort, ensemble and its members", None, _MEMBER_COLUMNS, "table3"),
    Layout("table7", "Cohort, chosen parameters", None, {}, "table7"),
    Layout("table2", "Classes 0 and 1, test set at the class ratio", (0, 1), rate_paths("test"), "table2"),
    Layout("table4", "Classes 0 and 1, ensemble and its members", (0, 1), _MEMBER_COLUMNS, "table4"),
    Layout("table5", "Classes 6 and 7, test set at the class ratio", (6, 7), rate_paths("test"), "table5"),
    Layout("table6", "Classes 0 and 1, all test positives", (0, 1), rate_paths("test_all_positives"), "table6"),
    Layout("table8", "Classes 0 and 1, chosen parameters", (0, 1), {}, "table8"),
)


class Results:
    """What an experiment has on disk.

    Args:
        root: folder of the experiment.

    Raises:
        ValueError: no experiment was started there.
    """

    def __init__(self, root: Path) -> None:
        self.plan: Plan = started_plan(root)
        self._root = root

    def has(self, pair: Task | None, ratio: int, loss: str, training: Training) -> bool:
        """Whether the plan trains this."""
        plan = self.plan
        known = pair in plan.tasks and ratio in plan.ratios and loss in plan.losses
        return known and (training == "baseline" or plan.has_alm(loss))

    def metrics(self, pair: Task | None, ratio: int, loss: str, training: Training) -> dict[str, Any]:
        """Return the metrics of an ensemble; empty while there are none."""
        return RunFolder(self._folder(pair, ratio, loss, training)).read_json(METRICS)

    def parameters(self, pair: Task | None, ratio: int, loss: str, training: Training) -> dict[str, float]:
        """Return the chosen parameters; empty while there is no choice."""
        found: dict[str, float] = (
            RunFolder(self._folder(pair, ratio, loss, training)).read_json(SELECTION).get("parameters", {})
        )
        return found

    def why_missing(self, pair: Task | None, ratio: int, loss: str, training: Training) -> str:
        """Return why there is no figure, or why it rests on fewer members than planned; empty when all is there."""
        if not self.has(pair, ratio, loss, training):
            return "not in the plan"
        folder = self._folder(pair, ratio, loss, training)
        made = RunFolder(folder).read_json(METRICS)
        if made:
            members, planned = len(made.get("members", [])), self.plan.members
            return f"only {members} of {planned} members" if members < planned else ""
        finished = len(list(folder.glob(f"**/member-*/{METRICS}")))
        return f"not evaluated yet: {finished} members finished, candidates included" if finished else "not trained yet"

    def _folder(self, pair: Task | None, ratio: int, loss: str, training: Training) -> Path:
        return self._root / side_folder(self.plan, Cell(pair, ratio, loss), training=training)


def figure_at(metrics: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return what lies at a path of nested mappings, None when a part of it is absent.

    >>> figure_at({"ensemble": {"test": {"auc": 0.5}}}, ("ensemble", "test", "auc"))
    0.5
    """
    found: Any = metrics
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def layouts(plan: Plan) -> list[Layout]:
    """Return the paper's tables of a cohort or of pairs of classes, and one like table 2 for each pair it lacks.

    Where all classes are told apart there is one for each that is critical.
    """
    known = {layout.pair for layout in _PAPER_LAYOUTS}
    others = [
        Layout(
            f"classes-{a}-{b}", f"Classes {a} and {b}, test set at the class ratio", (a, b), rate_paths("test"), None
        )
        for a, b in plan.pairs or ()
        if (a, b) not in known
    ]
    if plan.critical is not None:
        paths = rate_paths("test", CLASS_COLUMNS)
        return [
            Layout(f"critical-{c}", f"Critical class {c}, all test samples", (c,), paths, None) for c in plan.critical
        ]
    of_cohort = plan.pairs is None
    return [*(layout for layout in _PAPER_LAYOUTS if (layout.pair is None) == of_cohort), *others]


def make_table(results: Results, layout: Layout) -> Table:
    """Return a table with all cells of the paper and of the plan.

    Args:
        results: the experiment.
        layout: one of `layouts`.
    """
    cells = tuple(_cells(results, layout))
    rows, missing = [], []
    for ratio, loss, training in cells:
        found = list(_rows(results, layout, ratio=ratio, loss=loss, training=training))
        rows += found
        reason = results.why_missing(layout.pair, ratio, loss, training)
        absent = [row.key.column for row in found if row.ours is None]
        if not reason and absent:
            reason = f"no {', '.join(absent)} in its {METRICS if layout.columns else SELECTION}"
        if reason:
            missing.append(Missing(layout.name, ratio, loss, training, reason))
    return Table(layout, cells, tuple(rows), tuple(missing))


def _cells(results: Results, layout: Layout) -> Iterator[tuple[int, str, Training]]:
    of_paper = paper_table("table1" if layout.pair is None else "table2") if layout.paper else {}  # cells of all tables
    in_paper = {(key.ratio, key.loss, key.training) for key in of_paper}
    ratios = sorted({ratio for ratio, *_ in in_paper} | set(results.plan.ratios))
    for ratio in ratios:
        for training in TRAININGS:
            for loss in loss_names():
                if (ratio, loss, training) in in_paper or results.has(layout.pair, ratio, loss, training):
                    yield ratio, loss, training


def _rows(results: Results, layout: Layout, *, ratio: int, loss: str, training: Training) -> Iterator[Row]:
    paper = paper_table(layout.paper) if layout.paper else {}
    if not layout.columns:
        yield from _parameter_rows(results, layout.pair, paper, ratio=ratio, loss=loss, training=training)
        return
    metrics = results.metrics(layout.pair, ratio, loss, training)
    for column, path in layout.columns.items():
        key = Key(ratio, loss, training, column)
        low, high = _interval(metrics, path)
        of_draws = path[:2] == ("ensemble", "test")
        draws = figure_at(metrics, (path[0], "test_draws", path[2])) if of_draws else None
        yield Row(key, percent(figure_at(metrics, path)), low, high, paper.get(key), percent(draws))


def _parameter_rows(
    results: Results, pair: Task | None, paper: Mapping[Key, float], *, ratio: int, loss: str, training: Training
) -> Iterator[Row]:
    chosen = results.parameters(pair, ratio, loss, training)
    for column in PARAMETER_COLUMNS:
        key = Key(ratio, loss, training, column)
        of_the_baseline = training == "alm" and column not in ("mu0", "rho", "delta")  # it has a row there
        if not of_the_baseline and (key in paper or column in chosen):
            yield Row(key, chosen.get(column), None, None, paper.get(key), None)


def _interval(metrics: Mapping[str, Any], path: tuple[str, str, str]) -> tuple[float | None, float | None]:
    bounds = figure_at(metrics, ("intervals", *path[1:])) if path[0] == "ensemble" else None
    low, high = bounds if isinstance(bounds, list) and len(bounds) == 2 else (None, None)
    return percent(low), percent(high)


def percent(rate: Any) -> float | None:
    """Return a fraction in percent, None when it is no number.

    >>> percent(0.25)
    25.0
    """
    return 100.0 * rate if isinstance(rate, int | float) else None
