"""Ensembles for a reader: one as a table, and several of the same test samples, each against the first."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prostate_alm.method.metrics import TooFewPositivesWarning
from prostate_alm.results.folders import ResultsFolder
from prostate_alm.results.metric_names import METRIC_NAMES
from prostate_alm.results.run_folder import ENSEMBLE, PREDICTIONS, EnsembleError
from prostate_alm.training.ensemble import METRICS_OF_TWO, Scores, compare_scores, read_predictions
from prostate_alm.training.scores import ClassScores

COLUMNS = ("auc", "fpr_at_tpr95", "fpr_at_tpr100")
CLASS_COLUMNS = ("rest_error_at_tpr90", "rest_error_at_tpr95", "balanced_accuracy")
"""What several classes have besides: of the first critical one; `--json` has the figures of all."""


def compare_ensembles(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return for each ensemble its figures on the test set and, but for the first, the differences to the first.

    Args:
        folders: evaluated ensembles, at least two different ones. Their test samples must be the same, in any order.

    Returns:
        In the order given: `folder`, `figures` with `intervals`, and `against_first` with DeLong's p and paired
        bootstrap intervals; None for the first. Of several classes the figures are those of all critical ones.

    Raises:
        EnsembleError: fewer than two, one twice, one that is not evaluated, or one of other test samples or other
            critical classes.
    """
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise EnsembleError(f"ensembles must be at least two different ones, got {[str(one) for one in folders]}.")
    ensembles = [ResultsFolder(folder) for folder in folders]
    first = _scores(ensembles[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewPositivesWarning)  # the ensembles' own results state how many there are
        against = [None, *(_difference(first, ensemble) for ensemble in ensembles[1:])]
    rows = []
    for folder, ensemble, difference in zip(folders, ensembles, against, strict=True):
        figures, intervals = ensemble.metrics["ensemble"]["test"], ensemble.metrics["intervals"]["test"]
        of_classes = first.class_scores
        shown = [*COLUMNS, *(of_classes.metric_names() if of_classes else ())]
        rows.append(
            {
                "folder": str(folder),
                "figures": {key: figures[key] for key in shown},
                "intervals": {key: intervals[key] for key in shown},
                "against_first": difference,
            }
        )
    return rows


def _scores(folder: ResultsFolder) -> Scores:
    path = folder.file(PREDICTIONS)
    if not path.is_file() or not folder.metrics.get("ensemble"):
        raise EnsembleError(
            f"ensemble must be an evaluated one, got {folder.path} without its results. "
            f"Evaluate it first: prostate-alm ensemble evaluate {folder.path}"
        )
    return read_predictions(path, folder.read_json(ENSEMBLE).get("settings", {}))


def _difference(first: Scores, folder: ResultsFolder) -> dict[str, Any]:
    compared = compare_scores(_of_same_samples(first, folder), first)
    if "test" not in compared:
        raise EnsembleError(f"test samples must have two of each class to be compared, got fewer in {folder.path}.")
    found: dict[str, Any] = compared["test"]
    return found


def _of_same_samples(first: Scores, folder: ResultsFolder) -> Scores:
    """Return the scores of another ensemble in the order of the first."""
    own = _scores(folder)
    place = {key: (number, own.labels[number]) for number, key in enumerate(own.sample_ids)}
    wanted = list(zip(first.sample_ids, first.labels, strict=True))
    if len(place) != len(wanted) or any(place.get(key, (0, None))[1] != label for key, label in wanted):
        raise EnsembleError(
            f"ensembles must be evaluated on the same {len(wanted)} test samples, got {len(place)} in {folder.path}, "
            "not the same ones. Compare ensembles of the same data."
        )
    _require_same_critical(first.class_scores, own.class_scores, folder)
    rows = [place[key][0] for key, _ in wanted]
    members = (replace(one, classes=one.classes[rows], logits=one.logits[rows]) for one in own.of_members)
    return replace(first, logits=own.logits[:, rows], of_members=tuple(members))


def _require_same_critical(first: ClassScores | None, own: ClassScores | None, folder: ResultsFolder) -> None:
    critical, other = ([one.logits.shape[1], *one.critical, one.ordered] if one else [] for one in (first, own))
    if critical != other:
        raise EnsembleError(
            f"ensembles must tell the same classes apart with the same critical ones, got {_critical_of(own)} in "
            f"{folder.path} and {_critical_of(first)} in the first. Compare ensembles of the same question."
        )


def _critical_of(scores: ClassScores | None) -> str:
    if scores is None:
        return "two classes"
    order = " in order" if scores.ordered else ""
    return f"{list(scores.critical)} of {scores.logits.shape[1]} classes{order}"


def to_text(rows: Sequence[dict[str, Any]]) -> str:
    """Return the comparison as a table for a terminal, in percent, differences with their 95 % intervals."""
    width = max(len(row["folder"]) for row in rows)
    columns = [*COLUMNS, *(key for key in CLASS_COLUMNS if key in rows[0]["figures"])]
    heads = [METRIC_NAMES[key].head for key in columns]
    wide = max(20, *map(len, heads))
    lines = [f"{'':{width}}" + "".join(f"  {head:>{wide}}" for head in heads)]
    for row in rows:
        ends = {key: tuple(100 * end for end in row["intervals"][key]) for key in columns}
        cells = [f"{100 * row['figures'][key]:.1f} [{low:.1f}, {high:.1f}]" for key, (low, high) in ends.items()]
        lines.append(f"{row['folder']:{width}}" + "".join(f"  {cell:>{wide}}" for cell in cells))
        if (against := row["against_first"]) is not None:
            changes = ((100 * against[f"{key}_difference{end}"] for end in ("", "_low", "_high")) for key in columns)
            cells = [f"{change:+.1f} [{low:+.1f}, {high:+.1f}]" for change, low, high in changes]
            lines.append(f"{'  less the first':{width}}" + "".join(f"  {cell:>{wide}}" for cell in cells))
            lines.append(f"  DeLong's p for the AUC: {against['p_value']:.2g}")
    return "\n".join(lines)


def figures_to_text(metrics: Mapping[str, Any]) -> str:
    """Return the figures of an ensemble as a table for a terminal, in percent with their intervals.

    Args:
        metrics: content of `metrics.json`.
    """
    lines = [f"{'':20}" + "".join(f" {METRIC_NAMES[key].head:>22}" for key in METRICS_OF_TWO)]
    for name, intervals in metrics["intervals"].items():
        figures = metrics["ensemble"][name]
        bounds = {key: tuple(100 * bound for bound in intervals[key]) for key in METRICS_OF_TWO}
        cells = [f"{100 * figures[key]:.1f} [{low:.1f}, {high:.1f}]" for key, (low, high) in bounds.items()]
        lines.append(f"{name.replace('_', ' '):20}" + "".join(f" {cell:>22}" for cell in cells))
    mean, deviation = metrics["member_mean"]["test"], metrics["member_std"]["test"]
    cells = [f"{100 * mean[key]:.1f} ± {100 * deviation[key]:.1f}" for key in METRICS_OF_TWO]
    lines.append(f"{'members, test':20}" + "".join(f" {cell:>22}" for cell in cells))
    lines += _class_lines(metrics)
    against = metrics["against_baseline"]
    if against and "test" in against:
        cells = [f"{100 * against['test'][f'{key}_difference']:+.1f}" for key in METRICS_OF_TWO]
        lines.append(f"{'test, difference':20}" + "".join(f" {cell:>22}" for cell in cells))
        lines.append(f"against {against['baseline']}: p = {against['test']['p_value']:.2g} (DeLong)")
    return "\n".join(lines)


def _class_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return a line for each figure of several classes, with interval and difference to the baseline; none of two."""
    figures, intervals = metrics["ensemble"]["test"], metrics["intervals"]["test"]
    against = (metrics["against_baseline"] or {}).get("test", {})
    lines = []
    for name in figures:
        if name.startswith(("rest_error", "balanced_accuracy")):
            low, high = (100 * bound for bound in intervals[name])
            change = against.get(f"{name}_difference")
            shown = "" if change is None else f", difference {100 * change:+.1f}"
            lines.append(f"{name.replace('_', ' '):28} {100 * figures[name]:.1f} [{low:.1f}, {high:.1f}]{shown}")
    return lines
