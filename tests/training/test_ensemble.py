"""The ensemble's figures, recomputed with scikit-learn and plain loops from the members' files."""

import csv
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from prostate_alm.results.run_folder import EnsembleError
from prostate_alm.training.comparison import figures_to_text
from prostate_alm.training.ensemble import evaluate_ensemble


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, write_member: Callable[..., Path]) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("ensembles") / "cifar10-0-1" / "1-3"
    for member in range(4):
        write_member(root / "bce-baseline", member)
        write_member(root / "bce-alm", member, separation=0.7)
    evaluate_ensemble(root / "bce-baseline")
    evaluate_ensemble(root / "bce-alm", baseline=root / "bce-baseline")
    return root / "bce-baseline", root / "bce-alm"


def test_logits_are_averaged_over_the_members(pair: tuple[Path, Path]) -> None:
    members = [rows_of(pair[1] / f"member-{k:02d}" / "predictions.csv") for k in range(4)]
    own = {row["sample_id"]: row for row in rows_of(pair[1] / "predictions.csv")}
    expected = {row["sample_id"] for row in members[0] if row["split"] != "validation"}
    assert set(own) == expected
    for at, first in enumerate(members[0]):
        if first["sample_id"] in own:
            logits = [float(member[at]["logit"]) for member in members]
            assert float(own[first["sample_id"]]["logit"]) == pytest.approx(statistics.fmean(logits), abs=1e-12)
            assert float(own[first["sample_id"]]["logit_std"]) == pytest.approx(statistics.stdev(logits), abs=1e-12)


@pytest.mark.parametrize(("name", "splits"), [("test", {"test"}), ("test_all_positives", {"test", "test_extra"})])
def test_the_figures_are_those_of_the_averaged_logits(pair: tuple[Path, Path], name: str, splits: set[str]) -> None:
    metrics = json.loads((pair[1] / "metrics.json").read_text())
    rows = [row for row in rows_of(pair[1] / "predictions.csv") if row["split"] in splits]
    labels = np.array([int(row["label"]) for row in rows])
    logits = np.array([float(row["logit"]) for row in rows])
    figures = metrics["ensemble"][name]
    assert figures["auc"] == pytest.approx(roc_auc_score(labels, logits))
    assert (figures["positives"], figures["negatives"]) == (labels.sum(), (1 - labels).sum())
    lowest = logits[labels == 1].min()
    assert figures["fpr_at_tpr100"] == np.mean(logits[labels == 0] >= lowest)
    for key, (low, high) in metrics["intervals"][name].items():
        assert low <= figures[key] <= high
        assert low < high


def test_the_mean_over_draws_is_that_of_test_sets_of_the_class_ratio(pair: tuple[Path, Path]) -> None:
    figures = json.loads((pair[1] / "metrics.json").read_text())["ensemble"]
    draws, every = figures["test_draws"], figures["test_all_positives"]
    assert draws["positives"] == figures["test"]["positives"]
    assert draws["auc"] == pytest.approx(every["auc"], abs=0.01)  # unbiased, 100 draws
    assert draws["fpr_at_tpr100"] < every["fpr_at_tpr100"]  # fewer positives, a less extreme lowest one


def test_mean_and_deviation_are_over_the_members(pair: tuple[Path, Path]) -> None:
    metrics = json.loads((pair[0] / "metrics.json").read_text())
    own = [json.loads((pair[0] / f"member-{k:02d}" / "metrics.json").read_text()) for k in range(4)]
    for split in ("validation", "test"):
        values = [member[split]["auc"] for member in own]
        assert metrics["member_mean"][split]["auc"] == pytest.approx(statistics.fmean(values))
        assert metrics["member_std"][split]["auc"] == pytest.approx(statistics.stdev(values))
    table = rows_of(pair[0] / "members.csv")
    assert [float(row["validation_auc"]) for row in table] == [member["validation"]["auc"] for member in own]


def test_one_test_positive_is_no_reason_to_lose_the_ensemble(tmp_path: Path, write_member: Callable[..., Path]) -> None:
    """DeLong's test has no variance of one sample: nothing is compared on that test set, all else is there."""
    for name in ("bce-baseline", "bce-alm"):
        for member in range(2):
            write_member(tmp_path / name, member, positives=1)
    evaluate_ensemble(tmp_path / "bce-baseline")
    evaluate_ensemble(tmp_path / "bce-alm", baseline=tmp_path / "bce-baseline")
    metrics = json.loads((tmp_path / "bce-alm" / "metrics.json").read_text())
    assert "test" not in metrics["against_baseline"]
    assert metrics["against_baseline"]["test_all_positives"]["p_value"] <= 1  # with the extra ones there are enough
    assert metrics["ensemble"]["test"]["positives"] == 1
    assert "DeLong" not in figures_to_text(metrics)


