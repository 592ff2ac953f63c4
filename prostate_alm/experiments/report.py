"""The report of an experiment: tables and effects as CSV, Markdown and figures; it says which results are missing."""

import csv
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from prostate_alm.experiments.effects import MEAN, Effect, all_effects, auc_count, paper_auc_count
from prostate_alm.experiments.markdown import NONE, grid, signed
from prostate_alm.experiments.paper_tables import RISING, loss_names, rate_columns
from prostate_alm.experiments.plan import pair_as_name, pair_in_words
from prostate_alm.experiments.tables import (
    PARAMETER_COLUMNS,
    Missing,
    Results,
    Row,
    Table,
    layouts,
    make_table,
)
from prostate_alm.whole_files import write_text_atomically

HEADINGS = {
    "test_auc": "AUC",
    "fpr_at_tpr100": "FPR at 100 % TPR",
    "fpr_at_tpr95": "FPR at 95 % TPR",
    "fpr_at_tpr90": "FPR at 90 % TPR",
    **{f"rest_error_at_tpr{tpr}": f"others' error at {tpr} % TPR" for tpr in (80, 90, 95)},
    "balanced_accuracy": "balanced accuracy",
    "fpr_at_fn0": "FPR at 0 FN",
    "fpr_at_fn1": "FPR at 1 FN",
    "ensemble_auc": "AUC of the ensemble",
    "member_auc_mean": "mean AUC of the members",
    "member_auc_std": "standard deviation of it",
}
SPLIT_WORDS = {
    "test": "test set at the class ratio",
    "test_draws": "mean over many draws of the test set at the class ratio",
    "test_all_positives": "all test positives",
}

_Cells = Sequence[str | int | float | None]


def write_report(root: Path, output: Path) -> list[Path]:
    """Write the tables of an experiment, whatever part of it is finished.

    Args:
        root: folder of the experiment.
        output: folder of the report; made when absent, files of an earlier report are replaced.

    Returns:
        The files: `table*.csv`, `effect.csv`, `missing.csv`, one `effect-*.png` for each pair and test set with
        results, and `report.md` with all of them.

    Raises:
        ValueError: no experiment was started in `root`.
    """
    results = Results(root)
    tables = [make_table(results, layout) for layout in layouts(results.plan)]
    effects = all_effects(results)
    output.mkdir(parents=True, exist_ok=True)
    files = [_write_table(output, table) for table in tables]
    files += [
        _write_effects(output, effects),
        _write_missing(output, [one for table in tables for one in table.missing]),
    ]
    figures = _draw_figures(output, effects)
    report = output / "report.md"
    write_text_atomically(report, _markdown(results, tables, effects, figures))
    return [*files, *figures, report]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[_Cells]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_rounded(cell) for cell in row] for row in rows)
    return path


def _rounded(cell: str | int | float | None) -> str | int | float | None:
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell  # 93.67, not 93.67000000000002


def _write_table(output: Path, table: Table) -> Path:
    header = ("class_ratio", "loss", "training", "column", "ours", "low", "high", "paper", "ours_mean_of_draws")
    rows = (
        (
            f"1:{row.key.ratio}",
            loss_names()[row.key.loss],
            row.key.training,
            row.key.column,
            row.ours,
            row.low,
            row.high,
            row.paper,
            row.ours_mean_of_draws,
        )
        for row in table.rows
    )
    return _write_csv(output / f"{table.layout.name}.csv", header, rows)


def _write_effects(output: Path, effects: Sequence[Effect]) -> Path:
    header = (
        "classes",
        "test_set",
        "class_ratio",
        "loss",
        "column",
        "effect",
        "low",
        "high",
        "p_value",
        "paper",
        "losses",
        "paper_all",
    )
    rows = (
        (
            pair_as_name(effect.pair),
            effect.split,
            f"1:{effect.ratio}",
            _loss_name(effect.loss),
            effect.column,
            effect.effect,
            effect.low,
            effect.high,
            effect.p_value,
            effect.paper,
            effect.losses,
            effect.paper_all,
        )
        for effect in effects
    )
    return _write_csv(output / "effect.csv", header, rows)


def _write_missing(output: Path, missing: Sequence[Missing]) -> Path:
    header = ("table", "class_ratio", "loss", "training", "reason")
    rows = ((one.table, f"1:{one.ratio}", loss_names()[one.loss], one.training, one.reason) for one in missing)
    return _write_csv(output / "missing.csv", header, rows)


def _draw_figures(output: Path, effects: Sequence[Effect]) -> list[Path]:
    from prostate_alm.experiments.figure import draw_effects  # loads matplotlib

    figures = []
    for (pair, split), group in groupby(effects, key=lambda effect: (effect.pair, effect.split)):
        some = list(group)
        if any(effect.effect is not None for effect in some):
            path = output / f"effect-{pair_as_name(pair)}-{split}.png"
            draw_effects(path, some, title=f"{pair_in_words(pair)}, {SPLIT_WORDS[split]}")
            figures.append(path)
    return figures


def _loss_name(loss: str) -> str:
    return "mean" if loss == MEAN else loss_names()[loss]


