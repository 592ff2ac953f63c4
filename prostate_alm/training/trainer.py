"""The training of one member in two stages: the base loss alone, then with the constraint from the best state."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from prostate_alm.data.splits import member_seed
from prostate_alm.data.tensors import TensorLoader
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.training.distributed import is_distributed, is_leader
from prostate_alm.training.handlers import (
    ClipGradients,
    EpochLosses,
    KeepBest,
    SeedEpochs,
    UpdateMultipliers,
)
from prostate_alm.training.precision import AutocastInferer
from prostate_alm.training.scores import LABELS, SAMPLE_IDS, RankingMetrics

logger = logging.getLogger(__name__)

Batch = Mapping[str, Any]


Loader = DataLoader[Any] | TensorLoader
"""Batches with `image` (B, C, ...), `label` (B,) and `sample_id` (list of B ids)."""


@dataclass(frozen=True)
class Loaders:
    """Where the samples come from.

    `test_extra` holds the positives that a test set of the class ratio leaves out, if any.
    """

    train: Loader
    validation: Loader
    test: Loader
    test_extra: Loader | None = None

    def evaluated(self) -> dict[str, Loader]:
        """Return the loaders whose samples the trained network is evaluated on, by the name of their split."""
        every = {"validation": self.validation, "test": self.test, "test_extra": self.test_extra}
        return {name: loader for name, loader in every.items() if loader is not None}


@dataclass(frozen=True)
class Schedule:
    """How long and how carefully the member is trained.

    `patience` is a number of epochs without a better validation score; `gradient_norm_max` bounds the Euclidean norm of
    the gradient of all parameters together.
    """

    pretrain_epochs: int
    alm_epochs: int
    patience: int
    gradient_norm_max: float
    seed: int
    member: int


@dataclass(frozen=True)
class Stage:
    """A stage of the training: its number, its name, its largest number of epochs and whether the constraint acts."""

    number: int
    name: str
    epochs: int
    constrained: bool


class StageState:
    """What changes during a stage: a checkpoint holds it.

    Args:
        stage: which one.
        network: trained in place.
        loss: what the stage minimises.
        optimizer: of the network's parameters.
        patience: number of epochs without a better validation score after which the stage ends.
    """

    def __init__(
        self, stage: Stage, *, network: nn.Module, loss: ConstrainedLoss, optimizer: Optimizer, patience: int
    ) -> None:
        self.stage = stage
        self.loss = loss
        self.optimizer = optimizer
        self.best = KeepBest(network, patience=patience)
        self.epoch = 0
        self._parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "best": self.best, "loss": loss}

    @property
    def is_exhausted(self) -> bool:
        """Whether the patience is used up."""
        return self.best.is_exhausted(self.epoch)

    @property
    def is_through(self) -> bool:
        """Whether no epoch is left to train."""
        return self.is_exhausted or self.epoch >= self.stage.epochs

    def observe(self, metrics: Mapping[str, float]) -> None:
        """Take the validation metrics of an epoch that has ended: they move μ (Algorithm 1) and the best state."""
        self.epoch += 1
        if self.loss.term is not None:
            self.loss.term.observe_validation(float(metrics["val_auc"]))
        self.best.observe(float(metrics["val_score"]), epoch=self.epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all parts, and how far the stage is."""
        states = {name: part.state_dict() for name, part in self._parts.items()}
        return states | {"stage": self.stage.number, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
        self.epoch = state["epoch"]


class TargetLoss(nn.Module):
    """Hand the two parts of MONAI's `targets` to a loss called as (logits, labels, sample ids)."""

    def __init__(self, loss: ConstrainedLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return the scalar loss of logits (B, 1) and targets (labels (B,), B ids)."""
        labels = targets[LABELS].to(logits.dtype).flatten()
        value: torch.Tensor = self.loss(logits.flatten(), labels, targets[SAMPLE_IDS])
        return value


def prepare_batch(
    batch: Batch, device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the images and the targets (labels and sample ids) of a batch on the device."""
    targets = {LABELS: batch[LABELS].to(device, non_blocking=non_blocking), SAMPLE_IDS: list(batch[SAMPLE_IDS])}
    image = batch["image"].as_subclass(torch.Tensor)  # MetaTensor makes every operation of a network slower
    return image.to(device, non_blocking=non_blocking), targets


class TwoStageTraining:
    """Train a network with F alone, then, from its best state, with F and the constraint (section 4 of the paper).

    Without a constraint the second stage runs all the same, with F alone: the baseline gets the same number of steps
    and the same restart.

    After each epoch the whole state goes to a checkpoint; a run that was killed at any time and is resumed gives the
    numbers of an uninterrupted one.

    In a process group each rank trains on its part of every batch and validates on all samples, so that all ranks see
    the same AUC; rank 0 writes.

    Args:
        network: images (B, C, ...) -> logits (B, 1); trained in place.
        loss: F and the constraint, or F alone.
        optimizer: parameters -> optimizer; called anew for each stage.
        loaders: samples.
        schedule: epochs, patience, seeds.
        device: where to compute.
        dtype: in which precision the network runs; its weights and the loss are float32.
        randomizers: called with a new seed at the start of each epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: ConstrainedLoss,
        *,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        loaders: Loaders,
        schedule: Schedule,
        device: str,
        dtype: torch.dtype = torch.float32,
        randomizers: Sequence[Callable[[int], object]] = (),
    ) -> None:
        self.network = network.to(device)
        self.loss = loss.to(device)
        self.loaders = loaders
        self.schedule = schedule
        self.device = torch.device(device)
        self.history: list[dict[str, float]] = []
        self._replica = DistributedDataParallel(self.network) if is_distributed() else self.network
        self.dtype = dtype
        self.inferer = AutocastInferer(self.device, dtype)
        self.randomizers = randomizers
        self._make_optimizer = optimizer

    @property
    def constraint(self) -> AugmentedLagrangian | None:
        """The constraint of the second stage, if any."""
        term: AugmentedLagrangian | None = self.loss.term
        return term

    def stages(self) -> tuple[Stage, ...]:
        """Return the two stages; the second alone where the first has no epoch."""
        constrained = self.constraint is not None
        first = Stage(0, "pretrain", self.schedule.pretrain_epochs, constrained=False)
        second = Stage(1, "alm" if constrained else "continue", self.schedule.alm_epochs, constrained=constrained)
        return (first, second) if first.epochs else (second,)

    def run(self, checkpoint: Path, *, on_epoch: Callable[[list[dict[str, float]]], None] | None = None) -> KeepBest:
        """Train both stages and leave the network in its best state of the second.

        Args:
            checkpoint: file for the state after each epoch; training goes on from it when it exists.
            on_epoch: called with the history after each epoch, once it is safe on disk.

        Returns:
            The record of the best state.
        """
        for state in self.remaining(checkpoint):
            self._run_stage(state, checkpoint, on_epoch=on_epoch)
        return state.best

    def remaining(self, checkpoint: Path | None) -> Iterator[StageState]:
        """Begin each stage that is not behind the checkpoint, where there is one; then take the stage's best state.

        The caller trains the stage before it asks for the next one.
        """
        saved: dict[str, Any] | None = None
        if checkpoint is not None and checkpoint.is_file():
            saved = torch.load(checkpoint, map_location=self.device, weights_only=True)
            self.history = saved["history"]
        for stage in self.stages():
            if saved and saved["stage"] > stage.number:
                continue
            loss = self.loss if stage.constrained else ConstrainedLoss(self.loss.base)
            optimizer = self._make_optimizer(self.network.parameters())
            patience = self.schedule.patience
            state = StageState(stage, network=self.network, loss=loss, optimizer=optimizer, patience=patience)
            if saved:
                state.load_state_dict(saved)
                saved = None
            yield state
            self.network.load_state_dict(state.best.network_state)

    def _run_stage(
        self, state: StageState, checkpoint: Path, *, on_epoch: Callable[[list[dict[str, float]]], None] | None
    ) -> None:
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=state.stage.epochs,
            train_data_loader=self.loaders.train,
            network=self._replica,
            optimizer=state.optimizer,
            loss_function=TargetLoss(state.loss),
            prepare_batch=prepare_batch,
            inferer=self.inferer,
            decollate=False,
            optim_set_to_none=True,
        )
        evaluator, _ = self._evaluator(self.loaders.validation)
        trainer.state.epoch = state.epoch
        trainer.state.iteration = state.epoch * len(self.loaders.train)
        self._attach_method(trainer, state)
        ValidationHandler(interval=1, validator=evaluator).attach(trainer)
        losses = EpochLosses(state.loss)
        losses.attach(trainer)

        @trainer.on(Events.EPOCH_COMPLETED)
        def end_epoch(engine: Engine) -> None:
            self.end_epoch(state, means=losses.means(), metrics=evaluator.state.metrics)
            if is_leader():
                self.save(state, checkpoint)
            if on_epoch:
                on_epoch(self.history)
            if state.is_exhausted:
                engine.terminate()

        if not state.is_through:
            _show_progress(trainer, evaluator, name=state.stage.name)
            trainer.run()

    def seed(self, stage: Stage, epoch: int) -> int:
        """Return what is random in an epoch, from 1, of a stage: the seed given to all randomizers."""
        return member_seed(self.schedule.seed, self.schedule.member, 1 + stage.number, epoch)

    def end_epoch(self, state: StageState, *, means: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Let the stage observe the validation, and add the figures of the epoch to the history.

        Args:
            state: the stage; the epoch is behind it afterwards.
            means: of the losses, see `EpochLosses`.
            metrics: of the validation, see `RankingMetrics`.
        """
        state.observe(metrics)
        row = {"step": float(len(self.history) + 1), "stage": float(state.stage.number), **means}
        row |= {key: float(value) for key, value in metrics.items() if key.startswith("val_")}
        if state.loss.term is not None:
            row |= _diagnostics(state.loss.term)
        self.history.append(row)  # `step` counts the epochs of both stages

    def save(self, state: StageState, checkpoint: Path) -> None:
        """Write a checkpoint so that a kill at any time leaves either the old one or the new one."""
        temporary = checkpoint.with_name(f".{checkpoint.name}.tmp")
        torch.save(state.state_dict() | {"history": self.history}, temporary)
        temporary.replace(checkpoint)

    def _attach_method(self, trainer: Engine, state: StageState) -> None:
        """Attach the handlers in the order of Algorithm 1: θ with the old λ, then λ; μ follows after the validation."""
        SeedEpochs(lambda epoch: self.seed(state.stage, epoch), self.randomizers).attach(trainer)
        clip = ClipGradients(self.network, self.schedule.gradient_norm_max)
        clip.attach(trainer)
        if state.loss.term is not None:
            UpdateMultipliers(state.loss.term, clip).attach(trainer)

    def _evaluator(self, loader: Loader) -> tuple[SupervisedEvaluator, RankingMetrics]:
        metrics = RankingMetrics()
        evaluator = SupervisedEvaluator(
            device=self.device,
            val_data_loader=loader,
            network=self.network,
            prepare_batch=prepare_batch,
            inferer=self.inferer,
            decollate=False,
        )
        metrics.attach(evaluator, "ranking")
        return evaluator, metrics

    def evaluate(self, loader: Loader) -> RankingMetrics:
        """Run the network as it is over a loader; the result holds ids, labels and logits."""
        evaluator, metrics = self._evaluator(loader)
        evaluator.run()
        return metrics


def _diagnostics(term: AugmentedLagrangian) -> dict[str, float]:
    report = term.diagnostics()
    term.reset_diagnostics()
    return {
        "alm_mu": report.mu,
        "alm_q_mean": report.q_mean,
        "alm_q_max": report.q_max,
        "alm_violated_share": report.violated_share,
        "alm_gradient_ratio": report.gradient_ratio,
        **{f"alm_lambda_{name}": value for name, value in report.multiplier_quantiles._asdict().items()},
    }


def _show_progress(trainer: Engine, evaluator: Engine, *, name: str) -> None:
    """Show a bar per stage on a terminal, a log line per epoch elsewhere."""
    first, last = trainer.state.epoch, trainer.state.max_epochs
    hidden = not (sys.stderr.isatty() and is_leader())
    bar = tqdm(total=last, initial=first, desc=name, unit="epoch", disable=hidden)

    @trainer.on(Events.EPOCH_COMPLETED)
    def advance(engine: Engine) -> None:
        metrics = evaluator.state.metrics
        bar.set_postfix_str(f"validation AUC {metrics['val_auc']:.3f}")
        bar.update()
        if bar.disable:
            epoch = f"{name} epoch {engine.state.epoch}/{last}"
            logger.info("%s: validation AUC %.3f, loss %.3f", epoch, metrics["val_auc"], metrics["val_loss"])

    trainer.add_event_handler(Events.COMPLETED, lambda _: bar.close())
