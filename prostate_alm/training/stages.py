"""Two stages within one run of MONAI's trainer: F alone, then, from the state that is kept, F and the constraint."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.optim import Optimizer

from prostate_alm.data.splits import member_seed
from prostate_alm.method.batch import Constraint
from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.training.handlers import KeepState
from prostate_alm.training.scores import LABELS, LESIONS, SAMPLE_IDS


class StagedLoss(nn.Module):
    """A loss as MONAI's trainer calls it, with (logits, targets); in the first stage F alone.

    Args:
        loss: F and the constraint, or F alone.
        device: where the logits are.

    Attributes:
        whole: F and the constraint, whatever the stage.
        is_constrained: whether the constraint acts.
    """

    def __init__(self, loss: ConstrainedLoss, *, device: str = "cpu") -> None:
        super().__init__()
        self.whole = loss.to(device)
        self._base = ConstrainedLoss(loss.base)
        self.is_constrained = True

    @property
    def term(self) -> Constraint | None:
        """The constraint where it acts, else None."""
        term: Constraint | None = self.whole.term if self.is_constrained else None
        return term

    def forward(self, logits: torch.Tensor, targets: Mapping[str, Any]) -> torch.Tensor:
        """Return the scalar loss of logits (B, 1), or (B, K) of K classes, and targets (labels (B,), B ids).

        Of maps, logits (B, 1, X, Y, Z), the targets have `lesions` of the same shape.
        """
        labels = targets[LESIONS] if LESIONS in targets else targets[LABELS].flatten()
        if logits.shape[1:] == (1,):
            logits, labels = logits.flatten(), labels.to(logits.dtype)
        loss = self.whole if self.is_constrained else self._base
        value: torch.Tensor = loss(logits, labels, targets[SAMPLE_IDS])
        return value


class Stages:
    """Begin the second stage from the state kept of the first; end each after its epochs, or when patience is used up.

    The first stage trains with F alone; without epochs there is none. Without a constraint the second runs all the
    same, with F alone: the baseline gets the same number of steps and the same restart.

    Args:
        loss: told which stage it is.
        optimizer: as it was made: each stage begins with that state.
        best: keeps a state of each stage; it says when patience is used up.
        network: gets that state at the end of each stage.
        epochs: largest number of the first and of the second stage.
        seed: of the experiment.
        member: number of the member.

    Attributes:
        number: 0 for the first stage, 1 for the second.
    """

    def __init__(
        self,
        *,
        loss: StagedLoss,
        optimizer: Optimizer,
        best: KeepState,
        network: nn.Module,
        epochs: tuple[int, int],
        seed: int,
        member: int,
    ) -> None:
        self._loss, self._optimizer, self._best, self._network = loss, optimizer, best, network
        self._fresh_optimizer = copy.deepcopy(optimizer.state_dict())
        self._epochs, self._seed, self._member = epochs, seed, member
        self._enter(0 if epochs[0] else 1)

    def attach(self, trainer: Engine) -> None:
        """Act after each epoch of `trainer`."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        if not self._best.is_exhausted and self._best.epochs < self.epochs_of(self.number):
            return
        self._network.load_state_dict(self._best.network_state)
        last = trainer.state.epoch
        if self.number == 0:
            self._best.forget()
            self._optimizer.load_state_dict(copy.deepcopy(self._fresh_optimizer))
            self._enter(1)
            last += self.epochs_of(1)
        trainer.state.max_epochs = last

    def epochs_of(self, number: int) -> int:
        """Return the largest number of epochs of a stage."""
        return self._epochs[number]

    def name_of(self, number: int) -> str:
        """Return the name of a stage."""
        return "pretrain" if number == 0 else "alm" if self._loss.whole.term is not None else "continue"

    def seed_of_epoch(self) -> int:
        """Return what is random in the epoch that begins: the seed given to all randomizers."""
        return member_seed(self._seed, self._member, 1 + self.number, self._best.epochs + 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of the stage."""
        return {"number": self.number}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._enter(state["number"])

    def _enter(self, number: int) -> None:
        self.number = number
        self._loss.is_constrained = number == 1
