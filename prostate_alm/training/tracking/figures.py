"""The figures of an ensemble as MLflow shows them: flat metrics, a table of its members, a description in words."""

from collections.abc import Mapping
from typing import Any

from prostate_alm.training.tracking.results_folder import EnsembleFolder, numbers

_RATES = {"fpr_at_tpr100": "FPR at 100 % TPR", "fpr_at_tpr95": "FPR at 95 % TPR", "fpr_at_tpr90": "FPR at 90 % TPR"}
_MAIN = {"auc": "AUC", **_RATES}
_SHORT = {"validation": "val"}
_SETS = {
    "test": "the test set",
    "test_all_positives": "the test set with all positives",
    "test_draws": "the mean of test sets drawn with that class ratio",
}
SIGNIFICANT = 0.05
"""Below this p the description says that a difference is more than chance."""


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of an ensemble's run.

    `test_auc` with `test_auc_low` and `test_auc_high`; the same for each figure and each evaluation.
    `member_test_auc_mean`, `member_test_auc_std`, `member_val_auc_mean`. `auc_gain_over_baseline` and
    `fpr_at_tpr95_gain_over_baseline` are positive where the ensemble is better; `delong_p_vs_baseline`.

    Args:
        metrics: content of the ensemble's metrics.json.
    """
    result = {"members": float(len(metrics.get("members", [])))}
    for split, figures in metrics.get("ensemble", {}).items():
        result |= {f"{split}_{key}": value for key, value in numbers(figures).items()}
    for split, intervals in metrics.get("intervals", {}).items():
        for key, (low, high) in intervals.items():
            result |= {f"{split}_{key}_low": low, f"{split}_{key}_high": high}
    for statistic in ("mean", "std"):
        for split, figures in metrics.get(f"member_{statistic}", {}).items():
            chosen = {key: value for key, value in numbers(figures).items() if key in _MAIN}
            result |= {f"member_{_SHORT.get(split, split)}_{key}_{statistic}": value for key, value in chosen.items()}
    for split, difference in (metrics.get("against_baseline") or {}).items():
        prefix = "" if split == "test" else f"{split}_"
        result |= {f"{prefix}{key}": value for key, value in _gains(difference).items()}
    return result


def _gains(difference: Any) -> dict[str, float]:
    """Return differences to the baseline, turned so that more is better, and the p of DeLong's test."""
    gains = {}
    for key, value in numbers(difference).items():
        if key == "p_value":
            gains["delong_p_vs_baseline"] = value
        elif key.endswith("_difference"):
            figure = key.removesuffix("_difference")
            gains[f"{figure}_gain_over_baseline"] = -value if figure.startswith("fpr") else value
    return gains


def members_table(folder: EnsembleFolder) -> dict[str, list[Any]]:
    """Return the columns of the table on the ensemble's run: the ensemble first, then its members."""
    rows: list[dict[str, Any]] = [_table_row("ensemble", folder.metrics.get("ensemble", {}))]
    rows += [_table_row(member.name, member.metrics) for member in folder.members()]
    return {column: [row[column] for row in rows] for column in rows[0]}


def _table_row(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    test, validation = figures.get("test", {}), figures.get("validation", {})
    return {
        "model": name,
        "validation AUC": validation.get("auc"),
        **{f"test {words}": test.get(key) for key, words in _MAIN.items()},
    }


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return in one line how the ensemble compares to the baseline of the same loss, by the AUC on the test set."""
    against = metrics.get("against_baseline")
    if not against or "test" not in against:
        return "no baseline of the same loss to compare with"
    return _against(against["baseline"], against["test"])


def _against(baseline: str, difference: Mapping[str, Any]) -> str:
    gain, p_value = difference["auc_difference"], difference["p_value"]
    shown = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    amount = f"AUC {gain:+.3f}, DeLong {shown}"
    if p_value >= SIGNIFICANT:
        return f"not shown to differ from {baseline} ({amount})"
    return f"{'better' if gain > 0 else 'worse'} than {baseline} ({amount})"


def description(folder: EnsembleFolder) -> str:
    """Return the description of the ensemble's run in Markdown: what it reaches, how sure, and how it compares."""
    metrics = folder.metrics
    parts = [f"**{_headline(metrics)}**", f"Against the baseline: **{verdict(metrics)}**."]
    for split in metrics.get("ensemble", {}):
        parts.append(_section(metrics, split))
    failed = metrics.get("failed", [])
    parts.append(
        f"{len(metrics.get('members', []))} members; the ensemble is the mean of their logits. "
        + (f"Failed and left out: {', '.join(map(str, failed))}." if failed else "None failed.")
    )
    return "\n\n".join(parts)


def _headline(metrics: Mapping[str, Any]) -> str:
    test = metrics.get("ensemble", {}).get("test", {})
    intervals = metrics.get("intervals", {}).get("test", {})
    texts = []
    for key in ("auc", "fpr_at_tpr95"):
        if key in test:
            texts.append(f"{_MAIN[key]} {_shown(key, test[key])}{_interval(key, intervals, words='95 % interval ')}")
    return "Test " + ", ".join(texts)


def _section(metrics: Mapping[str, Any], split: str) -> str:
    figures = numbers(metrics["ensemble"][split])
    intervals = metrics.get("intervals", {}).get(split, {})
    mean, deviation = (metrics.get(f"member_{name}", {}).get(split, {}) for name in ("mean", "std"))
    lines = [
        f"On {_SETS.get(split, split)} ({figures.get('positives', 0):.0f} positives, "
        f"{figures.get('negatives', 0):.0f} negatives):",
        "",
        "| | ensemble | 95 % interval | members, mean ± deviation |",
        "|---|---|---|---|",
    ]
    for key, words in _MAIN.items():
        if key in figures:
            spread = (
                f"{_shown(key, mean[key])} ± {_shown(key, deviation[key])}" if key in mean and key in deviation else ""
            )
            interval = _interval(key, intervals).strip(" ()")
            lines.append(f"| {words} | **{_shown(key, figures[key])}** | {interval} | {spread} |")
    against = metrics.get("against_baseline") or {}
    if split in against and split != "test":
        lines += ["", f"Here it is {_against(against['baseline'], against[split])}."]
    return "\n".join(lines)


def _interval(key: str, intervals: Mapping[str, Any], *, words: str = "") -> str:
    if key not in intervals:
        return ""
    low, high = intervals[key]
    return f" ({words}{_shown(key, low)} to {_shown(key, high)})"


def _shown(key: str, value: float) -> str:
    """Return an area as a number, a rate as a percentage."""
    return f"{value:.3f}" if key == "auc" else f"{100 * value:.1f} %"