def _markdown(results: Results, tables: Sequence[Table], effects: Sequence[Effect], figures: Sequence[Path]) -> str:
    plan = results.plan
    parts = [
        f"# Results of the plan `{plan.name}`",
        f"{plan.members} members, seed {plan.seed}. AUCs and rates in percent; each cell is ours (paper). "
        f"{NONE} where there is no figure: the last section says why.",
    ]
    for table in tables:
        number = f"Table {table.layout.name[-1]}. " if table.layout.paper else ""
        parts += [f"## {number}{table.layout.title}", *_table_parts(table)]
    parts += ["## Effect of ALM", *_effect_parts(effects)]
    parts += _over_classes(effects)
    parts += [f"![{path.stem}]({path.name})" for path in figures]
    parts += ["## What is missing", _missing_part([one for table in tables for one in table.missing])]
    return "\n\n".join(parts) + "\n"


def _table_parts(table: Table) -> list[str]:
    columns = list(table.layout.columns)
    header = ["training", *(HEADINGS[column] for column in columns)] if columns else ["training", "parameters"]
    parts = []
    for ratio, cells in groupby(table.cells, key=lambda cell: cell[0]):
        rows = []
        for _, loss, training in cells:
            own = {row.key.column: row for row in table.rows if row.key[:3] == (ratio, loss, training)}
            name = f"ALM with {loss_names()[loss]}" if training == "alm" else loss_names()[loss]
            rows.append([name, *([_figure(own[column]) for column in columns] if columns else [_parameters(own)])])
        parts += [f"### 1:{ratio}", grid(header, rows)]
    return parts


def _figure(row: Row) -> str:
    digits = 1 if row.key.column.startswith("fpr") else 2
    ours, paper = (NONE if value is None else f"{value:.{digits}f}" for value in (row.ours, row.paper))
    return ours if row.paper is None else f"{ours} ({paper})"


def _parameters(own: dict[str, Row]) -> str:
    words = []
    for column in PARAMETER_COLUMNS:
        if column in own:
            ours, paper = (NONE if value is None else f"{value:.4g}" for value in (own[column].ours, own[column].paper))
            words.append(f"{column} {ours} ({paper})")
    return ", ".join(words) or NONE


def _effect_parts(effects: Sequence[Effect]) -> list[str]:
    parts = [
        "ALM minus baseline in percentage points, ours (paper); p is DeLong's. The mean is over the losses that have "
        "both ensembles, and so is the paper's beside it; the last row is the paper's mean over all of its losses."
    ]
    for (pair, split), group in groupby(effects, key=lambda effect: (effect.pair, effect.split)):
        some = list(group)
        rises, cells = auc_count(some)
        if not cells:
            continue
        in_paper, of_paper = paper_auc_count(some)
        paper = f" (paper: {in_paper} of {of_paper})" if of_paper else ""
        parts.append(f"### {pair_in_words(pair)}, {SPLIT_WORDS[split]}")
        parts.append(f"AUC up in {rises} of {cells} cells{paper}.")
        header = ["class ratio", "loss", *(HEADINGS[column] for column in rate_columns(pair))]
        parts.append(grid(header, _effect_rows(some)))
    return parts if len(parts) > 1 else ["No loss has both ensembles yet."]


def _effect_rows(effects: Sequence[Effect]) -> list[list[str]]:
    by_place = {(effect.ratio, effect.loss, effect.column): effect for effect in effects}
    rows = []
    for ratio, loss in dict.fromkeys((effect.ratio, effect.loss) for effect in effects):
        own = [by_place[ratio, loss, column] for column in rate_columns(effects[0].pair)]
        name = f"**mean of {own[0].losses}**" if loss == MEAN else loss_names()[loss]
        rows.append([f"1:{ratio}", name, *(_effect(effect) for effect in own)])
        if loss == MEAN and own[0].paper_all is not None:
            rows.append([f"1:{ratio}", "paper's mean of all", *(signed(one.paper_all, one.column) for one in own)])
    return rows


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
    header = ["imbalance", "loss", *(HEADINGS[column] for column in next(iter(found.values())))]
    words = "Mean over the critical classes, and for how many of them it became better."
    return ["### Over the critical classes", words, grid(header, rows)]


def _over(values: Sequence[float], column: str) -> str:
    better = sum(value > 0 if column in RISING else value < 0 for value in values)
    return f"{signed(fmean(values), column)}, {better} of {len(values)}"


def _effect(effect: Effect) -> str:
    p_value = "" if effect.p_value is None else f", p {effect.p_value:.2g}"
    paper = "" if effect.paper is None else f" ({signed(effect.paper, effect.column)})"
    return f"{signed(effect.effect, effect.column)}{p_value}{paper}"


def _missing_part(missing: Sequence[Missing]) -> str:
    if not missing:
        return "Nothing: every cell of every table rests on all members."
    header = ["table", "class ratio", "training", "losses", "reason"]
    groups: dict[tuple[str, int, str, str], list[str]] = {}
    for one in missing:
        groups.setdefault((one.table, one.ratio, one.training, one.reason), []).append(loss_names()[one.loss])
    rows = (
        [table, f"1:{ratio}", training, ", ".join(losses), why]
        for (table, ratio, training, why), losses in groups.items()
    )
    return grid(header, rows)
