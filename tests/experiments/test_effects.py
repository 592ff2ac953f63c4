import json
from pathlib import Path
from statistics import fmean

import pytest
from paper_experiments import rows_of, started, write_ensemble

from prostate_alm.experiments.paper_tables import RATE_COLUMNS
from prostate_alm.experiments.report import write_report

GOLDEN = Path(__file__).parents[1] / "golden"


def test_the_mean_effects_are_those_that_the_project_aims_at(whole: Path) -> None:
    golden = json.loads((GOLDEN / "paper_effects.json").read_text(encoding="utf-8"))
    rows = {
        (row["class_ratio"][2:], row["column"]): row
        for row in rows_of(whole / "effect.csv")
        if (row["classes"], row["test_set"], row["loss"]) == ("0-1", "test", "mean")
    }
    assert len(rows) == 12
    for ratio, expected in golden["table2"].items():
        for column, aim in zip(RATE_COLUMNS, expected, strict=True):
            row = rows[ratio, column]
            tolerance = 0.0055 if column == "test_auc" else 0.055
            assert [float(row[key]) for key in ("effect", "paper", "paper_all")] == pytest.approx(
                [aim] * 3, abs=tolerance
            )
            assert row["losses"] == "8"
    text = (whole / "report.md").read_text(encoding="utf-8")
    assert "AUC up in 24 of 24 cells (paper: 24 of 24)." in text
    assert "AUC up in 23 of 24 cells (paper: 23 of 24)." in text


def test_the_effect_of_each_loss_has_its_interval_and_the_auc_its_p_value(whole: Path) -> None:
    rows = [row for row in rows_of(whole / "effect.csv") if row["loss"] == "A-FL" and row["test_set"] == "test"]
    first = rows[0]
    assert (first["column"], float(first["p_value"]), first["low"], first["high"]) == ("test_auc", 0.03, "-0.2", "2.0")
    assert {row["p_value"] for row in rows if row["column"] != "test_auc"} == {""}


@pytest.mark.usefixtures("quick")
def test_the_mean_of_some_losses_stands_beside_the_papers_mean_of_the_same(tmp_path: Path) -> None:
    root = started(tmp_path / "out", pairs=[[0, 1]])
    for loss in ("bce", "msfe"):
        for training in ("baseline", "alm"):
            write_ensemble(root, (0, 1), 9, loss, training)
    write_ensemble(root, (0, 1), 9, "a_fl", "alm")  # without its baseline there is no effect
    write_report([root], tmp_path / "report")
    mean = next(
        row
        for row in rows_of(tmp_path / "report" / "effect.csv")
        if (row["class_ratio"], row["test_set"], row["loss"], row["column"]) == ("1:9", "test", "mean", "test_auc")
    )
    same = fmean([94.74 - 93.96, 93.83 - 91.24])
    assert [float(mean[key]) for key in ("effect", "paper")] == pytest.approx([same, same])
    assert mean["losses"] == "2"
    assert float(mean["paper_all"]) == pytest.approx(1.62, abs=0.0055)
