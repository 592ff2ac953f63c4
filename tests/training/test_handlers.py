"""The order of Algorithm 1, against the algorithm written out as a plain loop."""

import math
from typing import Any

import pytest
import torch
from monai.engines import SupervisedTrainer
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.training.handlers import ClipGradients, EpochLosses, RankingMetrics, UpdateMultipliers
from prostate_alm.training.trainer import TargetLoss, prepare_batch

BATCHES = [
    {
        "image": torch.randn(4, 3, generator=torch.Generator().manual_seed(step)),
        "label": torch.tensor([1, 0, 1, 0]),
        "sample_id": [f"{step}-{row}" for row in range(4)],
    }
    for step in range(3)
]
IDS = [sample_id for batch in BATCHES for sample_id in batch["sample_id"]]


def make_parts() -> tuple[nn.Module, AugmentedLagrangian, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Linear(3, 1).double()
    term = AugmentedLagrangian(IDS, margin=1.0, mu=0.5, rho=2.0)
    return network, term, torch.optim.SGD(network.parameters(), lr=0.1)


def batches() -> list[dict[str, Any]]:
    return [batch | {"image": batch["image"].double()} for batch in BATCHES]


def run_engine(data: list[dict[str, Any]], *, norm_max: float) -> tuple[nn.Module, AugmentedLagrangian, ClipGradients]:
    network, term, optimizer = make_parts()
    loss = ConstrainedLoss(nn.BCEWithLogitsLoss(), term)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=data,
        network=network,
        optimizer=optimizer,
        loss_function=TargetLoss(loss),
        prepare_batch=prepare_batch,
        decollate=False,
        epoch_length=len(data),
    )
    clip = ClipGradients(network, norm_max)
    clip.attach(trainer)
    UpdateMultipliers(term, clip).attach(trainer)
    trainer.run()
    return network, term, clip


def algorithm_1() -> tuple[nn.Module, dict[str, float]]:
    """θ steps with the old λ, then λ_j += μ q_j with q from before the step; margin 1, μ 0.5, sums."""
    network, _, optimizer = make_parts()
    multipliers: dict[str, float] = {}
    for batch in batches():
        logits = network(batch["image"]).flatten()
        positives, negatives = logits[batch["label"] == 1], logits[batch["label"] == 0]
        violations = (1.0 - (positives[:, None] - negatives[None, :])).clamp_min(0).sum(dim=1)  # (P,)
        ids = [name for name, label in zip(batch["sample_id"], batch["label"], strict=True) if label == 1]
        old = torch.tensor([multipliers.get(name, 0.0) for name in ids], dtype=torch.float64)
        base = nn.functional.binary_cross_entropy_with_logits(logits, batch["label"].double())
        loss = base + 0.5 * (violations**2).sum() / (2 * 2 * 2) + (old * violations).sum() / (2 * 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, violation in zip(ids, violations.tolist(), strict=True):
            multipliers[name] = multipliers.get(name, 0.0) + 0.5 * violation
    return network, multipliers


def test_the_engine_follows_algorithm_1() -> None:
    network, term, _ = run_engine(batches(), norm_max=1e9)
    expected_network, expected_multipliers = algorithm_1()
    torch.testing.assert_close(network.weight, expected_network.weight, rtol=1e-12, atol=1e-12)
    assert dict(term.multipliers) == pytest.approx(expected_multipliers, rel=1e-12)


class ExplodingSquare(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf


def test_a_gradient_that_is_not_finite_moves_neither_weights_nor_multipliers() -> None:
    reference, _, _ = make_parts()
    network, term, optimizer = make_parts()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=batches(),
        network=network,
        optimizer=optimizer,
        loss_function=TargetLoss(ConstrainedLoss(nn.BCEWithLogitsLoss(), term)),
        prepare_batch=prepare_batch,
        inferer=lambda inputs, net: ExplodingSquare.apply(net(inputs)),
        decollate=False,
        epoch_length=len(BATCHES),
    )
    clip = ClipGradients(network, 1.0)
    clip.attach(trainer)
    UpdateMultipliers(term, clip).attach(trainer)
    trainer.run()
    assert clip.skipped_steps == len(BATCHES)
    assert torch.equal(network.weight, reference.weight)
    assert all(value == 0 for value in term.multipliers.values())


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    network, _, _ = run_engine(batches()[:1], norm_max=0.01)
    start, _, _ = make_parts()
    moved = torch.cat([(a - b).flatten() for a, b in zip(network.parameters(), start.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-4)  # learning rate times norm_max


def test_the_parts_of_the_loss_are_its_base_and_the_constraint() -> None:
    network, term, optimizer = make_parts()
    loss = ConstrainedLoss(nn.BCEWithLogitsLoss(), term)
    first = batches()[:1]
    logits = network(first[0]["image"]).flatten().detach()
    positives, negatives = logits[first[0]["label"] == 1], logits[first[0]["label"] == 0]
    violations = (1.0 - (positives[:, None] - negatives[None, :])).clamp_min(0).sum(dim=1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=first,
        network=network,
        optimizer=optimizer,
        loss_function=TargetLoss(loss),
        prepare_batch=prepare_batch,
        decollate=False,
        epoch_length=1,
    )
    losses = EpochLosses(loss)
    losses.attach(trainer)
    trainer.run()
    means = losses.means()
    assert means["train_constraint"] == pytest.approx((0.5 * (violations**2).sum() / (2 * 2 * 2)).item())
    assert means["train_base_loss"] == pytest.approx(
        nn.functional.binary_cross_entropy_with_logits(logits, first[0]["label"].double()).item()
    )


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
