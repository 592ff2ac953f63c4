"""Plans of a cohort in place of pairs of classes: the paper's tables 1, 3 and 7."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paper_experiments import rows_of, write_files

from prostate_alm.experiments.grid import cells, runs_in_all, runs_to_do, search
from prostate_alm.experiments.paper_tables import COHORT_COLUMNS, Key, loss_names, paper_table
from prostate_alm.experiments.plan import Plan, in_numbers, read_plan, start_or_continue
from prostate_alm.experiments.report import write_report
from prostate_alm.method.losses import LOSSES
from prostate_alm.training.results import summarise, summarise_extra

BUNDLE = Path(__file__).parents[2] / "bundles" / "prostate"
CODE_NAMES = {name: loss for loss, name in loss_names().items()}
COLUMNS = {"fpr_at_0_fn": "fpr_at_fn0", "fpr_at_1_fn": "fpr_at_fn1"}

pytestmark = pytest.mark.filterwarnings("ignore::prostate_alm.method.metrics.TooFewPositivesWarning")


def shipped(name: str) -> Plan:
    return read_plan(BUNDLE / "experiments" / f"{name}.json")


@pytest.mark.parametrize(("name", "trainings"), [("first", 40), ("default", 340)])
def test_a_shipped_plan_is_of_settings_of_the_bundle_and_knows_all_its_trainings(name: str, trainings: int) -> None:
    plan = shipped(name)
    runs = runs_to_do([search(plan, cell, look=lambda folder: None) for cell in cells(plan)])
    assert len(runs) == runs_in_all(plan) == trainings
    known = json.loads((BUNDLE / "train.json").read_text(encoding="utf-8"))
    assert {key for run in runs for key in run.overrides} <= set(known)
    assert {run.overrides["ratio"] for run in runs} == {2, 8}
    assert not {"majority", "minority"} & {key for run in runs for key in run.overrides}
    assert (BUNDLE.parents[1] / plan.settings["recipe"]).is_file()
    assert runs[0].folder.as_posix() == "prostate/1-2/bce-baseline/member-00"


def test_both_shipped_plans_train_on_the_same_grid_for_as_long() -> None:
    assert shipped("first").settings == shipped("default").settings
    assert set(shipped("default").losses) == set(LOSSES) - {"ldam"}


@pytest.mark.parametrize("name", ["table1", "table3"])
def test_every_figure_is_that_of_the_papers_table(shared: Path, name: str) -> None:
    with (shared / "paper" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    found = {
        Key(int(ratio[2:]), CODE_NAMES[loss], training, COLUMNS.get(column, column)): float(figure)
        for ratio, loss, training, *own in rows
        for column, figure in zip(header[3:], own, strict=True)
    }
    assert paper_table(name) == found


SYMBOLS = {"m": "margin", "g": "gamma", "c": "weight"}
SYMBOLS |= {r"\beta": "beta", r"\mu": "mu0", r"\rho": "rho", r"\delta": "delta"}


def test_the_chosen_parameters_are_those_of_the_papers_text(shared: Path) -> None:
    text = (shared / "paper" / "paper.txt").read_text(encoding="utf-8")
    start = text.index("Table 7. Best")
    blocks = iter([(2, "baseline"), (2, "alm"), (8, "baseline"), (8, "alm")])
    found: dict[Key, float] = {}
    ratio, training = 0, ""
    lines = re.findall(r"^(?:ALM with)?\t?([A-Z-]+)\t(.*)$", text[start:], flags=re.MULTILINE)[:34]
    for name, words in lines:
        if name == "BCE":  # the first of each block
            ratio, training = next(blocks)
        for symbol, value in re.findall(r"(\\?\w+) = ([\w./]+)", words):
            number = in_numbers(value if "N" in value else float(value), ratio)
            found[Key(ratio, CODE_NAMES[name], training, SYMBOLS[symbol])] = number
    assert paper_table("table7") == found


def write_ensemble(root: Path, ratio: int, loss: str, training: str) -> None:
    """Write an ensemble whose figures are the paper's own; so what the report says of them is known."""
    folder = root / "prostate" / f"1-{ratio}" / f"{loss}-{training}"
    key = ratio, loss, training
    rates = {column: paper_table("table1")[Key(*key, column)] / 100 for column in COHORT_COLUMNS}
    found = {column.removeprefix("test_"): rate for column, rate in rates.items()}
    members = {name: paper_table("table3")[Key(*key, f"member_auc_{name}")] / 100 for name in ("mean", "std")}
    own = found | {"auc": paper_table("table3")[Key(*key, "ensemble_auc")] / 100}
    metrics = {
        "members": list(range(10)),
        "ensemble": {"test": own} | ({"test_all_positives": own} if ratio == 8 else {}),
        "intervals": {"test": {name: [rate - 0.01, rate + 0.02] for name, rate in found.items()}},
        "member_mean": {"test": {"auc": members["mean"]}},
        "member_std": {"test": {"auc": members["std"]}},
        "against_baseline": {"test": {"p_value": 0.03, "fpr_at_fn1_difference_low": -0.25}},
    }
    chosen = paper_table("table7").items()
    known = {k.column: v for k, v in chosen if k[:2] == key[:2] and k.arm in ("baseline", training)}
    write_files(folder, metrics, known)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of an experiment that found the paper's figures everywhere but in one ensemble."""
    root = tmp_path_factory.mktemp("prostate") / "out"
    start_or_continue(shipped("default"), root)
    for cell in cells(shipped("default")):
        for training in ("baseline", "alm")[: 1 + (cell.loss != "mbauc")]:
            if (cell.ratio, cell.loss, training) != (8, "msfe", "alm"):
                write_ensemble(root, cell.ratio, cell.loss, training)
    write_report([root], root / "report")
    return root / "report"


