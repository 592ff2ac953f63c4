"""The two stages on tensors small enough to train in a second."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.inferers import SimpleInferer
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset

from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.training.engines import Training, prepare_batch
from prostate_alm.training.handlers import (
    Checkpoint,
    ClipGradients,
    KeepBest,
    KeepMean,
    SchedulePenalty,
    SeedEpochs,
    UpdateMultipliers,
)
from prostate_alm.training.history import History
from prostate_alm.training.scores import RankingMetrics
from prostate_alm.training.stages import StagedLoss, Stages


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
    folder: Path,
    *,
    alm: bool = True,
    pretrain_epochs: int = 3,
    alm_epochs: int = 3,
    patience: int = 10,
    mean_from: int | None = None,
) -> Training:
    torch.manual_seed(0)
    train = Points(30, seed=1, augmented=True)
    sampler = StratifiedBatchSampler(train.labels, 8, seed=0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
    ids = [f"sample-{index}" for index in range(30)]
    term = AugmentedLagrangian(ids, margin=1.0, mu=0.2, rho=2.0, reduction="mean") if alm else None
    loss = StagedLoss(ConstrainedLoss(nn.BCEWithLogitsLoss(), term))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    common: dict[str, Any] = {"device": torch.device("cpu"), "network": network, "prepare_batch": prepare_batch}
    common |= {"decollate": False}
    validation, test = (DataLoader(Points(12, seed=seed, augmented=False), batch_size=8) for seed in (2, 3))
    evaluator = SupervisedEvaluator(
        val_data_loader=validation, key_val_metric={"val_score": RankingMetrics()}, inferer=SimpleInferer(), **common
    )
    best: KeepBest | KeepMean = KeepBest(network, evaluator, patience=patience)
    if mean_from is not None:
        best = KeepMean(network, from_epoch=mean_from)
    clip = ClipGradients(network, 1.0)
    epochs = (pretrain_epochs, alm_epochs)
    stages = Stages(loss=loss, optimizer=optimizer, best=best, network=network, epochs=epochs, seed=0, member=0)
    history = History(loss, evaluator, stages)
    parts = {"network": network, "optimizer": optimizer, "loss": loss.whole}
    parts |= {"best": best, "history": history, "stages": stages}
    loader = DataLoader(train, batch_sampler=sampler)
    handlers = [
        SeedEpochs(stages, loader),
        clip,
        UpdateMultipliers(loss, clip),
        ValidationHandler(1, evaluator),
        SchedulePenalty(loss, evaluator),
        best,
        history,
        stages,
        Checkpoint(lambda: folder / "checkpoint.pt", parts),
    ]
    trainer = SupervisedTrainer(
        max_epochs=sum(epochs),
        train_data_loader=loader,
        optimizer=optimizer,
        loss_function=loss,
        train_handlers=handlers,
        **common,
    )
    return Training(trainer, handlers, evaluator, {"validation": validation, "test": test})


class Killed(Exception):
    """Stands for the end of the process."""


def kill_after(epochs: int) -> Callable[[list[dict[str, float]]], None]:
    def count(history: list[dict[str, float]]) -> None:
        if len(history) == epochs:
            raise Killed

    return count


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = make_training(tmp_path_factory.mktemp("run"))
    training.run()
    return training


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 5, 6])
@pytest.mark.filterwarnings("ignore:.*terminating due to exception")
def test_a_run_killed_after_any_epoch_and_resumed_is_the_same_bit_for_bit(
    epochs: int, uninterrupted: Training, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        make_training(tmp_path).run(on_epoch=kill_after(epochs))
    resumed = make_training(tmp_path)
    resumed.run()
    assert [repr(row) for row in resumed.history] == [repr(row) for row in uninterrupted.history]
    for name, value in uninterrupted.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value), name
    terms = [run.trainer.loss_function.whole.term for run in (resumed, uninterrupted)]
    assert terms[0].multipliers == terms[1].multipliers
    assert terms[0].mu == terms[1].mu


def test_the_second_stage_starts_from_the_best_state_of_the_first(tmp_path: Path) -> None:
    two = make_training(tmp_path, alm_epochs=1)
    kept: list[dict[str, torch.Tensor]] = []
    two.trainer.add_event_handler(
        Events.EPOCH_STARTED(once=4), lambda _: kept.append(copy.deepcopy(two.network.state_dict()))
    )
    states: list[tuple[float, dict[str, torch.Tensor]]] = []

    def keep(_: Any) -> None:
        score = two.evaluator.state.metrics["val_score"]
        states.append((score, copy.deepcopy(two.network.state_dict())))

    two.evaluator.add_event_handler(Events.COMPLETED, keep)
    two.run()
    best = max(states[:3], key=lambda pair: pair[0])[1]
    for name, value in best.items():
        assert torch.equal(kept[0][name], value), name


def test_the_mean_of_the_weights_is_that_of_torch_begins_anew_with_each_stage_and_survives_a_kill(
    tmp_path: Path,
) -> None:
    whole = make_training(tmp_path, alm_epochs=5, mean_from=2)
    averaged, begun = [AveragedModel(whole.network) for _ in range(2)], []

    def average(_: Engine) -> None:
        epoch = whole.trainer.state.epoch
        stage, own = (0, epoch) if epoch <= 3 else (1, epoch - 3)
        if own >= 2:
            averaged[stage].update_parameters(whole.network)

    whole.evaluator.add_event_handler(Events.STARTED, average)
    whole.trainer.add_event_handler(
        Events.EPOCH_STARTED(once=4), lambda _: begun.append(copy.deepcopy(whole.network.state_dict()))
    )
    whole.run()
    for found, expected in ((begun[0], averaged[0]), (whole.network.state_dict(), averaged[1])):
        for name, value in expected.module.state_dict().items():
            torch.testing.assert_close(found[name], value)

    (tmp_path / "checkpoint.pt").unlink()
    for epochs in (2, 6, 7):
        with pytest.raises(Killed):
            make_training(tmp_path, alm_epochs=5, mean_from=2).run(on_epoch=kill_after(epochs))
    resumed = make_training(tmp_path, alm_epochs=5, mean_from=2)
    resumed.run()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[name], value), name


def test_before_its_first_epoch_the_mean_is_the_last_state_and_counters_are_not_averaged() -> None:
    network = nn.BatchNorm1d(1)
    mean = KeepMean(network, from_epoch=3)
    for epoch, value in enumerate([8.0, 4.0, 2.0, 1.0], start=1):
        nn.init.constant_(network.weight, value)
        network.num_batches_tracked.fill_(epoch)
        mean(Engine(lambda *_: None))
        expected = value if epoch < 4 else 1.5  # (2 + 1) / 2
        assert mean.network_state["weight"].item() == expected
        assert mean.network_state["num_batches_tracked"].item() == epoch
    with pytest.raises(ValueError, match="from_epoch must be at least 1, got 0 in KeepMean"):
        KeepMean(network, from_epoch=0)


def test_a_baseline_gets_as_many_epochs_and_the_same_restart_as_alm(tmp_path: Path) -> None:
    baseline, alm = make_training(tmp_path / "a", alm=False), make_training(tmp_path / "b", alm=True)
    for name, training in (("a", baseline), ("b", alm)):
        (tmp_path / name).mkdir()
        training.run()
    assert [row["stage"] for row in baseline.history] == [row["stage"] for row in alm.history]
    first_stages = [[repr(row) for row in run.history if row["stage"] == 0] for run in (baseline, alm)]
    assert first_stages[0] == first_stages[1]
    assert not any(key.startswith("alm_") for row in baseline.history for key in row)
    assert all("alm_mu" in row for row in alm.history if row["stage"] == 1)


@pytest.mark.filterwarnings("ignore:.*terminating due to exception")
def test_patience_ends_a_stage_and_survives_a_kill(tmp_path: Path) -> None:
    def stage_lengths(training: Training) -> list[int]:
        return [len(list(rows)) for _, rows in itertools.groupby(row["stage"] for row in training.history)]

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = make_training(tmp_path / "whole", pretrain_epochs=40, alm_epochs=40, patience=2)
    whole.run()
    first, second = stage_lengths(whole)
    assert first < 40
    assert second < 40
    for epochs in (first, first + second):  # after the last epoch there is nothing left to train
        with pytest.raises(Killed):
            make_training(tmp_path / "killed", pretrain_epochs=40, alm_epochs=40, patience=2).run(
                on_epoch=kill_after(epochs)
            )
        resumed = make_training(tmp_path / "killed", pretrain_epochs=40, alm_epochs=40, patience=2)
        if epochs != first:
            resumed.run()
            assert stage_lengths(resumed) == [first, second]
    assert [repr(row) for row in resumed.history] == [repr(row) for row in whole.history]


def test_a_finished_checkpoint_trains_no_further(uninterrupted: Training, tmp_path: Path) -> None:
    first = make_training(tmp_path)
    first.run()
    again = make_training(tmp_path)
    again.run()
    assert len(again.history) == len(uninterrupted.history)
    for name, value in first.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value), name


def test_evaluation_keeps_ids_labels_and_logits_together(uninterrupted: Training) -> None:
    loader = uninterrupted.evaluated["test"]
    scores = uninterrupted.scores()["test"]
    network = uninterrupted.network.eval()
    for sample_id, label, logit in zip(scores.sample_ids, scores.labels, scores.logits, strict=True):
        sample = loader.dataset[int(sample_id.removeprefix("sample-"))]
        assert label == sample["label"]
        assert logit == pytest.approx(network(sample["image"][None]).item(), abs=1e-6)


def test_a_network_of_other_outputs_than_the_loss_takes_is_told(uninterrupted: Training) -> None:
    before = [parameter.clone() for parameter in uninterrupted.network.parameters()]
    uninterrupted.require_outputs(1)
    with pytest.raises(
        ValueError, match=r"network_def must give logits of shape \(1, 3\) for an image, got \(1, 1\) in"
    ):
        uninterrupted.require_outputs(3)
    for parameter, other in zip(uninterrupted.network.parameters(), before, strict=True):
        assert torch.equal(parameter, other)


def test_handlers_out_of_order_or_left_out_are_refused(tmp_path: Path) -> None:
    training = make_training(tmp_path)
    swapped = [*training.handlers[:3], training.handlers[4], training.handlers[3], *training.handlers[5:]]
    for handlers, message in (
        (swapped, "must have the order of Algorithm 1"),
        (training.handlers[:-1], "must hold a Checkpoint, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            Training(training.trainer, handlers, training.evaluator, training.evaluated)


def test_the_penalty_waits_for_the_validation_of_its_epoch(tmp_path: Path) -> None:
    training = make_training(tmp_path, pretrain_epochs=0)
    training.handler(ValidationHandler).validator = make_training(tmp_path).evaluator  # another one is run
    with pytest.raises(ValueError, match="ValidationHandler must come before"):
        training.run()
