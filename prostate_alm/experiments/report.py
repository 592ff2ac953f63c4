"""The report of an experiment or of replicates: tables and effects as CSV, Markdown and figures; what is missing."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from statistics import fmean

from prostate_alm.experiments.effects import MEAN, SPLITS, Effect, all_effects, loss_in_words, rises
from prostate_alm.experiments.paper_tables import loss_names, metric_of, rate_columns
from prostate_alm.experiments.plan import Task, pair_as_name, pair_in_words
from prostate_alm.experiments.replicates import RESAMPLES, Gap, find_gaps, pooled_effects, read_replicates
from prostate_alm.experiments.tables import (
    PARAMETER_COLUMNS,
    Missing,
    Results,
    Table,
    TableFigure,
    make_table,
    table_plans,
)
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import write_text_atomically

NONE = "–"
"""Where there is no figure."""

# The columns of the files, and what of a row they hold.
_FIGURES = {"class_ratio": "key.ratio", "loss": "key.loss", "training": "key.arm", "column": "key.column"} | {
    name: name for name in ("ours", "low", "high", "paper", "ours_mean_of_draws")
}
_EFFECTS = {"classes": "pair", "test_set": "split", "class_ratio": "ratio"} | {
    name: name for name in ("loss", "column", "effect", "low", "high", "p_value", "paper", "losses", "paper_all")
}
_POOLED = {"pair": "pair", "ratio": "ratio", "test_set": "split", "loss": "loss", "metric": "column"} | {
    "difference": "effect",
    **{name: name for name in ("low", "high", "replicates", "paper", "paper_all", "losses", "cells", "rises")},
}
_MISSING = {"table": "table", "class_ratio": "ratio", "loss": "loss", "training": "arm", "reason": "reason"}


def write_report(
    roots: Sequence[Path], output: Path, *, resamples: int = RESAMPLES, progress: Progress = silent
) -> list[Path]:
    """Write the tables of an experiment, or what ALM changes on average over replicates; whatever part is finished.

    Args:
        roots: the folder of an experiment, or those of several of one plan that differ in their seed only.
        output: folder of the report; made when absent, files of an earlier report are replaced.
        resamples: of the bootstrap over replicates and test images.
        progress: of several called after each pair of classes and class ratio.

    Returns:
        The files: of one folder `table*.csv`, `effect.csv`, `missing.csv` and one `effect-*.png` for each pair and test
        set with results; of several `effect_pooled.csv` and one `effect-pooled-*.png` for each pair with results;
        `report.md` with all of them.

    Raises:
        ValueError: a folder is no experiment, or they are not replicates of each other.
    """
    replicates = read_replicates(roots)
    write = _write_one if len(replicates) == 1 else partial(_write_pooled, resamples=resamples, progress=progress)
    files, figures, parts = write(replicates, output)
    report = output / "report.md"
    parts[-2:-2] = [f"![{path.stem}]({path.name})" for path in figures]  # before what is missing
    write_text_atomically(report, "\n\n".join(parts) + "\n")
    return [*files, *figures, report]


Written = tuple[list[Path], list[Path], list[str]]
"""Tables, figures, and the parts of the text, of which the last two say what is missing."""


def _write_one(replicates: Sequence[Results], output: Path) -> Written:
    from prostate_alm.experiments.figure import draw_effects  # loads matplotlib

    (results,) = replicates
    tables, effects = [make_table(results, table) for table in table_plans(results.plan)], all_effects(results)
    output.mkdir(parents=True, exist_ok=True)
    files = [_write_csv(output / f"{table.plan.name}.csv", _FIGURES, table.rows) for table in tables]
    missing = [one for table in tables for one in table.missing]
    files += [
        _write_csv(output / "effect.csv", _EFFECTS, effects),
        _write_csv(output / "missing.csv", _MISSING, missing),
    ]
    figures = []
    for pair, split, some in _test_sets(effects):
        figures.append(output / f"effect-{pair_as_name(pair)}-{split}.png")
        draw_effects(figures[-1], some, title=f"{pair_in_words(pair)}, {SPLITS[split]}")
    return files, figures, [*_parts_of_one(results, tables, effects), _missing_part(missing)]


def _write_pooled(replicates: Sequence[Results], output: Path, *, resamples: int, progress: Progress) -> Written:
    from prostate_alm.experiments.figure import draw_pooled_effects  # loads matplotlib

    effects = pooled_effects(replicates, resamples=resamples, progress=progress)
    output.mkdir(parents=True, exist_ok=True)
    figures = []
    for pair in dict.fromkeys(pair for pair, split, _ in _test_sets(effects) if split != "test"):
        figures.append(output / f"effect-pooled-{pair_as_name(pair)}.png")
        title = f"{pair_in_words(pair)}, mean of {len(replicates)} replicates"
        draw_pooled_effects(figures[-1], [effect for effect in effects if effect.pair == pair], title=title)
    parts = [*_pooled_parts(replicates, effects, resamples=resamples), _gaps_part(find_gaps(replicates))]
    return [_write_csv(output / "effect_pooled.csv", _POOLED, effects)], figures, parts


def _write_csv(path: Path, columns: Mapping[str, str], rows: Iterable[object]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row, name) for name in columns.values()] for row in rows)
    return path


def _cell(row: object, name: str) -> str | int | float | None:
    value = attrgetter(name)(row)
    match name.rpartition(".")[2]:
        case "pair":
            return pair_as_name(value)
        case "ratio":
            return f"1:{value}"
        case "loss":
            return loss_in_words(value)
    return float(f"{value:.6g}") if isinstance(value, float) else value  # 93.67, not 93.67000000000002


def _parts_of_one(results: Results, tables: Sequence[Table], effects: Sequence[Effect]) -> Iterator[str]:
    plan = results.plan
    yield f"# Results of the plan `{plan.name}`"
    yield (
        f"{plan.members} members, seed {plan.seed}. AUCs and rates in percent; each cell is ours (paper). "
        f"{NONE} where there is no figure: the last section says why."
    )
    for table in tables:
        number = f"Table {table.plan.name[-1]}. " if table.plan.paper else ""
        yield f"## {number}{table.plan.title}"
        yield from _table_parts(table)
    yield "## Effect of ALM"
    yield from _effect_parts(effects)
    yield from _over_classes(effects)
    yield "## What is missing"


def _pooled_parts(replicates: Sequence[Results], effects: Sequence[Effect], *, resamples: int) -> Iterator[str]:
    plan, seeds = replicates[0].plan, ", ".join(str(results.plan.seed) for results in replicates)
    yield f"# Pooled results of the plan `{plan.name}`"
    yield (
        f"{len(replicates)} replicates with seeds {seeds}, {plan.members} members each. ALM minus baseline of the "
        f"ensembles in percentage points, mean over the replicates, [95 % interval], (paper). Intervals are by a "
        f"paired bootstrap of {resamples} resamples over replicates and test images. A cell is a loss in a replicate; "
        "a loss that lacks an ensemble in a replicate is left out of the mean of that replicate. "
        f"{NONE} where there is no figure: the last section says why."
    )
    yield "## Mean effect of ALM over the losses"
    yield _summary([effect for effect in effects if effect.loss == MEAN])
    yield "## Effect of ALM for each loss"
    counts = {"replicates": lambda auc: str(auc.replicates), "cells with AUC up": _cells_up}
    for pair, split, some in _test_sets(effects):
        yield f"### {pair_in_words(pair)}, {SPLITS[split]}"
        yield _losses(some, _pooled_figure, counts)
    yield "## What is missing"


def _test_sets(effects: Iterable[Effect]) -> Iterator[tuple[Task | None, str, list[Effect]]]:
    """Yield pair, test set and effects where there are any."""
    for (pair, split), group in groupby(effects, key=lambda effect: (effect.pair, effect.split)):
        some = list(group)
        if any(effect.effect is not None for effect in some):
            yield pair, split, some


def _rows(effects: Iterable[Effect]) -> list[list[Effect]]:
    """Return the effects on one test set of a loss, or of the mean, at a class ratio: one for each column."""
    rows: dict[tuple[object, ...], list[Effect]] = {}
    for effect in effects:
        rows.setdefault((effect.pair, effect.split, effect.ratio, effect.loss), []).append(effect)
    return list(rows.values())


def _heads(columns: Iterable[str]) -> list[str]:
    return [metric_of(column).head for column in columns]


def _table_parts(table: Table) -> Iterator[str]:
    columns = list(table.plan.columns)
    header = ["training", *(_heads(columns) or ["parameters"])]
    for ratio, cells in groupby(table.cells, key=lambda one: one[0].ratio):
        rows = []
        for cell, arm in cells:
            own = {row.key.column: row for row in table.rows if row.key[:3] == (ratio, cell.loss, arm)}
            name = f"ALM with {loss_names()[cell.loss]}" if arm == "alm" else loss_names()[cell.loss]
            rows.append([name, *([_figure(own[column]) for column in columns] or [_parameters(own)])])
        yield f"### 1:{ratio}"
        yield grid(header, rows)


def _figure(row: TableFigure) -> str:
    digits = metric_of(row.key.column).digits
    ours, paper = (NONE if value is None else f"{value:.{digits}f}" for value in (row.ours, row.paper))
    return ours if row.paper is None else f"{ours} ({paper})"


def _parameters(own: Mapping[str, TableFigure]) -> str:
    words = []
    for column in PARAMETER_COLUMNS:
        if column in own:
            ours, paper = (NONE if value is None else f"{value:.4g}" for value in (own[column].ours, own[column].paper))
            words.append(f"{column} {ours} ({paper})")
    return ", ".join(words) or NONE


def _effect_parts(effects: Sequence[Effect]) -> Iterator[str]:
    sets = list(_test_sets(effects))
    if not sets:
        yield "No loss has both ensembles yet."
        return
    yield (
        "ALM minus baseline in percentage points, ours (paper); p is DeLong's. The mean is over the losses that have "
        "both ensembles, and so is the paper's beside it; the last row is the paper's mean over all of its losses."
    )
    for pair, split, some in sets:
        areas = [effect for effect in some if effect.column == "test_auc" and effect.loss != MEAN]
        (risen, cells), (in_paper, of_paper) = rises(one.effect for one in areas), rises(one.paper for one in areas)
        paper = f" (paper: {in_paper} of {of_paper})" if of_paper else ""
        yield f"### {pair_in_words(pair)}, {SPLITS[split]}"
        yield f"AUC up in {risen} of {cells} cells{paper}."
        yield _losses(some, _effect, {})


def _losses(
    effects: Sequence[Effect], show: Callable[[Effect], str], more: Mapping[str, Callable[[Effect], str]]
) -> str:
    """Return a row for each loss at each class ratio, the mean and the paper's mean below them.

    Args:
        effects: on one test set.
        show: an effect as the text of its cell.
        more: columns before the figures, of the first effect of the row.
    """
    rows = []
    for own in _rows(effects):
        first, ratio = own[0], f"1:{own[0].ratio}"
        name = f"**mean of {first.losses}**" if first.loss == MEAN else loss_names()[first.loss]
        rows.append([ratio, name, *(of(first) for of in more.values()), *map(show, own)])
        if first.loss == MEAN and first.paper_all is not None:
            paper = [_signed(one.paper_all, one.column) for one in own]
            rows.append([ratio, "paper's mean of all", *("" for _ in more), *paper])
    return grid(["class ratio", "loss", *more, *_heads(rate_columns(effects[0].pair))], rows)


def _summary(means: Sequence[Effect]) -> str:
    header = ["data", "test set", "class ratio", "losses", "replicates", "cells with AUC up"]
    rows = []
    for own in _rows(means):
        auc = own[0]
        place = [pair_in_words(auc.pair), SPLITS[auc.split], f"1:{auc.ratio}"]
        rows.append([*place, str(auc.losses), str(auc.replicates), _cells_up(auc), *map(_pooled_figure, own)])
    return grid([*header, *_heads(rate_columns(means[0].pair))], rows)


def _cells_up(one: Effect) -> str:
    return f"{one.rises} of {one.cells}"


def _over_classes(effects: Sequence[Effect]) -> list[str]:
    """Return the mean effect over the critical classes, and for how many of them a figure became better."""
    found: dict[tuple[int, str], dict[str, list[float]]] = {}
    for one in effects:
        if one.pair is not None and len(one.pair) == 1 and one.effect is not None and one.loss != MEAN:
            found.setdefault((one.ratio, one.loss), {}).setdefault(one.column, []).append(one.effect)
    if not found:
        return []
    rows = [
        [f"1:{ratio}", loss_names()[loss], *(_over(values, column) for column, values in own.items())]
        for (ratio, loss), own in found.items()
    ]
    words = "Mean over the critical classes, and for how many of them it became better."
    header = ["imbalance", "loss", *_heads(next(iter(found.values())))]
    return ["### Over the critical classes", words, grid(header, rows)]


def _over(values: Sequence[float], column: str) -> str:
    sign = 1 if metric_of(column).more_is_better else -1
    return f"{_signed(fmean(values), column)}, {sum(sign * value > 0 for value in values)} of {len(values)}"


def _effect(one: Effect) -> str:
    p_value = "" if one.p_value is None else f", p {one.p_value:.2g}"
    return f"{_signed(one.effect, one.column)}{p_value}{_papers(one)}"


def _pooled_figure(one: Effect) -> str:
    interval = f" [{_signed(one.low, one.column)}, {_signed(one.high, one.column)}]" if one.effect is not None else ""
    return f"{_signed(one.effect, one.column)}{interval}{_papers(one)}"


def _papers(one: Effect) -> str:
    return "" if one.paper is None else f" ({_signed(one.paper, one.column)})"


def _signed(value: float | None, column: str) -> str:
    return NONE if value is None else metric_of(column).signed(value)


def _missing_part(missing: Sequence[Missing]) -> str:
    if not missing:
        return "Nothing: every cell of every table rests on all members."
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for one in missing:
        groups.setdefault((one.table, f"1:{one.ratio}", one.arm, one.reason), []).append(loss_names()[one.loss])
    header = ["table", "class ratio", "training", "losses", "reason"]
    return grid(header, ([*key[:3], ", ".join(losses), key[3]] for key, losses in groups.items()))


def _gaps_part(gaps: Sequence[Gap]) -> str:
    if not gaps:
        return "Nothing: every cell of every replicate rests on all members."
    groups: dict[tuple[str, ...], list[str]] = {}
    for gap in gaps:
        cell, use = gap.cell, "left out" if gap.is_absent else "used"
        key = (str(gap.seed), pair_in_words(cell.pair), f"1:{cell.ratio}", gap.arm, gap.reason, use)
        groups.setdefault(key, []).append(loss_names()[cell.loss])
    header = ["seed", "data", "class ratio", "training", "reason", "cell", "losses"]
    return grid(header, ([*key, ", ".join(losses)] for key, losses in groups.items()))


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown.

    >>> print(grid(["loss"], [["BCE"]]))
    | loss |
    | --- |
    | BCE |
    """
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])
