"""The paper's tables with our figures beside the paper's, and what is missing in them; nothing is computed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_alm.experiments.grid import ARMS, Arm, Cell, side_folder
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


@dataclass(frozen=True)
class TablePlan:
    """A table: of which classes, and where each column lies in an ensemble's metrics; no columns: chosen parameters.

    `pair` is None for a cohort.
    """

    name: str
    title: str
    pair: Task | None
    columns: Mapping[str, tuple[str, str, str]]
    paper: str | None


@dataclass(frozen=True)
class TableFigure:
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
    arm: str
    reason: str


@dataclass(frozen=True)
class Table:
    """A plan of a table, its cells with their arms by class ratio, and a row for each figure of them."""

    plan: TablePlan
    cells: tuple[tuple[Cell, Arm], ...]
    rows: tuple[TableFigure, ...]
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
_PAPER_TABLES = (
    TablePlan("table1", "Cohort, test studies at the class ratio", None, rate_paths("test", COHORT_COLUMNS), "table1"),
    TablePlan("table3", "Cohort, ensemble and its members", None, _MEMBER_COLUMNS, "table3"),
    TablePlan("table7", "Cohort, chosen parameters", None, {}, "table7"),
    TablePlan("table2", "Classes 0 and 1, test set at the class ratio", (0, 1), rate_paths("test"), "table2"),
    TablePlan("table4", "Classes 0 and 1, ensemble and its members", (0, 1), _MEMBER_COLUMNS, "table4"),
    TablePlan("table5", "Classes 6 and 7, test set at the class ratio", (6, 7), rate_paths("test"), "table5"),
    TablePlan("table6", "Classes 0 and 1, all test positives", (0, 1), rate_paths("test_all_positives"), "table6"),
    TablePlan("table8", "Classes 0 and 1, chosen parameters", (0, 1), {}, "table8"),
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
        self.root = root

    def folder(self, cell: Cell, arm: Arm) -> Path:
        """Return the folder of an ensemble."""
        return self.root / side_folder(self.plan, cell, arm=arm)

    def has(self, cell: Cell, arm: Arm) -> bool:
        """Whether the plan trains this."""
        plan = self.plan
        known = cell.pair in plan.tasks and cell.ratio in plan.ratios and cell.loss in plan.losses
        return known and (arm == "baseline" or plan.has_alm(cell.loss))

    def metrics(self, cell: Cell, arm: Arm) -> dict[str, Any]:
        """Return the metrics of an ensemble; empty while there are none."""
        return RunFolder(self.folder(cell, arm)).read_json(METRICS)

    def parameters(self, cell: Cell, arm: Arm) -> dict[str, float]:
        """Return the chosen parameters; empty while there is no choice."""
        found: dict[str, float] = RunFolder(self.folder(cell, arm)).read_json(SELECTION).get("parameters", {})
        return found

    def why_missing(self, cell: Cell, arm: Arm) -> str:
        """Return why there is no figure, or why it rests on fewer members than planned; empty when all is there."""
        if not self.has(cell, arm):
            return "not in the plan"
        made = self.metrics(cell, arm)
        if made:
            members, planned = len(made.get("members", [])), self.plan.members
            return f"only {members} of {planned} members" if members < planned else ""
        finished = len(list(self.folder(cell, arm).glob(f"**/member-*/{METRICS}")))
        return f"not evaluated yet: {finished} members finished, candidates included" if finished else "not trained yet"


def figure_at(metrics: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Return what lies at a path of nested mappings, None when a part of it is absent.

    >>> figure_at({"ensemble": {"test": {"auc": 0.5}}}, ("ensemble", "test", "auc"))
    0.5
    """
    found: Any = metrics
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def table_plans(plan: Plan) -> list[TablePlan]:
    """Return the paper's tables of a cohort or of pairs of classes, and one like table 2 for each pair it lacks.

    Where all classes are told apart there is one for each that is critical.
    """
    if plan.critical is not None:
        paths = rate_paths("test", CLASS_COLUMNS)
        return [
            TablePlan(f"critical-{c}", f"Critical class {c}, all test samples", (c,), paths, None)
            for c in plan.critical
        ]
    known = {table.pair for table in _PAPER_TABLES}
    others = [
        TablePlan(
            f"classes-{a}-{b}", f"Classes {a} and {b}, test set at the class ratio", (a, b), rate_paths("test"), None
        )
        for a, b in plan.pairs or ()
        if (a, b) not in known
    ]
    of_cohort = plan.pairs is None
    return [*(table for table in _PAPER_TABLES if (table.pair is None) == of_cohort), *others]


def make_table(results: Results, table: TablePlan) -> Table:
    """Return a table with all cells of the paper and of the plan.

    Args:
        results: the experiment.
        table: one of `table_plans`.
    """
    cells = tuple(_cells(results, table))
    rows, missing = [], []
    for cell, arm in cells:
        found = list(_rows(results, table, cell, arm))
        rows += found
        absent = [row.key.column for row in found if row.ours is None]
        where = METRICS if table.columns else SELECTION
        reason = results.why_missing(cell, arm) or (f"no {', '.join(absent)} in its {where}" if absent else "")
        if reason:
            missing.append(Missing(table.name, cell.ratio, cell.loss, arm, reason))
    return Table(table, cells, tuple(rows), tuple(missing))


def _cells(results: Results, table: TablePlan) -> Iterator[tuple[Cell, Arm]]:
    of_paper = paper_table("table1" if table.pair is None else "table2") if table.paper else {}  # cells of all tables
    in_paper = {(key.ratio, key.loss, key.arm) for key in of_paper}
    for ratio in sorted({ratio for ratio, *_ in in_paper} | set(results.plan.ratios)):
        for arm in ARMS:
            for loss in loss_names():
                cell = Cell(table.pair, ratio, loss)
                if (ratio, loss, arm) in in_paper or results.has(cell, arm):
                    yield cell, arm


def _rows(results: Results, table: TablePlan, cell: Cell, arm: Arm) -> Iterator[TableFigure]:
    paper = paper_table(table.paper) if table.paper else {}
    if not table.columns:
        yield from _parameter_rows(results.parameters(cell, arm), paper, cell, arm)
        return
    metrics = results.metrics(cell, arm)
    for column, path in table.columns.items():
        key = Key(cell.ratio, cell.loss, arm, column)
        low, high = _interval(metrics, path)
        of_draws = path[:2] == ("ensemble", "test")
        draws = figure_at(metrics, (path[0], "test_draws", path[2])) if of_draws else None
        yield TableFigure(key, percent(figure_at(metrics, path)), low, high, paper.get(key), percent(draws))


def _parameter_rows(
    chosen: Mapping[str, float], paper: Mapping[Key, float], cell: Cell, arm: Arm
) -> Iterator[TableFigure]:
    for column in PARAMETER_COLUMNS:
        key = Key(cell.ratio, cell.loss, arm, column)
        of_the_baseline = arm == "alm" and column not in ("mu0", "rho", "delta")  # it has a row there
        if not of_the_baseline and (key in paper or column in chosen):
            yield TableFigure(key, chosen.get(column), None, None, paper.get(key), None)


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