def test_the_baseline_is_compared_on_the_same_samples(pair: tuple[Path, Path]) -> None:
    baseline, alm = (json.loads((folder / "metrics.json").read_text()) for folder in pair)
    assert baseline["against_baseline"] is None
    against = alm["against_baseline"]
    assert against["baseline"] == "bce-baseline"
    for name in ("test", "test_all_positives"):
        for key in ("auc", "fpr_at_tpr95"):
            difference = alm["ensemble"][name][key] - baseline["ensemble"][name][key]
            assert against[name][f"{key}_difference"] == pytest.approx(difference)
            assert against[name][f"{key}_difference_low"] <= difference <= against[name][f"{key}_difference_high"]
        assert 0 <= against[name]["p_value"] <= 1
    assert "bce-baseline" in figures_to_text(alm)


def test_an_interrupted_member_is_left_out_and_named(tmp_path: Path, write_member: Callable[..., Path]) -> None:
    folder = tmp_path / "bce-alm"
    for member in range(3):
        write_member(folder, member)
    (folder / "member-01" / "metrics.json").unlink()
    metrics = evaluate_ensemble(folder)
    assert (metrics["members"], metrics["failed"]) == ([0, 2], [1])


def test_few_positives_are_counted_and_not_warned_of(tmp_path: Path, write_member: Callable[..., Path]) -> None:
    folder = tmp_path / "bce-alm"  # any warning is an error here
    for member in range(2):
        write_member(folder, member, positives=5)
    assert evaluate_ensemble(folder)["ensemble"]["test"]["positives"] == 5


def test_members_that_do_not_belong_together_are_refused(tmp_path: Path, write_member: Callable[..., Path]) -> None:
    folder = tmp_path / "bce-alm"
    write_member(folder, 0)
    with pytest.raises(EnsembleError, match="at least 2 finished members, got 1"):
        evaluate_ensemble(folder)
    with pytest.raises(EnsembleError, match="at least 2 finished members, got 0"):
        evaluate_ensemble(tmp_path / "nowhere")
    write_member(folder, 1, seed=7)
    with pytest.raises(EnsembleError, match=r"same settings, got seed = 7 in .*member-01"):
        evaluate_ensemble(folder)
    other = tmp_path / "other-alm"
    write_member(other, 0)
    write_member(other, 1, extra=19)
    with pytest.raises(EnsembleError, match=r"same test samples, got others in .*member-01"):
        evaluate_ensemble(other)


def test_a_baseline_of_other_samples_is_refused(
    pair: tuple[Path, Path], tmp_path: Path, write_member: Callable[..., Path]
) -> None:
    folder = tmp_path / "bce-baseline"
    with pytest.raises(EnsembleError, match="baseline must be an evaluated ensemble"):
        evaluate_ensemble(pair[1], baseline=folder)
    for member in range(2):
        write_member(folder, member, extra=10)
    evaluate_ensemble(folder)
    with pytest.raises(EnsembleError, match="baseline must be evaluated on the same 100 test samples, got 90"):
        evaluate_ensemble(pair[1], baseline=folder)


def test_a_figure_that_a_member_lacks_has_no_mean(tmp_path: Path, write_member: Callable[..., Path]) -> None:
    """False positives at 100 % of the lesions are absent where no threshold finds all."""
    for member in range(2):
        write_member(tmp_path / "bce-alm", member)
    path = tmp_path / "bce-alm" / "member-00" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["test"]["lesion_fp_per_case_at_sens100"] = 1.5
    path.write_text(json.dumps(metrics))
    evaluate_ensemble(tmp_path / "bce-alm")
    found = json.loads((tmp_path / "bce-alm" / "metrics.json").read_text())
    assert "auc" in found["member_mean"]["test"]
    assert "lesion_fp_per_case_at_sens100" not in found["member_mean"]["test"]
    header, *_ = rows_of(tmp_path / "bce-alm" / "members.csv")
    assert "member" in header
