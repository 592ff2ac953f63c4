"""Thin ignite handlers: they only say when something happens, in the order of the paper's Algorithm 1."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from monai.utils import set_determinism
from torch import nn
from torch.utils.hooks import RemovableHandle

from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss


class SeedEpochs:
    """Seed everything random at the start of each epoch from a function of the epoch's number.

    No state of a random generator needs to be saved: a resumed run draws the numbers of an uninterrupted one.

    Args:
        seed_of_epoch: epoch, from 1, -> seed.
        randomizers: called with the seed, e.g. to seed transforms and to order a sampler.
    """

    def __init__(
        self, seed_of_epoch: Callable[[int], int], randomizers: Sequence[Callable[[int], object]] = ()
    ) -> None:
        self._seed_of_epoch = seed_of_epoch
        self._randomizers = randomizers

    def attach(self, trainer: Engine) -> None:
        """Act at the start of each epoch of `trainer`."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        seed = self._seed_of_epoch(trainer.state.epoch)
        set_determinism(seed=seed)
        for randomize in self._randomizers:
            randomize(seed)


class ClipGradients:
    """Clip the norm of the gradient; skip the optimizer step when the gradient is not finite.

    Args:
        network: whose parameters are clipped in place.
        norm_max: largest Euclidean norm of all gradients together, above 0.

    Attributes:
        skipped: whether the step of the present iteration was skipped.
        skipped_steps: number of steps skipped so far.
    """

    def __init__(self, network: nn.Module, norm_max: float) -> None:
        self._network = network
        self._norm_max = norm_max
        self.skipped = False
        self.skipped_steps = 0

    def attach(self, trainer: Engine) -> None:
        """Act between the backward pass and the optimizer step of `trainer`."""
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        norm = nn.utils.clip_grad_norm_(self._network.parameters(), self._norm_max, foreach=True)
        self.skipped = not math.isfinite(norm.item())
        if self.skipped:
            self.skipped_steps += 1
            self._network.zero_grad(set_to_none=True)  # an optimizer leaves a parameter without gradient alone


class UpdateMultipliers:
    """λ_j ← λ_j + μ q_j after the optimizer step, with q from before it (Algorithm 1); nothing after a skipped step.

    Args:
        constraint: holds λ and μ.
        clip: says whether the step was skipped.
    """

    def __init__(self, constraint: AugmentedLagrangian, clip: ClipGradients) -> None:
        self._constraint = constraint
        self._clip = clip

    def attach(self, trainer: Engine) -> None:
        """Act after the optimizer step of `trainer`."""
        trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        if self._clip.skipped:
            self._constraint.discard()
        else:
            self._constraint.update_multipliers()


class KeepBest:
    """Keep a copy of the network where a score was highest, and say when it has stayed below for too long.

    Args:
        network: whose state is kept.
        patience: number of epochs without a better score after which training ends, at least 1.
    """

    def __init__(self, network: nn.Module, *, patience: int) -> None:
        self._network = network
        self._patience = patience
        self.score = -math.inf
        self.epoch = 0
        self.network_state: dict[str, Any] = {}

    def observe(self, score: float, *, epoch: int) -> None:
        """Take the score, larger is better, of the network as it is after an epoch."""
        if score > self.score:
            self.score, self.epoch = score, epoch
            self.network_state = copy.deepcopy(self._network.state_dict())

    def is_exhausted(self, epoch: int) -> bool:
        """Say whether the patience is used up after an epoch."""
        return epoch - self.epoch >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its epoch and the network's state then."""
        return {"score": self.score, "epoch": self.epoch, "network": self.network_state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.score, self.epoch, self.network_state = state["score"], state["epoch"], state["network"]


class EpochLosses:
    """Means of the loss and of its two parts over the steps of an epoch, on this rank.

    Args:
        loss: F and the constraint, or F alone.
    """

    def __init__(self, loss: ConstrainedLoss) -> None:
        self._total: list[torch.Tensor] = []
        self._base: list[torch.Tensor] = []
        self._constrained = loss.term is not None
        self._base_module = loss.base

    def attach(self, trainer: Engine) -> None:
        """Follow the steps of `trainer`."""
        hook = self.follow()
        trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: self.forget())
        trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda engine: self.add(engine.state.output["loss"]))
        trainer.add_event_handler(Events.COMPLETED, lambda _: hook.remove())

    def follow(self) -> RemovableHandle:
        """Note each value of F from now on, until the handle is removed."""
        return self._base_module.register_forward_hook(lambda _, __, value: self._base.append(value.detach()))

    def forget(self) -> None:
        """Begin an epoch."""
        self._total.clear()
        self._base.clear()

    def add(self, loss: torch.Tensor) -> None:
        """Note the whole loss of a step, a scalar."""
        self._total.append(loss.detach())

    def means(self) -> dict[str, float]:
        """Return `train_loss` and, with a constraint, its parts `train_base_loss` and `train_constraint`."""
        total = float(torch.stack(self._total).mean())
        if not self._constrained:
            return {"train_loss": total}
        base = float(torch.stack(self._base).mean())
        return {"train_loss": total, "train_base_loss": base, "train_constraint": total - base}
