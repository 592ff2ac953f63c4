import csv
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from prostate_alm.experiments import figure
from prostate_alm.experiments.paper_tables import RATE_COLUMNS, Key, loss_names, paper_table
from prostate_alm.experiments.plan import Plan, start_or_continue
from prostate_alm.experiments.report import write_report
from prostate_alm.method.losses import LOSSES as ALL_LOSSES

GOLDEN = Path(__file__).parents[1] / "golden"
SHIPPED = Path(__file__).parents[2] / "bundles" / "cifar10" / "experiments" / "paper.json"
PLAN = json.loads(SHIPPED.read_text(encoding="utf-8"))
LOSSES = [loss for loss in ALL_LOSSES if loss != "ldam"]
TABLE_OF = {(0, 1): "table2", (6, 7): "table5"}


def started(root: Path, **changes: Any) -> Path:
    root.mkdir(parents=True)
    (root.parent / "train.json").write_text("{}", encoding="utf-8")
    plan = Plan.model_validate(PLAN | {"bundle": str(root.parent / "train.json")} | changes)
    start_or_continue(plan, root)
    return root


def write_ensemble(root: Path, pair: tuple[int, int], ratio: int, loss: str, training: str, **changes: Any) -> None:
    """Write an ensemble whose figures are the paper's own; so what the report says of them is known."""
    folder = root / f"cifar10-{pair[0]}-{pair[1]}" / f"1-{ratio}" / f"{loss}-{training}"
    rates = {c: paper_table(TABLE_OF[pair])[Key(ratio, loss, training, c)] / 100 for c in RATE_COLUMNS}
    figures = {column.removeprefix("test_"): rate for column, rate in rates.items()}
    members = {c: paper_table("table4")[Key(ratio, loss, training, f"member_auc_{c}")] / 100 for c in ("mean", "std")}
    whole = {c: paper_table("table6")[Key(ratio, loss, training, c)] / 100 for c in RATE_COLUMNS}
    positives = {column.removeprefix("test_"): rate for column, rate in whole.items()}
    own = {"auc_difference": 0.01, "p_value": 0.03, "auc_difference_low": -0.002, "auc_difference_high": 0.02}
    metrics = {
        "members": list(range(10)),
        "failed": [],
        "ensemble": {"test": figures, "test_all_positives": positives, "test_draws": figures},
        "intervals": {"test": {key: [rate - 0.01, rate + 0.02] for key, rate in figures.items()}},
        "member_mean": {"test": {"auc": members["mean"]}},
        "member_std": {"test": {"auc": members["std"]}},
        "against_baseline": {"test": own, "test_all_positives": own} if training == "alm" else None,
    } | changes
    parameters = {
        key.column: value
        for key, value in paper_table("table8").items()
        if key[:2] == (ratio, loss) and key.arm in ("baseline", training)
    }
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "selection.json").write_text(json.dumps({"parameters": parameters}), encoding="utf-8")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def all_cells() -> Iterator[tuple[tuple[int, int], int, str, str]]:
    for pair in TABLE_OF:
        for ratio in (2, 9, 19):
            for loss in LOSSES:
                yield pair, ratio, loss, "baseline"
                if loss != "mbauc":
                    yield pair, ratio, loss, "alm"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of an experiment that found the paper's figures in every cell."""
    root = started(tmp_path_factory.mktemp("whole") / "out")
    for pair, ratio, loss, training in all_cells():
        write_ensemble(root, pair, ratio, loss, training)
    files = write_report([root], root / "report")
    assert sorted(files) == sorted((root / "report").iterdir())
    return root / "report"


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


def test_the_report_in_words_holds_all_tables_and_says_that_nothing_is_missing(whole: Path) -> None:
    text = (whole / "report.md").read_text(encoding="utf-8")
    for number in (2, 4, 5, 6, 8):
        assert f"## Table {number}. " in text
    assert "| ALM with A-FL | 95.38 (95.38) | 31.4 (31.4) | 16.5 (16.5) | 12.4 (12.4) |" in text  # table 2, 1:9
    assert "| W-BCE | weight 9 (9) |" in text
    assert "| ALM with CB-BCE | mu0 0.2 (0.2), rho 4 (4), delta 2 (2) |" in text
    assert "| BCE | – |" in text  # a loss without parameters
    assert "Nothing: every cell of every table rests on all members." in text
    assert rows_of(whole / "missing.csv") == []


def test_there_is_a_figure_of_the_effect_for_each_pair_and_test_set(whole: Path) -> None:
    figures = {path.name for path in whole.glob("*.png")}
    sets = ("test", "test_draws", "test_all_positives")
    assert figures == {f"effect-{pair}-{name}.png" for pair in ("0-1", "6-7") for name in sets}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in whole.glob("*.png"))


def test_a_report_before_the_first_result_names_every_cell_as_missing(tmp_path: Path) -> None:
    root = started(tmp_path / "out")
    write_report([root], tmp_path / "report")
    missing = rows_of(tmp_path / "report" / "missing.csv")
    assert {row["reason"] for row in missing} == {"not trained yet"}
    assert len(missing) == 5 * 51
    assert not list((tmp_path / "report").glob("*.png"))
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| ALM with A-FL | – (95.38) | – (31.4) | – (16.5) | – (12.4) |" in text
    assert "No loss has both ensembles yet." in text


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take most of the time and are drawn in other tests."""
    monkeypatch.setattr(figure, "draw_effects", lambda path, effects, title: None)


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


def test_a_figure_of_one_loss_at_one_ratio_can_be_drawn(tmp_path: Path) -> None:
    root = started(tmp_path / "out", pairs=[[0, 1]], ratios=[9], losses={"bce": {}, "msfe": {}}, baseline_only=[])
    for training in ("baseline", "alm"):
        write_ensemble(root, (0, 1), 9, "bce", training)
    assert tmp_path / "report" / "effect-0-1-test.png" in write_report([root], tmp_path / "report")


def test_classes_and_ratios_that_the_paper_does_not_have_get_a_table_too(tmp_path: Path) -> None:
    root = started(tmp_path / "out", pairs=[[2, 3]], ratios=[49])
    write_report([root], tmp_path / "report")
    rows = rows_of(tmp_path / "report" / "classes-2-3.csv")
    assert {row["class_ratio"] for row in rows} == {"1:49"}
    assert len(rows) == 17 * 4
    assert {row["paper"] for row in rows} == {""}
    assert "## Classes 2 and 3, test set at the class ratio" in (tmp_path / "report" / "report.md").read_text()


def test_a_folder_that_is_no_experiment_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^folder must be that of an experiment, got no plan\.json in"):
        write_report([tmp_path], tmp_path / "report")
    assert not (tmp_path / "report").exists()
