"""The figures of an ensemble as MLflow shows them: flat metrics, a table of its members, a description in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from prostate_alm.results.folders import EnsembleFolder, numbers
from prostate_alm.results.metric_names import METRIC_NAMES

_MAIN = tuple(key for key in METRIC_NAMES if key.startswith(("auc", "fpr_at_tpr", "rest_error", "balanced")))
_SETS = {
    "test": "the test set",
    "test_all_positives": "the test set with all positives",
    "test_draws": "the mean of test sets drawn with that class ratio",
}
_SUFFIXES = {"test": "", "test_all_positives": "_all_positives", "test_draws": "_draws"}
SIGNIFICANT = 0.05
"""Below this p the description says that a difference is more than chance."""


def flat_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of an ensemble's run.

    The UI lists them by the alphabet, some seven at a time, so the first ones are those that decide:
    `auc_gain_over_baseline`, `delong_p_vs_baseline` and `fpr_at_tpr95_gain_over_baseline`, where a gain is positive
    when the ensemble is better; `member_test_auc_mean`, `member_test_auc_std` and `member_val_auc_mean`; `test_auc`.
    Each figure is followed by its interval, as `test_auc_low` and `test_auc_high`, and by its value with all positives,
    as `test_auc_all_positives`, and in the mean of drawn test sets, as `test_auc_draws`.

    Args:
        metrics: content of the ensemble's metrics.json.
    """
    result: dict[str, float] = {}  # in this order, of which the UI's plot takes the first
    for split, suffix in _SUFFIXES.items():
        figures = numbers(metrics.get("ensemble", {}).get(split))
        intervals = metrics.get("intervals", {}).get(split, {})
        for key in _MAIN:
            if key in figures:
                result[f"test_{key}{suffix}"] = figures[key]
            if key in intervals:
                result |= {f"test_{key}{suffix}_low": intervals[key][0], f"test_{key}{suffix}_high": intervals[key][1]}
    others = numbers(metrics.get("ensemble", {}).get("test"))
    result |= {f"test_{key}": value for key, value in others.items() if key not in _MAIN}
    mean, deviation = (metrics.get(f"member_{name}", {}) for name in ("mean", "std"))
    members = {
        "member_test_auc_mean": mean.get("test", {}).get("auc"),
        "member_test_auc_std": deviation.get("test", {}).get("auc"),
        "member_val_auc_mean": mean.get("validation", {}).get("auc"),
    }
    return result | numbers(members) | _gains((metrics.get("against_baseline") or {}).get("test", {}))


def _gains(difference: Mapping[str, Any]) -> dict[str, float]:
    """Return the differences to the baseline that decide, turned so that more is better, and the p of DeLong's test."""
    rate = difference.get("fpr_at_tpr95_difference")
    return numbers(
        {
            "auc_gain_over_baseline": difference.get("auc_difference"),
            "delong_p_vs_baseline": difference.get("p_value"),
            "fpr_at_tpr95_gain_over_baseline": None if rate is None else -rate,
        }
    )


def members_table(folder: EnsembleFolder) -> dict[str, list[Any]]:
    """Return the columns of the table on the ensemble's run: the ensemble first, then its members."""
    rows: list[dict[str, Any]] = [_table_row("ensemble", folder.metrics.get("ensemble", {}))]
    rows += [_table_row(member.name, member.metrics) for member in folder.members()]
    return {column: [row.get(column) for row in rows] for column in rows[0]}


