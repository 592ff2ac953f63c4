import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from prostate_alm.training.scores import RankingMetrics


def filled(labels: list[int], logits: list[float]) -> RankingMetrics:
    metrics = RankingMetrics()
    for start in range(0, len(labels), 3):
        part = slice(start, start + 3)
        targets = {"label": torch.tensor(labels[part]), "sample_id": [str(i) for i in range(len(labels[part]))]}
        metrics.update((torch.tensor(logits[part])[:, None], targets))
    return metrics


def test_validation_metrics_agree_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, generator=generator).tolist()
    labels = [int(i % 4 == 0) for i in range(40)]
    computed = filled(labels, logits).compute()
    assert computed["val_auc"] == pytest.approx(roc_auc_score(labels, logits))
    probabilities = torch.tensor(logits, dtype=torch.float64).sigmoid().numpy()
    assert computed["val_loss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)


def test_the_score_follows_the_auc_and_breaks_its_ties_by_the_loss() -> None:
    labels = [1, 1, 0, 0, 0]
    confident, timid = filled(labels, [5, 4, -4, -5, -3]), filled(labels, [0.5, 0.4, -0.4, -0.5, -0.3])
    worse_auc = filled(labels, [5, -3.5, -4, -5, -3])  # one pair in six the wrong way round, and a small loss
    ranked = [m.compute() for m in (confident, timid, worse_auc)]
    assert ranked[0]["val_auc"] == ranked[1]["val_auc"] == 1.0
    assert ranked[0]["val_score"] > ranked[1]["val_score"] > ranked[2]["val_score"]
