"""Members and ensembles of several classes: their figures against scikit-learn, loops, and those of two classes."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from prostate_alm.method.class_metrics import critical_scores, mean_rest_accuracy, rest_error_at_tpr
from prostate_alm.results.run_folder import EnsembleError
from prostate_alm.training import ensemble, results
from prostate_alm.training.comparison import compare_ensembles, figures_to_text
from prostate_alm.training.comparison import to_text as as_table
from prostate_alm.training.scores import ClassMetrics, ClassScores, RankingMetrics

K = 4


def cohort(seed: int, size: int = 120) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    classes = np.arange(size) % K
    return classes, random.normal(size=(size, K)) + 1.2 * np.eye(K)[classes]


def filled(metrics: RankingMetrics, labels: np.ndarray, logits: np.ndarray) -> RankingMetrics:
    for rows in np.array_split(np.arange(len(labels)), 3):
        targets = {"label": torch.tensor(labels[rows]), "sample_id": [f"s{row}" for row in rows]}
        metrics.update((torch.tensor(logits[rows]), targets))
    return metrics


def test_the_metrics_of_each_critical_class_agree_with_scikit_learn() -> None:
    classes, logits = cohort(0)
    found = filled(ClassMetrics(classes=K, critical=[2, 0]), classes, logits).compute()
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    areas = {c: roc_auc_score(classes == c, probability[:, c]) for c in (2, 0)}
    assert (found["val_auc_class2"], found["val_auc_class0"]) == pytest.approx((areas[2], areas[0]))
    assert found["val_auc"] == pytest.approx(np.mean([*areas.values()]))
    assert found["val_loss"] == pytest.approx(log_loss(classes, probability))
    assert found["val_balanced_accuracy"] == pytest.approx(balanced_accuracy_score(classes, logits.argmax(axis=1)))


def test_with_an_order_a_graver_class_is_left_out_of_the_figures_of_the_next() -> None:
    classes, logits = cohort(1)
    found = filled(ClassMetrics(classes=K, critical=[2, 0], ordered=True), classes, logits).compute()
    left = classes != 2
    scores = logits[:, 0] - np.log(np.exp(logits[:, [1, 3]]).sum(axis=1))
    assert found["val_auc_class0"] == pytest.approx(roc_auc_score(classes[left] == 0, scores[left]))
    table = ClassScores(classes, logits, (2, 0), True).confusion(tpr_percent=90)
    assert table.sum(axis=1).tolist() == np.bincount(classes).tolist()
    assert table[2, 2] == 27  # 90 % of 30, the gravest: nobody is asked before
    assert table[0, [0, 2]].sum() >= 27


def test_of_two_classes_all_is_as_with_one_logit() -> None:
    classes, logits = cohort(2)
    labels, f = classes % 2, logits[:, 1]
    one = filled(RankingMetrics(), labels, f[:, None])
    two = filled(ClassMetrics(classes=2, critical=[1]), labels, np.stack([np.zeros_like(f), f], axis=1))
    assert np.array_equal(one.logits, two.logits)
    expected, found = one.compute(), two.compute()
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-12)
    assert results.summarise(one.labels, one.logits) == results.summarise(two.labels, two.logits)


def test_the_order_of_states_is_one_minus_the_rest_error_over_all_tprs() -> None:
    """The TPR moves in steps of one positive, and the rest error with it."""
    classes, logits = cohort(3)
    labels, columns = ClassScores(classes, logits, (1,), False).of(1)
    positives = int(labels.sum())
    steps = [rest_error_at_tpr(classes, logits, critical=1, tpr=(k + 1) / positives) for k in range(positives)]
    assert mean_rest_accuracy(labels, columns) == pytest.approx(1 - np.mean(steps))


def test_metrics_without_a_critical_class_are_none_and_a_network_of_other_outputs_is_told() -> None:
    classes, logits = cohort(4)
    few = classes != 2
    assert filled(ClassMetrics(classes=K, critical=[2]), classes[few], logits[few]).compute() == {}
    with pytest.raises(ValueError, match=r"logits must have shape \(B, 4\), got .*Give network_def as many outputs"):
        filled(ClassMetrics(classes=K, critical=[2]), classes, logits[:, :3])


@pytest.fixture(scope="module")
def ensembles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a baseline and an ensemble with the constraint, of two members each, two critical classes."""
    root = tmp_path_factory.mktemp("classes") / "cifar10-critical-2-0" / "long_tailed-1-100"
    for name, separation in (("ce-baseline", 0.0), ("ce-alm", 0.4)):
        for member in range(2):
            folder = root / name / f"member-{member:02d}"
            folder.mkdir(parents=True)
            splits = {}
            for place, split in enumerate(("validation", "test")):
                classes, logits = cohort(10 * place if split == "test" else member)
                logits = (
                    logits + np.random.default_rng(member).normal(size=logits.shape) + separation * np.eye(K)[classes]
                )
                splits[split] = filled(ClassMetrics(classes=K, critical=[2, 0]), classes, logits)
            results.write_predictions(folder / "predictions.csv", splits)
            settings = {"member": member, "loss": "ce", "alm": name == "ce-alm", "critical": [2, 0], "ordered": False}
            content = {"bundle": "cifar10", "experiment": "cifar10-critical-2-0", "settings": settings, "versions": {}}
            (folder / "config.json").write_text(json.dumps(content))
            (folder / "metrics.json").write_text(json.dumps(results.summarise_splits(splits)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "RESAMPLES", 60)  # of a thousand: what they are is asked here, not how fine
        ensemble.evaluate_ensemble(root / "ce-baseline")
        ensemble.evaluate_ensemble(root / "ce-alm", baseline=root / "ce-baseline")
    return root / "ce-baseline", root / "ce-alm"


def read_logits(path: Path) -> tuple[np.ndarray, np.ndarray, list[dict[str, str]]]:
    with path.open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    logits = np.array([[float(row[f"logit_{k}"]) for k in range(K)] for row in rows])
    return np.array([int(row["class"]) for row in rows]), logits, rows


def test_an_ensemble_has_the_mean_logits_of_all_classes(ensembles: tuple[Path, Path]) -> None:
    members = [read_logits(ensembles[1] / f"member-0{k}" / "predictions.csv") for k in range(2)]
    classes, logits, rows = read_logits(ensembles[1] / "predictions.csv")
    np.testing.assert_allclose(logits, (members[0][1] + members[1][1]) / 2, rtol=1e-15)
    assert classes.tolist() == members[0][0].tolist()
    np.testing.assert_allclose([float(row["logit"]) for row in rows], critical_scores(logits, 2), rtol=1e-12)
    assert [int(row["label"]) for row in rows] == (classes == 2).astype(int).tolist()


def test_its_figures_are_those_of_the_mean_and_the_differences_are_paired(ensembles: tuple[Path, Path]) -> None:
    metrics = json.loads((ensembles[1] / "metrics.json").read_text())
    classes, logits, _ = read_logits(ensembles[1] / "predictions.csv")
    _, others, _ = read_logits(ensembles[0] / "predictions.csv")
    figures, intervals = metrics["ensemble"]["test"], metrics["intervals"]["test"]
    against = metrics["against_baseline"]["test"]
    assert figures["auc_class0"] == pytest.approx(roc_auc_score(classes == 0, critical_scores(logits, 0)))
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(classes, logits.argmax(axis=1)))
    for tpr in (80, 90):
        for critical, suffix in ((2, ""), (0, "_class0")):
            name = f"rest_error_at_tpr{tpr}{suffix}"
            expected = rest_error_at_tpr(classes, logits, critical=critical, tpr=tpr / 100)
            before = rest_error_at_tpr(classes, others, critical=critical, tpr=tpr / 100)
            assert figures[name] == pytest.approx(expected)
            assert intervals[name][0] <= figures[name] <= intervals[name][1]
            assert against[f"{name}_difference"] == pytest.approx(expected - before)
            assert against[f"{name}_difference_low"] < against[f"{name}_difference_high"]
    shown = next(line for line in figures_to_text(metrics).splitlines() if line.startswith("rest error at tpr80 "))
    change = 100 * against["rest_error_at_tpr80_difference"]
    assert f" {100 * figures['rest_error_at_tpr80']:.1f} [" in shown
    assert shown.endswith(f"difference {change:+.1f}")


