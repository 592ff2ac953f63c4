"""The figures of an ensemble as a table for a terminal."""

from collections.abc import Mapping
from typing import Any

from prostate_alm.training.ensemble import METRICS_OF_TWO
from prostate_alm.training.scores import TPR_LEVELS_PERCENT


def to_text(metrics: Mapping[str, Any]) -> str:
    """Return the figures of an ensemble as a table for a terminal, in percent with their intervals.

    Args:
        metrics: content of `metrics.json`.
    """
    lines = [f"{'':20} {'AUC':>22}" + "".join(f" {f'FPR at {level} % TPR':>22}" for level in TPR_LEVELS_PERCENT)]
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
