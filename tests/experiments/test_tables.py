from pathlib import Path

import pytest
from paper_experiments import rows_of, started, write_ensemble

from prostate_alm.experiments.paper_tables import Key, loss_names, paper_table
from prostate_alm.experiments.report import write_report


@pytest.mark.parametrize("name", ["table2", "table4", "table5", "table6", "table8"])
def test_every_figure_of_a_table_stands_beside_the_papers(whole: Path, name: str) -> None:
    rows = rows_of(whole / f"{name}.csv")
    figures = paper_table(name)
    assert len(rows) == len(figures)
    for row in rows:
        loss = next(loss for loss, shown in loss_names().items() if shown == row["loss"])
        paper = figures[Key(int(row["class_ratio"][2:]), loss, row["training"], row["column"])]
        assert float(row["paper"]) == pytest.approx(paper, rel=1e-5)
        assert float(row["ours"]) == pytest.approx(paper, rel=1e-5)


def test_the_interval_is_in_percent_like_the_figure(whole: Path) -> None:
    row = rows_of(whole / "table2.csv")[0]
    assert [float(row[key]) for key in ("ours", "low", "high", "ours_mean_of_draws")] == [94.67, 93.67, 96.67, 94.67]


@pytest.mark.usefixtures("quick")
def test_each_reason_for_a_missing_cell_is_told(tmp_path: Path) -> None:
    root = started(
        tmp_path / "out", pairs=[[0, 1]], losses={"bce": {}, "msfe": {}, "a_fl": {"gamma": 2}}, baseline_only=[]
    )
    for loss in ("bce", "msfe"):
        for training in ("baseline", "alm"):
            write_ensemble(root, (0, 1), 2, loss, training, **({"members": [0, 1, 2]} if loss == "msfe" else {}))
    write_ensemble(root, (0, 1), 9, "bce", "baseline", ensemble={"test": {"auc": 0.9}})
    candidate = root / "cifar10-0-1/1-9/a_fl-alm/candidates/mu0-0.2-rho-3-delta-1/member-00"
    candidate.mkdir(parents=True)
    (candidate / "metrics.json").write_text("{}", encoding="utf-8")
    write_report([root], tmp_path / "report")
    reasons = {
        (row["table"], row["class_ratio"], row["loss"], row["training"]): row["reason"]
        for row in rows_of(tmp_path / "report" / "missing.csv")
    }
    assert ("table2", "1:2", "BCE", "alm") not in reasons
    assert reasons["table2", "1:2", "MSFE", "baseline"] == "only 3 of 10 members"
    assert reasons["table2", "1:2", "S-FL", "alm"] == "not in the plan"
    assert reasons["table5", "1:2", "BCE", "alm"] == "not in the plan"
    assert reasons["table2", "1:9", "BCE", "alm"] == "not trained yet"
    expected = "no fpr_at_tpr100, fpr_at_tpr95, fpr_at_tpr90 in its metrics.json"
    assert reasons["table2", "1:9", "BCE", "baseline"] == expected
    assert reasons["table2", "1:9", "A-FL", "alm"] == "not evaluated yet: 1 members finished, candidates included"


def test_classes_and_ratios_that_the_paper_does_not_have_get_a_table_too(tmp_path: Path) -> None:
    root = started(tmp_path / "out", pairs=[[2, 3]], ratios=[49])
    write_report([root], tmp_path / "report")
    rows = rows_of(tmp_path / "report" / "classes-2-3.csv")
    assert {row["class_ratio"] for row in rows} == {"1:49"}
    assert len(rows) == 17 * 4
    assert {row["paper"] for row in rows} == {""}
    assert "## Classes 2 and 3, test set at the class ratio" in (tmp_path / "report" / "report.md").read_text()