def _table_row(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    test, validation = figures.get("test", {}), figures.get("validation", {})
    return {
        "model": name,
        "validation AUC": validation.get("auc"),
        **{f"test {METRIC_NAMES[key].words}": test[key] for key in _MAIN if key in test},
    }


def verdict(folder: EnsembleFolder) -> str:
    """Return in one line how the ensemble compares to the baseline of the same loss on the test set.

    What the classifier is for decides: the FPR at 95 % TPR, where its paired interval excludes 0; else the AUC.
    """
    against = folder.metrics.get("against_baseline")
    if against and "test" in against:
        return _against(against["baseline"], against["test"])
    if against:
        return f"not compared with {against['baseline']}: the test set has a single sample of one class"
    if folder.about.get("settings", {}).get("alm") is False:
        return "is a baseline: the loss without the constraint"
    return "not compared: no baseline of the same loss was evaluated before it"


def _against(baseline: str, difference: Mapping[str, Any]) -> str:
    gain, p_value = difference["auc_difference"], difference["p_value"]
    shown = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    auc = f"AUC {_percent(gain, sign='+')} points, DeLong {shown}"
    rates = [difference.get(f"fpr_at_tpr95_difference{end}") for end in ("", "_low", "_high")]
    known = [one for one in rates if one is not None]
    if len(known) == len(rates):
        change, low, high = known
        rate = f"FPR at 95 % TPR {_percent(change, sign='+')} points{_interval((low, high), sign='+')}"
        if not low <= 0 <= high:
            return f"{'better' if change < 0 else 'worse'} than {baseline} ({rate}; {auc})"
        auc = f"{auc}; {rate}"
    if p_value >= SIGNIFICANT:
        return f"not shown to differ from {baseline} ({auc})"
    return f"{'ranks better' if gain > 0 else 'ranks worse'} than {baseline} ({auc})"


def description(folder: EnsembleFolder) -> str:
    """Return the description of the ensemble's run in Markdown: what it reaches, how sure, and how it compares."""
    metrics = folder.metrics
    failed = metrics.get("failed", [])
    left_out = f"Failed and left out: {', '.join(map(str, failed))}." if failed else "None failed."
    parts = [
        f"**{_headline(metrics)}**",
        f"**Verdict: {verdict(folder)}.**",
        *(_section(metrics, split) for split in metrics.get("ensemble", {})),
        f"{len(metrics.get('members', []))} members; the ensemble is the mean of their logits. {left_out}",
    ]
    return "\n\n".join(parts) + "\n"


def _headline(metrics: Mapping[str, Any]) -> str:
    test = numbers(metrics.get("ensemble", {}).get("test"))
    intervals = metrics.get("intervals", {}).get("test", {})
    shown = [key for key in ("auc", "fpr_at_tpr95") if key in test]
    cells = (f"{METRIC_NAMES[key].words} {_percent(test[key])} %{_interval(intervals.get(key))}" for key in shown)
    return "Test " + ", ".join(cells)


def _section(metrics: Mapping[str, Any], split: str) -> str:
    """Return a table of the figures on a test set, narrow enough for two of them side by side in the UI."""
    figures = numbers(metrics["ensemble"][split])
    intervals = metrics.get("intervals", {}).get(split, {})
    against = metrics.get("against_baseline") or {}
    difference = against.get(split, {})
    mean, deviation = (metrics.get(f"member_{name}", {}).get(split, {}) for name in ("mean", "std"))
    rows = {
        METRIC_NAMES[key].words: [
            f"**{_percent(figures[key])}**{_interval(intervals.get(key))}",
            f"{_percent(mean[key])} ± {_percent(deviation[key])}" if key in mean and key in deviation else "",
            *([_gain(key, difference)] if difference else []),
        ]
        for key in _MAIN
        if key in figures
    }
    counts = f"{figures.get('positives', 0):.0f} positives, {figures.get('negatives', 0):.0f} negatives"
    sure = ", with 95 % intervals" if intervals else ""
    gain_is = f"; gain over {against['baseline']}, more is better" if difference else ""
    lines = [
        f"On {_SETS.get(split, split)} ({counts}), in percent{sure}{gain_is}:",
        "",
        f"| | ensemble | members |{' gain |' if difference else ''}",
        f"|---|---|---|{'---|' if difference else ''}",
        *(f"| {words} | {' | '.join(cells)} |" for words, cells in rows.items()),
    ]
    if difference and split != "test":
        lines += ["", f"Here it is {_against(against['baseline'], difference)}."]
    return "\n".join(lines)


def _gain(key: str, difference: Mapping[str, Any]) -> str:
    """Return a difference to the baseline turned so that more is better, with its interval where there is one."""
    value, *ends = (difference.get(f"{key}_difference{end}") for end in ("", "_low", "_high"))
    if value is None:
        return ""
    sign = 1 if METRIC_NAMES[key].more_is_better else -1  # fewer false positives are a gain
    known = [sign * end for end in ends if end is not None]
    interval = sorted(known) if len(known) == len(ends) else None
    return f"{_percent(sign * value, sign='+')}{_interval(interval, sign='+')}"


def _interval(ends: Sequence[float] | None, *, sign: str = "") -> str:
    return "" if ends is None else f" ({_percent(ends[0], sign=sign)} to {_percent(ends[1], sign=sign)})"


def _percent(value: float, *, sign: str = "") -> str:
    return f"{100 * value:{sign}.1f}"