def test_the_confusion_table_counts_every_test_sample_once(ensembles: tuple[Path, Path]) -> None:
    with (ensembles[1] / "confusion.csv").open() as stream:
        table = np.array([[int(row[f"called_{k}"]) for k in range(K)] for row in csv.DictReader(stream)])
    classes, _, _ = read_logits(ensembles[1] / "predictions.csv")
    assert table.sum(axis=1).tolist() == np.bincount(classes).tolist()
    assert table[2, 2] == np.ceil(0.95 * 30)


def test_ensembles_of_several_classes_are_compared_by_what_the_others_pay(ensembles: tuple[Path, Path]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "RESAMPLES", 60)
        rows = compare_ensembles(ensembles)
    metrics = json.loads((ensembles[1] / "metrics.json").read_text())
    expected = metrics["against_baseline"]["test"]
    assert rows[1]["against_first"] == pytest.approx(expected)  # the first is the baseline
    assert {"rest_error_at_tpr95", "rest_error_at_tpr95_class0", "balanced_accuracy"} <= set(rows[0]["figures"])
    change = 100 * expected["rest_error_at_tpr90_difference"]
    table = as_table(rows)
    assert any(line.startswith("  less the first") and f" {change:+.1f} [" in line for line in table.splitlines())
    assert "others' error at 90 % TPR" in table


def test_ensembles_of_other_critical_classes_are_not_compared(ensembles: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ensembles[1], other)
    about = json.loads((other / "ensemble.json").read_text())
    about["settings"]["critical"] = [2, 1]
    (other / "ensemble.json").write_text(json.dumps(about))
    with pytest.raises(EnsembleError, match=r"same critical ones, got \[2, 1\] of 4 classes in .* and \[2, 0\] of 4 "):
        compare_ensembles([ensembles[0], other])
