"""Plans of several classes, one of them critical in turn: what is trained, what is refused, what is reported."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.experiments.grid import cells, runs_in_all, runs_to_do, search
from prostate_alm.experiments.plan import PLAN_FILE, read_plan, start_or_continue
from prostate_alm.experiments.replicates import read_replicates
from prostate_alm.experiments.report import write_report
from prostate_alm.experiments.run import run_experiment
from prostate_alm.training.ensemble_training import read_bundle_settings
from prostate_alm.whole_files import sha256_of_file

BUNDLE = Path(__file__).parents[2] / "bundles" / "cifar10"
TINY = {"train_images": 40, "validation_images": 20, "batch_size": 32, "alm_epochs": 1, "deferred_epochs": 1}
PLAN: dict[str, Any] = {
    "name": "tiny",
    "bundle": str(BUNDLE / "long_tailed.json"),
    "dataset": "cifar10",
    "critical": [3, 8],
    "ratios": [10],
    "losses": {"ce": {}, "la": {"tau": 1.0}},
    "alm": {"mu0_rho": [[0.3, 2]], "delta": 1.0},
    "members": 2,
    "seed": 0,
    "settings": TINY,
}
OTHER_COLUMNS = ("-0.5, 1 of 2", "+0.50, 1 of 2")  # FPR, balanced accuracy


def write_plan(folder: Path, **changes: Any) -> Path:
    path = folder / "plan-of-a-test.json"
    path.write_text(json.dumps({key: value for key, value in (PLAN | changes).items() if value is not None}))
    return path


def test_each_class_is_critical_in_turn_with_settings_that_the_bundle_reads(tmp_path: Path) -> None:
    plan = read_plan(write_plan(tmp_path))
    states = [search(plan, cell, look=lambda folder: None) for cell in cells(plan)]
    runs = runs_to_do(states)
    assert len(runs) == runs_in_all(plan) == 2 * 2 * 2 * 2  # classes, losses, with and without, members
    folders = {run.folder.as_posix() for run in runs}
    assert "cifar10-critical-8/1-10/la-alm/member-01" in folders
    for run in runs:
        settings = read_bundle_settings(plan.bundle, run.overrides)
        assert settings.experiment_name == run.folder.parts[0]
        assert (settings.imbalance, settings.ensemble_name) == (10, run.folder.parts[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": [[0, 1]]}, "critical must be left out where there are pairs, got both in"),
        ({"critical": [3, 3]}, r"critical must name each class once, got \[3, 3\] in"),
        ({"critical": []}, r"critical must be a list of at least one, got \[\]"),
        ({"losses": {"bce": {}}}, r"losses must be known losses, got 'bce', available: \['cb_ce', 'ce', "),
        ({"losses": {"la": {"tau": [1, 2]}}}, "parameters must have one candidate each in a plan of several classes"),
        (
            {"alm": {"mu0_rho": [[1, 2], [3, 2]], "delta": 1}},
            "parameters must have one candidate each in a plan of sev",
        ),
        (
            {"settings": {"critical": 3}},
            r"settings must be without what the plan gives each run itself, got \['critical'",
        ),
        ({"critical": None}, "losses must be known losses, got 'ce'"),
    ],
)
def test_a_fault_of_a_plan_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_plan(write_plan(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_folder_remembers_the_overlay_and_what_it_lies_over(tmp_path: Path) -> None:
    start_or_continue(read_plan(write_plan(tmp_path)), tmp_path / "out")
    record = json.loads((tmp_path / "out" / PLAN_FILE).read_text())
    assert record["bundle_sha256"] == sha256_of_file(BUNDLE / "long_tailed.json")
    assert record["base_sha256"] == sha256_of_file(BUNDLE / "train.json")
    of_two = read_plan(BUNDLE / "experiments" / "first.json")
    start_or_continue(of_two, tmp_path / "two")
    assert not {"base_sha256", "critical"} & set(json.loads((tmp_path / "two" / PLAN_FILE).read_text()))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Return an experiment with ensembles of one loss, their figures made up."""
    root = tmp_path / "out"
    start_or_continue(read_plan(write_plan(tmp_path, losses={"ce": {}})), root)
    for critical, change in ((3, -0.02), (8, 0.01)):
        for training in ("baseline", "alm"):
            shift = change if training == "alm" else 0.0
            figures = {"auc": 0.9 - shift, "balanced_accuracy": 0.5 - shift, "fpr_at_tpr95": 0.3 + shift}
            figures |= {f"rest_error_at_tpr{tpr}": 0.4 + shift for tpr in (80, 90, 95)}
            interval = {f"rest_error_at_tpr90_difference_{end}": change + by for end, by in (("low", -1), ("high", 1))}
            metrics = {"members": [0, 1], "ensemble": {"test": figures}, "against_baseline": {"test": interval}}
            folder = root / f"cifar10-critical-{critical}" / "1-10" / f"ce-{training}"
            folder.mkdir(parents=True)
            (folder / "metrics.json").write_text(json.dumps(metrics))
    return root


def test_the_report_has_a_table_for_each_class_and_the_mean_over_them(finished: Path, tmp_path: Path) -> None:
    write_report([finished], tmp_path / "report")
    with (tmp_path / "report" / "critical-8.csv").open() as stream:
        rows = {(row["training"], row["column"]): row for row in csv.DictReader(stream)}
    assert float(rows["alm", "rest_error_at_tpr90"]["ours"]) == pytest.approx(41.0)
    with (tmp_path / "report" / "effect.csv").open() as stream:
        effects = {(row["classes"], row["loss"], row["column"]): row for row in csv.DictReader(stream)}
    one = effects["critical-3", "CE", "rest_error_at_tpr90"]
    assert [float(one[key]) for key in ("effect", "low", "high")] == pytest.approx([-2.0, -102.0, 98.0])
    text = (tmp_path / "report" / "report.md").read_text()
    (line,) = [
        line for line in text.split("### Over the critical classes")[1].splitlines() if line.startswith("| 1:10")
    ]
    assert line.strip("| ").split(" | ") == ["1:10", "CE", "+0.50, 1 of 2", *["-0.50, 1 of 2"] * 3, *OTHER_COLUMNS]
    assert (tmp_path / "report" / "effect-critical-3-test.png").is_file()


def test_replicates_of_several_classes_are_not_pooled(finished: Path) -> None:
    with pytest.raises(ValueError, match="must be of plans of two classes to be pooled, got one of several in"):
        read_replicates([finished, finished])


@pytest.mark.slow
def test_a_plan_is_run_to_its_report(tmp_path: Path) -> None:
    images = write_stand_in(tmp_path / "images", images_per_class=60)
    plan = read_plan(write_plan(tmp_path, critical=[3], losses={"ce": {}}))
    local = {"dataset_dir": str(images), "tracking_uri": "none"}
    report = run_experiment(plan, tmp_path / "out", jobs=1, local_settings=local)
    assert report.is_complete, report.failures
    assert report.ensembles == [f"cifar10-critical-3/1-10/ce-{training}" for training in ("baseline", "alm")]
    metrics = json.loads((tmp_path / "out" / report.ensembles[1] / "metrics.json").read_text())
    assert "rest_error_at_tpr90_difference_low" in metrics["against_baseline"]["test"]
    write_report([tmp_path / "out"], tmp_path / "report")
    assert "| CE |" in (tmp_path / "report" / "report.md").read_text()
