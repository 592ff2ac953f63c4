"""Ensembles of the same test samples side by side."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prostate_alm.cli import main
from prostate_alm.results.run_folder import EnsembleError
from prostate_alm.training.comparison import compare_ensembles
from prostate_alm.training.ensemble import evaluate_ensemble


@pytest.fixture(scope="module")
def ensembles(write_member, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("ensembles")
    folders = [root / name for name in ("bce-baseline", "bce-alm", "mbauc-baseline")]
    for folder, separation in zip(folders, (0.2, 1.5, 0.2), strict=True):
        for number in range(3):
            write_member(folder, number, separation=separation)
        evaluate_ensemble(folder)
    return folders


def test_differences_are_those_of_the_figures_and_the_interval_holds_them(ensembles: list[Path]) -> None:
    rows = compare_ensembles(ensembles)
    areas = [area_of(folder) for folder in ensembles]
    assert [row["figures"]["auc"] for row in rows] == pytest.approx(areas)
    assert rows[0]["against_first"] is None
    for row, area in zip(rows[1:], areas[1:], strict=True):
        against = row["against_first"]
        assert against["auc_difference"] == pytest.approx(area - areas[0])
        for key in ("auc", "fpr_at_tpr95", "fpr_at_tpr100"):
            low, high = against[f"{key}_difference_low"], against[f"{key}_difference_high"]
            assert low <= against[f"{key}_difference"] <= high
    assert rows[1]["against_first"]["p_value"] < 0.05


def area_of(folder: Path) -> float:
    with (folder / "predictions.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    return float(roc_auc_score([int(row["label"]) for row in rows], [float(row["logit"]) for row in rows]))


def test_the_order_of_samples_changes_nothing(ensembles: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "shuffled"
    other.mkdir()
    (other / "metrics.json").write_text((ensembles[1] / "metrics.json").read_text())
    head, *lines = (ensembles[1] / "predictions.csv").read_text().splitlines(keepends=True)
    np.random.default_rng(0).shuffle(lines)
    (other / "predictions.csv").write_text(head + "".join(lines))
    first, shuffled = (compare_ensembles([ensembles[0], one])[1]["against_first"] for one in (ensembles[1], other))
    assert shuffled == first


def test_few_positives_are_no_reason_for_a_warning_on_the_terminal(write_member, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        for number in range(2):
            write_member(folder, number, positives=3)
        evaluate_ensemble(folder)
    assert len(compare_ensembles(folders)) == 2  # a warning would be an error here


def test_nothing_is_written(ensembles: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for folder in ensembles for path in folder.rglob("*")}
    assert main(["ensemble", "compare", *map(str, ensembles)]) == 0
    assert main(["ensemble", "compare", *map(str, ensembles), "--json"]) == 0
    out = capsys.readouterr().out
    assert "less the first" in out
    assert len(json.loads(out[out.index("[\n") :])) == 3
    assert {path: path.stat().st_mtime_ns for folder in ensembles for path in folder.rglob("*")} == before


def test_what_cannot_be_compared_is_refused_in_a_line(ensembles: list[Path], write_member, tmp_path: Path) -> None:
    for number in range(3):
        write_member(tmp_path / "other", number, positives=19)
    evaluate_ensemble(tmp_path / "other")
    with pytest.raises(EnsembleError, match="must be evaluated on the same 80 test samples, got 79 in"):
        compare_ensembles([ensembles[0], tmp_path / "other"])
    with pytest.raises(EnsembleError, match="must be at least two different ones"):
        compare_ensembles([ensembles[0], ensembles[0]])
    with pytest.raises(EnsembleError, match="ensemble must be an evaluated one, got"):
        compare_ensembles([ensembles[0], tmp_path / "absent"])
