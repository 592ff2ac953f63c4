"""The order of Algorithm 1, against the algorithm written out as a plain loop."""

import math
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn

from prostate_alm.method.class_losses import make_class_loss
from prostate_alm.method.critical import CriticalClasses
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.training.engines import prepare_batch
from prostate_alm.training.handlers import ClipGradients, DeferWeights, SchedulePenalty, UpdateMultipliers
from prostate_alm.training.history import EpochLosses
from prostate_alm.training.stages import StagedLoss

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
    term = AugmentedLagrangian.as_printed(IDS, mu=0.5, rho=2.0)
    return network, term, torch.optim.SGD(network.parameters(), lr=0.1)


def batches() -> list[dict[str, Any]]:
    return [batch | {"image": batch["image"].double()} for batch in BATCHES]


class Run:
    """One epoch of Algorithm 1 in a MONAI trainer, with the handlers under test."""

    def __init__(self, data: list[dict[str, Any]], *, norm_max: float = 1e9, inferer: Any = None) -> None:
        self.network, self.term, optimizer = make_parts()
        loss = StagedLoss(ConstrainedLoss(nn.BCEWithLogitsLoss(), self.term))
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=1,
            train_data_loader=data,
            network=self.network,
            optimizer=optimizer,
            loss_function=loss,
            prepare_batch=prepare_batch,
            inferer=inferer,
            decollate=False,
            epoch_length=len(data),
        )
        self.clip, self.losses = ClipGradients(self.network, norm_max), EpochLosses(loss)
        self.clip.attach(trainer)
        self.losses.attach(trainer)
        UpdateMultipliers(loss, self.clip).attach(trainer)
        trainer.run()


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
    run = Run(batches())
    expected_network, expected_multipliers = algorithm_1()
    torch.testing.assert_close(run.network.weight, expected_network.weight, rtol=1e-12, atol=1e-12)
    assert dict(run.term.multipliers) == pytest.approx(expected_multipliers, rel=1e-12)


class ExplodingIdentity(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf


def test_a_gradient_that_is_not_finite_moves_neither_weights_nor_multipliers() -> None:
    reference, _, _ = make_parts()
    run = Run(batches(), norm_max=1.0, inferer=lambda inputs, net: ExplodingIdentity.apply(net(inputs)))
    assert run.clip.skipped_steps == len(BATCHES)
    assert torch.equal(run.network.weight, reference.weight)
    assert all(value == 0 for value in run.term.multipliers.values())


def test_clipping_bounds_the_norm_of_all_gradients_together() -> None:
    run = Run(batches()[:1], norm_max=0.01)
    start, _, _ = make_parts()
    moved = torch.cat([(a - b).flatten() for a, b in zip(run.network.parameters(), start.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-4)  # learning rate times norm_max


def test_the_parts_of_the_loss_are_its_base_and_the_constraint() -> None:
    network, _, _ = make_parts()
    first = batches()[0]
    logits = network(first["image"]).flatten().detach()
    positives, negatives = logits[first["label"] == 1], logits[first["label"] == 0]
    violations = (1.0 - (positives[:, None] - negatives[None, :])).clamp_min(0).sum(dim=1)
    base = nn.functional.binary_cross_entropy_with_logits(logits, first["label"].double())
    means = Run([first]).losses.means()
    assert means["train_constraint"] == pytest.approx((0.5 * (violations**2).sum() / (2 * 2 * 2)).item())
    assert means["train_base_loss"] == pytest.approx(base.item())
    assert means["train_loss"] == pytest.approx(means["train_constraint"] + means["train_base_loss"])


@pytest.mark.parametrize("begins", [0, 3])
def test_class_weights_act_in_the_last_epochs_also_of_a_run_that_goes_on(begins: int) -> None:
    """Every epoch says itself whether they do: nothing needs to be kept of it."""
    loss, seen = make_class_loss("ldam", classes=2, class_counts=(9, 1)), []
    trainer = Engine(lambda engine, batch: seen.append((engine.state.epoch, loss.weighs)))
    trainer.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "epoch", begins))  # as `Checkpoint`
    DeferWeights(loss, 3).attach(trainer)
    trainer.run([0], max_epochs=4, epoch_length=1)
    assert seen == [(epoch, epoch >= 3) for epoch in range(begins + 1, 5)]


def test_of_several_critical_classes_each_mu_follows_its_own_auc() -> None:
    loss = StagedLoss(ConstrainedLoss(nn.CrossEntropyLoss(), CriticalClasses(IDS, [2, 0], classes=3)))
    evaluator, trainer = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    schedule = SchedulePenalty(loss, evaluator)
    for area in (0.9, 0.6):
        evaluator.state.metrics = {"val_auc": area, "val_auc_class2": area, "val_auc_class0": 0.9}
        schedule(trainer)
    assert [term.mu for term in loss.term.terms.values()] == [6.0, 3.0]
