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
    ObserveValidation,
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
        self._make_optimizer = optimizer
        self._inferer = AutocastInferer(self.device, dtype)
        self._randomizers = randomizers

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
        saved: dict[str, Any] | None = None
        if checkpoint.is_file():
            saved = torch.load(checkpoint, map_location=self.device, weights_only=True)
            self.history = saved["history"]
        for stage in self.stages():
            if saved and saved["stage"] > stage.number:
                continue
            best = self._run_stage(stage, checkpoint, saved=saved, on_epoch=on_epoch)
            self.network.load_state_dict(best.network_state)
            saved = None
        return best

    def _run_stage(
        self,
        stage: Stage,
        checkpoint: Path,
        *,
        saved: dict[str, Any] | None,
        on_epoch: Callable[[list[dict[str, float]]], None] | None,
    ) -> KeepBest:
        loss = self.loss if stage.constrained else ConstrainedLoss(self.loss.base)
        optimizer = self._make_optimizer(self.network.parameters())
        trainer = SupervisedTrainer(
            device=self.device,
            max_epochs=stage.epochs,
            train_data_loader=self.loaders.train,
            network=self._replica,
            optimizer=optimizer,
            loss_function=TargetLoss(loss),
            prepare_batch=prepare_batch,
            inferer=self._inferer,
            decollate=False,
            optim_set_to_none=True,
        )
        evaluator, _ = self._evaluator(self.loaders.validation)
        best = KeepBest(self.network, "val_score", patience=self.schedule.patience, trainer=trainer)
        parts: dict[str, Any] = {"network": self.network, "optimizer": optimizer, "best": best, "loss": loss}
        if saved:
            for name, part in parts.items():
                part.load_state_dict(saved[name])
            trainer.state.epoch = saved["epoch"]
            trainer.state.iteration = saved["epoch"] * len(self.loaders.train)
        self._attach_method(trainer, evaluator, loss=loss, stage=stage)
        ValidationHandler(interval=1, validator=evaluator).attach(trainer)
        best.attach(evaluator)
        losses = EpochLosses(loss)
        losses.attach(trainer)

        @trainer.on(Events.EPOCH_COMPLETED)
        def remember(engine: Engine) -> None:
            self.history.append(self._row(stage, loss, means=losses.means(), metrics=evaluator.state.metrics))
            if is_leader():
                state = {name: part.state_dict() for name, part in parts.items()}
                _save(state | {"stage": stage.number, "epoch": engine.state.epoch, "history": self.history}, checkpoint)
            if on_epoch:
                on_epoch(self.history)

        if not (saved and (best.is_exhausted or trainer.state.epoch >= stage.epochs)):
            _show_progress(trainer, evaluator, name=stage.name)
            trainer.run()
        return best

    def _attach_method(self, trainer: Engine, evaluator: Engine, *, loss: ConstrainedLoss, stage: Stage) -> None:
        """Attach the handlers in the order of Algorithm 1: θ with the old λ, then λ, then μ after the validation."""
        SeedEpochs(
            lambda epoch: member_seed(self.schedule.seed, self.schedule.member, 1 + stage.number, epoch),
            self._randomizers,
        ).attach(trainer)
        clip = ClipGradients(self.network, self.schedule.gradient_norm_max)
        clip.attach(trainer)
        if loss.term is not None:
            UpdateMultipliers(loss.term, clip).attach(trainer)
            ObserveValidation(loss.term).attach(evaluator)

    def _row(
        self, stage: Stage, loss: ConstrainedLoss, *, means: Mapping[str, float], metrics: Mapping[str, float]
    ) -> dict[str, float]:
        """Return the figures of one epoch; `step` counts the epochs of both stages."""
        row = {"step": float(len(self.history) + 1), "stage": float(stage.number), **means}
        row |= {key: float(value) for key, value in metrics.items() if key.startswith("val_")}
        if loss.term is not None:
            row |= _diagnostics(loss.term)
        return row

    def _evaluator(self, loader: Loader) -> tuple[SupervisedEvaluator, RankingMetrics]:
        metrics = RankingMetrics()
        evaluator = SupervisedEvaluator(
            device=self.device,
            val_data_loader=loader,
            network=self.network,
            prepare_batch=prepare_batch,
            inferer=self._inferer,
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


def _save(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that a kill at any time leaves either the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(dict(state), temporary)
    temporary.replace(path)


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
