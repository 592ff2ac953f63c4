"""The two stages on tensors small enough to train in a second."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.training.trainer import Loaders, Schedule, TwoStageTraining


class Points(Dataset[dict[str, Any]]):
    """Positives lie to the right of negatives, with overlap; a random shift is the augmentation."""

    def __init__(self, count: int, *, seed: int, augmented: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = [int(index % 3 == 0) for index in range(count)]
        self.images = torch.randn(count, 4, generator=generator) + torch.tensor(self.labels)[:, None]
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shift = 0.1 * torch.randn(4) if self.augmented else torch.zeros(4)
        return {"image": self.images[index] + shift, "label": self.labels[index], "sample_id": f"sample-{index}"}


def make_training(
    *, alm: bool = True, pretrain_epochs: int = 3, alm_epochs: int = 3, patience: int = 10
) -> TwoStageTraining:
    torch.manual_seed(0)
    train = Points(30, seed=1, augmented=True)
    sampler = StratifiedBatchSampler(train.labels, 8, seed=0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
    ids = [f"sample-{index}" for index in range(30)]
    term = AugmentedLagrangian(ids, margin=1.0, mu=0.2, rho=2.0, reduction="mean") if alm else None
    return TwoStageTraining(
        network,
        ConstrainedLoss(nn.BCEWithLogitsLoss(), term) if alm else ConstrainedLoss(nn.BCEWithLogitsLoss()),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.05),
        loaders=Loaders(
            train=DataLoader(train, batch_sampler=sampler),
            validation=DataLoader(Points(12, seed=2, augmented=False), batch_size=8),
            test=DataLoader(Points(12, seed=3, augmented=False), batch_size=8),
        ),
        schedule=Schedule(pretrain_epochs, alm_epochs, patience, gradient_norm_max=1.0, seed=0, member=0),
        device="cpu",
        randomizers=[sampler.set_epoch],
    )


class Killed(Exception):
    """Stands for the end of the process."""


def kill_after(epochs: int) -> Callable[[list[dict[str, float]]], None]:
    def count(history: list[dict[str, float]]) -> None:
        if len(history) == epochs:
            raise Killed

    return count


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> TwoStageTraining:
    training = make_training()
    training.run(tmp_path_factory.mktemp("run") / "checkpoint.pt")
    return training


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 6])
@pytest.mark.filterwarnings("ignore:.*terminating due to exception")
def test_a_run_killed_after_any_epoch_and_resumed_is_the_same_bit_for_bit(
    epochs: int, uninterrupted: TwoStageTraining, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        make_training().run(checkpoint, on_epoch=kill_after(epochs))
    resumed = make_training()
    resumed.run(checkpoint)
    assert [repr(row) for row in resumed.history] == [repr(row) for row in uninterrupted.history]
    for name, value in uninterrupted.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value), name
    assert resumed.constraint is not None
    assert uninterrupted.constraint is not None
    assert resumed.constraint.multipliers == uninterrupted.constraint.multipliers


def test_the_second_stage_starts_from_the_best_state_of_the_first(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        make_training().run(checkpoint, on_epoch=kill_after(3))
    best = torch.load(checkpoint, weights_only=True)["best"]
    first_stage = make_training(alm_epochs=1)
    seen: list[dict[str, torch.Tensor]] = []
    first_stage.network.register_forward_pre_hook(
        lambda module, _: seen.append({key: value.clone() for key, value in module.state_dict().items()})
    )
    first_stage.run(checkpoint)
    for name, value in best["network"].items():
        assert torch.equal(seen[0][name], value), name


def test_a_baseline_gets_as_many_epochs_and_the_same_restart_as_alm(tmp_path: Path) -> None:
    baseline, alm = make_training(alm=False), make_training(alm=True)
    baseline.run(tmp_path / "baseline.pt")
    alm.run(tmp_path / "alm.pt")
    assert [row["stage"] for row in baseline.history] == [row["stage"] for row in alm.history]
    first_stages = [[repr(row) for row in run.history if row["stage"] == 0] for run in (baseline, alm)]
    assert first_stages[0] == first_stages[1]
    assert not any(key.startswith("alm_") for row in baseline.history for key in row)
    assert all("alm_mu" in row for row in alm.history if row["stage"] == 1)


def test_patience_ends_a_stage_and_survives_a_kill(tmp_path: Path) -> None:
    def stage_lengths(training: TwoStageTraining) -> list[int]:
        return [len(list(rows)) for _, rows in itertools.groupby(row["stage"] for row in training.history)]

    whole = make_training(pretrain_epochs=40, alm_epochs=40, patience=2)
    whole.run(tmp_path / "whole.pt")
    first, second = stage_lengths(whole)
    assert first < 40
    assert second < 40
    with pytest.raises(Killed):
        make_training(pretrain_epochs=40, alm_epochs=40, patience=2).run(
            tmp_path / "killed.pt", on_epoch=kill_after(first)
        )
    resumed = make_training(pretrain_epochs=40, alm_epochs=40, patience=2)
    resumed.run(tmp_path / "killed.pt")
    assert stage_lengths(resumed) == [first, second]


def test_a_finished_checkpoint_trains_no_further(uninterrupted: TwoStageTraining, tmp_path: Path) -> None:
    first = make_training()
    first.run(tmp_path / "checkpoint.pt")
    again = make_training()
    again.run(tmp_path / "checkpoint.pt")
    assert len(again.history) == len(uninterrupted.history)
    for name, value in first.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


def test_evaluation_keeps_ids_labels_and_logits_together(uninterrupted: TwoStageTraining) -> None:
    data = uninterrupted.loaders.test.dataset
    scores = uninterrupted.evaluate(uninterrupted.loaders.test)
    network = uninterrupted.network.eval()
    for sample_id, label, logit in zip(scores.sample_ids, scores.labels, scores.logits, strict=True):
        sample = data[int(sample_id.removeprefix("sample-"))]
        assert label == sample["label"]
        assert logit == pytest.approx(network(sample["image"][None]).item(), abs=1e-6)
