"""The figures of an ensemble as MLflow shows them."""

import json
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.results.folders import EnsembleFolder
from prostate_alm.tracking.summary import description, flat_metrics, members_table, verdict


@pytest.mark.parametrize(
    ("interval", "p_value", "words"),
    [
        ((-0.2, -0.02), 0.5, "better than"),
        ((0.02, 0.2), 0.5, "worse than"),
        ((-0.2, 0.02), 0.012, "ranks better than"),
        ((-0.2, 0.02), 0.5, "not shown to differ from"),
        (None, 0.012, "ranks better than"),
    ],
)
def test_the_false_positives_at_high_sensitivity_decide_first(
    interval: tuple[float, float] | None, p_value: float, words: str, tmp_path: Path
) -> None:
    difference = {"auc_difference": 0.03, "p_value": p_value, "fpr_at_tpr95_difference": sum(interval or (0.0,)) / 2}
    if interval:
        difference |= {"fpr_at_tpr95_difference_low": interval[0], "fpr_at_tpr95_difference_high": interval[1]}
    (tmp_path / "ensemble.json").write_text("{}")
    (tmp_path / "metrics.json").write_text(json.dumps({"against_baseline": {"baseline": "b", "test": difference}}))
    assert verdict(EnsembleFolder(tmp_path)).startswith(f"{words} b (")


FIGURES = {"auc": 0.9, "fpr_at_tpr95": 0.25, "positives": 10, "negatives": 30}
METRICS: dict[str, Any] = {
    "members": [],
    "failed": [3],
    "ensemble": {"test": FIGURES, "test_draws": FIGURES | {"auc": 0.8}},
    "intervals": {"test": {"auc": [0.85, 0.95]}},
    "member_mean": {"test": {"auc": 0.7}, "validation": {"auc": 0.6}},
    "member_std": {"test": {"auc": 0.1}},
    "against_baseline": {
        "baseline": "b",
        "test": {"auc_difference": 0.02, "p_value": 0.4, "fpr_at_tpr95_difference": -0.05},
    },
}


def test_the_figures_that_decide_are_flat_and_a_gain_is_better_whatever_the_figure() -> None:
    flat = flat_metrics(METRICS)
    assert {key: flat[key] for key in ("test_auc", "test_auc_low", "test_auc_high", "test_auc_draws")} == {
        "test_auc": 0.9, "test_auc_low": 0.85, "test_auc_high": 0.95, "test_auc_draws": 0.8,
    }  # fmt: skip
    assert (flat["auc_gain_over_baseline"], flat["fpr_at_tpr95_gain_over_baseline"]) == (0.02, 0.05)
    assert (flat["member_val_auc_mean"], flat["test_positives"]) == (0.6, 10)


def test_the_description_says_each_figure_in_words_and_who_failed(tmp_path: Path) -> None:
    (tmp_path / "ensemble.json").write_text("{}")
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    folder = EnsembleFolder(tmp_path)
    text = description(folder)
    assert text.startswith("**Test AUC 90.0 % (85.0 to 95.0), FPR at 95 % TPR 25.0 %**")
    assert "| FPR at 95 % TPR | **25.0** |  | +5.0 |" in text
    assert "Failed and left out: 3." in text
    assert members_table(folder)["test AUC"] == [0.9]
