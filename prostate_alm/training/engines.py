"""The engines that a bundle describes, as one training: what `run_member` runs and evaluates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from torch import nn
from torch.utils.data import DataLoader

from prostate_alm.data.tensors import TensorLoader
from prostate_alm.training.handlers import Checkpoint, ClipGradients, KeepState, SchedulePenalty, UpdateMultipliers
from prostate_alm.training.history import History
from prostate_alm.training.scores import LABELS, LESIONS, SAMPLE_IDS, RankingMetrics
from prostate_alm.training.stages import Stages

BatchData = Mapping[str, Any]

Loader = DataLoader[Any] | TensorLoader
"""Batches with `image` (B, C, ...), `label` (B,) and `sample_id` (list of B ids)."""

ORDER = (ClipGradients, UpdateMultipliers, ValidationHandler, SchedulePenalty, KeepState, History, Stages, Checkpoint)
"""Of Algorithm 1: θ with the old λ, then λ; the validation moves μ, a state is kept, and all is written down."""

H = TypeVar("H")


def prepare_batch(
    batch: BatchData, device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the images and the targets (labels and sample ids) of a batch on the device."""
    targets = {LABELS: batch[LABELS].to(device, non_blocking=non_blocking), SAMPLE_IDS: list(batch[SAMPLE_IDS])}
    image = batch["image"].as_subclass(torch.Tensor)  # MetaTensor makes every operation of a network slower
    return image.to(device, non_blocking=non_blocking), targets


def prepare_stack(
    batch: BatchData, device: torch.device | str | None = None, non_blocking: bool = False, **_: Any
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the images and the targets of a batch of stacks, whose last channel are `lesions` (B, 1, X, Y, Z)."""
    stack, targets = prepare_batch(batch, device, non_blocking)
    return stack[:, :-1], targets | {LESIONS: stack[:, -1:].long()}


@dataclass(frozen=True)
class Training:
    """A trainer, its handlers, its evaluator, and the samples that the trained network is evaluated on.

    Args:
        trainer: MONAI's.
        handlers: those of the trainer, in the order of Algorithm 1; others may stand between them.
        evaluator: MONAI's, of the validation.
        evaluated: loaders by the name of their split; None for a split that the member does not have.
        metrics: makes what takes the scores of an evaluation.

    Raises:
        ValueError: a handler is missing or in another place.
    """

    trainer: SupervisedTrainer
    handlers: Sequence[Any]
    evaluator: SupervisedEvaluator
    evaluated: Mapping[str, Loader | None]
    metrics: Callable[[], RankingMetrics] = RankingMetrics

    def __post_init__(self) -> None:
        for kind in ORDER:
            self.handler(kind)
        found = [kind for handler in self.handlers for kind in ORDER if isinstance(handler, kind)]
        if found != list(ORDER):
            raise ValueError(
                f"train#handlers must have the order of Algorithm 1, {[kind.__name__ for kind in ORDER]}, got "
                f"{[kind.__name__ for kind in found]} in the bundle's config. Add others before, between or behind."
            )

    def handler(self, kind: type[H]) -> H:
        """Return the handler of a kind."""
        found = next((handler for handler in self.handlers if isinstance(handler, kind)), None)
        if found is None:
            raise ValueError(f"train#handlers must hold a {kind.__name__}, got none in the bundle's config. Add it.")
        return found

    @property
    def network(self) -> nn.Module:
        """The network, in the state that is tested after the training."""
        network: nn.Module = self.evaluator.network
        return network

    def require_outputs(self, outputs: int) -> None:
        """Check that the network gives as many logits, or maps of them, as the loss takes, before a run begins.

        Args:
            outputs: their number.

        Raises:
            ValueError: it gives others.
        """
        image, _ = self.evaluator.prepare_batch(next(iter(self.evaluator.data_loader)), self.evaluator.state.device)
        self.network.eval()
        with torch.no_grad():
            shape = tuple(self.evaluator.inferer(image[:1], self.network).shape)
        if shape[:2] != (1, outputs):
            raise ValueError(
                f"network_def must give logits of shape (1, {outputs}) for an image, got {shape} in the bundle's "
                "config. Change its outputs."
            )

    def used(self) -> dict[str, Any]:
        """Return which network and optimizer are trained, whatever the settings say: overlays may name others."""
        optimizer = self.trainer.optimizer
        return {
            "network": type(self.network).__name__,
            "network_parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "optimizer": type(optimizer).__name__,
            "optimizer_lr": optimizer.param_groups[0]["lr"],
        }

    @property
    def history(self) -> list[dict[str, float]]:
        """Figures of each epoch."""
        return self.handler(History).rows

    def run(self, *, on_epoch: Callable[[list[dict[str, float]]], None] | None = None) -> None:
        """Train, from the checkpoint where there is one.

        Args:
            on_epoch: called with the history after each epoch, once it is safe on disk.
        """
        if on_epoch:
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: on_epoch(self.history))
        self.trainer.run()
        self.network.load_state_dict(self.handler(KeepState).network_state)

    def evaluate(self, loader: Loader) -> RankingMetrics:
        """Run the network as it is over a loader; the result holds ids, labels and logits."""
        evaluator = SupervisedEvaluator(
            device=self.evaluator.state.device,
            val_data_loader=loader,
            network=self.network,
            prepare_batch=self.evaluator.prepare_batch,
            inferer=self.evaluator.inferer,
            decollate=False,
        )
        metrics = self.metrics()
        metrics.attach(evaluator, "ranking")
        evaluator.run()
        return metrics

    def scores(self) -> dict[str, RankingMetrics]:
        """Evaluate the network as it is on each split."""
        return {name: self.evaluate(loader) for name, loader in self.evaluated.items() if loader is not None}