def test_the_report_has_the_tables_of_the_cohort_and_no_others(report: Path) -> None:
    names = {"table1.csv", "table3.csv", "table7.csv", "effect.csv", "missing.csv", "report.md"}
    assert {path.name for path in report.iterdir()} == names | {
        "effect-cohort-test.png",
        "effect-cohort-test_all_positives.png",
    }


def test_a_class_ratio_that_left_out_no_positives_has_no_second_test_set(report: Path) -> None:
    rows = rows_of(report / "effect.csv")
    assert {(row["test_set"], row["class_ratio"]) for row in rows} == {
        ("test", "1:2"),
        ("test", "1:8"),
        ("test_all_positives", "1:8"),
    }


@pytest.mark.parametrize("name", ["table1", "table3", "table7"])
def test_every_figure_stands_beside_the_papers(report: Path, name: str) -> None:
    rows, expected = rows_of(report / f"{name}.csv"), paper_table(name)
    assert len(rows) == len(expected)
    for row in rows:
        key = Key(int(row["class_ratio"][2:]), CODE_NAMES[row["loss"]], row["training"], row["column"])
        assert float(row["paper"]) == pytest.approx(expected[key], rel=1e-5)
        is_missing = key[:3] == (8, "msfe", "alm")
        assert row["ours"] == "" if is_missing else float(row["ours"]) == pytest.approx(expected[key], rel=1e-5)


def test_the_effect_at_each_number_of_false_negatives_is_the_papers(report: Path) -> None:
    rows = {
        (row["class_ratio"], row["loss"], row["column"]): row
        for row in rows_of(report / "effect.csv")
        if row["test_set"] == "test"
    }
    assert {column for *_, column in rows} == set(COHORT_COLUMNS)
    assert {row["classes"] for row in rows.values()} == {"cohort"}
    row = rows["1:8", "A-ML", "fpr_at_fn1"]
    assert (float(row["effect"]), float(row["paper"]), float(row["low"])) == pytest.approx((7.8 - 28.1,) * 2 + (-25,))
    assert rows["1:8", "MSFE", "test_auc"]["effect"] == ""
    mean = rows["1:8", "mean", "fpr_at_fn0"]
    assert (mean["losses"], float(mean["effect"])) == ("7", pytest.approx(float(mean["paper"]), abs=1e-4))


def test_the_report_says_what_is_missing(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    assert "## Table 1. Cohort, test studies at the class ratio" in text
    assert "| ALM with A-ML | 96.88 (96.88) | 10.9 (10.9) | 7.8 (7.8) |" in text
    assert "| table1 | 1:8 | alm | MSFE | not trained yet |" in text
    assert "| MSFE | 90.82 (90.82) | 23.4 (23.4) | 20.3 (20.3) |" in text


def write_predictions(root: Path, seed: int) -> None:
    """Write baseline and ALM of BCE at 1:8 with random logits, as evaluation leaves them."""
    random = np.random.default_rng(seed)
    for training in ("baseline", "alm"):
        folder = root / "prostate" / "1-8" / f"bce-{training}"
        folder.mkdir(parents=True)
        labels, logits = np.repeat([1, 0], [9, 30]), random.normal(size=39)
        logits[:9] += 1
        extra = random.normal(1, 1, 4)
        rows = [(f"t{i}", "test", label, logit) for i, (label, logit) in enumerate(zip(labels, logits, strict=True))]
        rows += [(f"e{i}", "test_extra", 1, logit) for i, logit in enumerate(extra)]
        with (folder / "predictions.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("sample_id", "split", "label", "logit"), *rows])
        found = {"test": summarise(labels, logits)} | summarise_extra(labels, logits, extra_logits=extra)
        (folder / "metrics.json").write_text(json.dumps({"members": list(range(10)), "ensemble": found}))


def test_replicates_of_a_cohort_are_pooled(tmp_path: Path) -> None:
    roots = [tmp_path / f"seed{seed}" for seed in range(2)]
    for seed, root in enumerate(roots):
        plan = shipped("first").model_copy(update={"ratios": (8,), "seed": seed})
        start_or_continue(plan, root)
        write_predictions(root, seed)
    write_report(roots, tmp_path / "report", resamples=20)
    rows = {
        (row["test_set"], row["loss"], row["metric"]): row for row in rows_of(tmp_path / "report/effect_pooled.csv")
    }

    def figure(split: str, key: str) -> float:
        def of(root: Path, training: str) -> Any:
            found = json.loads((root / "prostate" / "1-8" / f"bce-{training}" / "metrics.json").read_text())
            return found["ensemble"][split][key]

        return float(np.mean([100 * (of(root, "alm") - of(root, "baseline")) for root in roots]))

    for split in ("test", "test_draws", "test_all_positives"):
        for column in COHORT_COLUMNS:
            expected = figure(split, column.removeprefix("test_"))
            assert float(rows[split, "BCE", column]["difference"]) == pytest.approx(expected, abs=1e-3)
    assert (tmp_path / "report" / "effect-pooled-cohort.png").is_file()
    assert "| Cohort | test set at the class ratio | 1:8 |" in (tmp_path / "report" / "report.md").read_text()
