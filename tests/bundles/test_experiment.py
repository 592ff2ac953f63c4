"""A small experiment from the command line to its tables, on a stand-in of CIFAR-10."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from prostate_alm.data.cifar10 import write_stand_in

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10"


def cli(*arguments: object, folder: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "prostate_alm.cli", "experiment", *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_an_experiment_ends_in_the_tables_of_its_ensembles(clean_environment: dict[str, str], tmp_path: Path) -> None:
    images = write_stand_in(tmp_path / "cifar", images_per_class=60)
    plan = {
        "name": "small",
        "bundle": str(BUNDLE / "train.json"),
        "dataset": "cifar10",
        "pairs": [[0, 1]],
        "ratios": [2],
        "losses": {"s_fl": {"gamma": [1, 2]}},
        "alm": {"mu0_rho": [[0.2, 2]], "delta": 1.0},
        "members": 2,
        "seed": 0,
        "settings": {"train_majority": 20, "validation_majority": 10, "batch_size": 16, "alm_epochs": 1},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    run = ("run", "plan.json", "--output", "out", "--dataset_dir", images, "--jobs", 2)
    first = cli(*run, folder=tmp_path, environment=clean_environment)
    assert first == "6 of 6 members, 2 ensembles\n"  # two candidates of two members, and two with the constraint
    assert cli(*run, folder=tmp_path, environment=clean_environment) == first

    chosen = json.loads((tmp_path / "out/cifar10-0-1/1-2/s_fl-baseline/selection.json").read_text())
    ensembles = {name: tmp_path / f"out/cifar10-0-1/1-2/s_fl-{name}" for name in ("baseline", "alm")}
    settings = json.loads((ensembles["alm"] / "member-00" / "config.json").read_text())["settings"]
    assert settings["loss_parameters"]["gamma"] in (1, 2)
    assert f"gamma-{settings['loss_parameters']['gamma']:g}" in json.dumps(chosen)

    cli("report", "out", "--output", "report", folder=tmp_path, environment=clean_environment)
    with (tmp_path / "report" / "table2.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["ours"]]
    for training, folder in ensembles.items():
        metrics = json.loads((folder / "metrics.json").read_text())
        row = next(row for row in rows if row["training"] == training and "auc" in row["column"])
        assert float(row["ours"]) == pytest.approx(100 * metrics["ensemble"]["test"]["auc"], abs=0.01)
    assert "S-FL" in (tmp_path / "report" / "report.md").read_text()
