import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from prostate_alm.training import results
from prostate_alm.training.scores import RankingMetrics


@pytest.fixture(scope="module")
def scored() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = (generator.random(200) < 0.3).astype(float)
    return labels, np.round(generator.normal(labels, 1.0), 1)  # rounding makes ties


def test_the_summary_holds_the_figures_of_the_paper(scored: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = scored
    summary = results.summarise(labels, scores)
    assert summary["auc"] == pytest.approx(roc_auc_score(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    for level in (100, 95, 90):
        assert summary[f"fpr_at_tpr{level}"] == pytest.approx(fpr[tpr >= level / 100 - 1e-12].min())
    positives = int(labels.sum())
    assert summary["fpr_at_fn1"] == pytest.approx(fpr[tpr >= 1 - 1.5 / positives].min())
    assert summary["fpr_at_fn0"] == summary["fpr_at_tpr100"]
    assert (summary["positives"], summary["negatives"]) == (positives, len(labels) - positives)


def test_predictions_keep_every_digit(tmp_path: Path) -> None:
    metrics = RankingMetrics()
    logits = torch.tensor([1 / 3, -1e-17, 12345.678901234567], dtype=torch.float64)
    metrics.update((logits[:, None], {"label": torch.tensor([1, 0, 0]), "sample_id": ["a", "b", "c"]}))
    results.write_predictions(tmp_path / "predictions.csv", {"test": metrics})
    with (tmp_path / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["logit"]) for row in rows] == logits.tolist()
    assert [(row["sample_id"], row["split"], row["label"]) for row in rows] == [
        ("a", "test", "1"),
        ("b", "test", "0"),
        ("c", "test", "0"),
    ]


def test_the_history_has_a_column_for_what_only_a_later_stage_has(tmp_path: Path) -> None:
    results.write_history(tmp_path / "history.csv", [{"step": 1.0}, {"step": 2.0, "alm_mu": 0.2}])
    assert (tmp_path / "history.csv").read_text().splitlines() == ["step,alm_mu", "1.0,", "2.0,0.2"]
