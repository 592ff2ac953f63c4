"""Thin ignite handlers: they only say when something happens, in the order of the paper's Algorithm 1."""

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.engines.utils import IterationEvents
from monai.utils import set_determinism
from torch import nn
from torch.utils.data import DataLoader

from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.tensors import TensorLoader
from prostate_alm.method.batch import Constraint
from prostate_alm.training.distributed import is_leader
from prostate_alm.whole_files import replacing


class Seeded(Protocol):
    """What says the seed of the epoch that begins (`stages.Stages`)."""

    def seed_of_epoch(self) -> int:
        """Return the seed."""


class Constrained(Protocol):
    """A loss with a constraint that acts, or None where none does."""

    @property
    def term(self) -> Constraint | None:
        """The constraint where it acts, else None."""


class SeedEpochs:
    """Seed everything random at the start of each epoch.

    No state of a random generator needs to be saved: a resumed run draws the numbers of an uninterrupted one.

    Args:
        stages: says the seed of the epoch.
        loader: of the training: its batches and its transforms are random.
    """

    def __init__(self, stages: Seeded, loader: TensorLoader | DataLoader[Any]) -> None:
        self._stages = stages
        self._loader = loader

    def attach(self, trainer: Engine) -> None:
        """Act at the start of each epoch of `trainer`."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        seed = self._stages.seed_of_epoch()
        set_determinism(seed=seed)
        if isinstance(self._loader, TensorLoader):
            self._loader.set_seed(seed)
        else:
            set_rnd(self._loader.dataset, seed)  # workers seed theirs from torch, which is seeded above
            if isinstance(self._loader.batch_sampler, StratifiedBatchSampler):
                self._loader.batch_sampler.set_epoch(seed)


class DeferWeights:
    """Let the base loss weigh its classes in the last epochs only, as LDAM-DRW does; a loss without weights stays.

    Args:
        loss: its base has the weights (`class_losses.ClassLoss.weighs`).
        from_epoch: first epoch with weights, from 1.
    """

    def __init__(self, loss: nn.Module, from_epoch: int) -> None:
        self._loss = loss
        self._from_epoch = from_epoch

    def attach(self, trainer: Engine) -> None:
        """Act at the start of each epoch of `trainer`."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        self._loss.weighs = trainer.state.epoch >= self._from_epoch


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
        loss: its constraint holds λ and μ, where one acts.
        clip: says whether the step was skipped.
    """

    def __init__(self, loss: Constrained, clip: ClipGradients) -> None:
        self._loss = loss
        self._clip = clip

    def attach(self, trainer: Engine) -> None:
        """Act after the optimizer step of `trainer`."""
        trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        if self._loss.term is None:
            return
        if self._clip.skipped:
            self._loss.term.discard()
        else:
            self._loss.term.update_multipliers()


class ListOutput:
    """Give the output of a step as a list, as handlers of MONAI read it: `from_engine(['loss'], first=True)`.

    MONAI's own way, a dictionary for each sample (`decollate`), takes as long as a step of a small network.
    """

    def attach(self, trainer: Engine) -> None:
        """Act after each step of `trainer`."""
        trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        trainer.state.output = [trainer.state.output]


class SchedulePenalty:
    """μ ← ρ μ when the validation AUC fell (Algorithm 1); that of each critical class by its own AUC.

    Args:
        loss: its constraint holds μ, where one acts.
        evaluator: of the validation.
    """

    def __init__(self, loss: Constrained, evaluator: Engine) -> None:
        self._loss = loss
        self._evaluator = evaluator

    def attach(self, trainer: Engine) -> None:
        """Act after each epoch of `trainer`."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event.

        Raises:
            ValueError: the epoch has not been validated: μ would follow the AUC of another one.
        """
        if self._loss.term is not None:
            metrics = validated(self._evaluator, trainer)
            for suffix, term in self._loss.term.terms.items():
                term.observe_validation(metrics[f"val_auc{suffix}"])


def validated(evaluator: Engine, trainer: Engine) -> dict[str, float]:
    """Return the metrics of the validation that followed the present epoch of training.

    Raises:
        ValueError: there was none.
    """
    if evaluator.state.epoch != trainer.state.epoch:
        raise ValueError(
            f"ValidationHandler must come before the handlers that read the validation, got its epoch "
            f"{evaluator.state.epoch} in epoch {trainer.state.epoch}. Put it before them in train#handlers, interval 1."
        )
    return {name: float(value) for name, value in evaluator.state.metrics.items()}


class KeepState:
    """Keep the state of the network that is tested; which one that is, `KeepBest` and `KeepMean` say.

    Attributes:
        epochs: number of epochs of the stage so far.
        network_state: what is kept.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.forget()

    def forget(self) -> None:
        """Begin a stage."""
        self.epochs = 0
        self.network_state: dict[str, Any] = {}

    def attach(self, trainer: Engine) -> None:
        """Act after each epoch of `trainer`."""
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, trainer: Engine) -> None:
        """Count the epoch; a subclass then says what is kept."""
        self.epochs += 1

    @property
    def is_exhausted(self) -> bool:
        """Whether the stage ends before its last epoch."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return the number of epochs and what is kept."""
        return {"epochs": self.epochs, "network": self.network_state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.epochs, self.network_state = state["epochs"], state["network"]


class KeepBest(KeepState):
    """Keep a copy of the network where the validation score was highest, and say when it has stayed below for too long.

    Args:
        network: whose state is kept.
        evaluator: of the validation; `val_score` of its metrics, larger is better.
        patience: number of epochs without a better score after which a stage ends, at least 1.
    """

    def __init__(self, network: nn.Module, evaluator: Engine, *, patience: int) -> None:
        self._evaluator = evaluator
        self._patience = patience
        super().__init__(network)

    def forget(self) -> None:
        """Begin a stage."""
        super().forget()
        self.score, self.epoch = -math.inf, 0

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        score = validated(self._evaluator, trainer)["val_score"]
        super().__call__(trainer)
        if score > self.score:
            self.score, self.epoch = score, self.epochs
            self.network_state = copy.deepcopy(self._network.state_dict())

    @property
    def is_exhausted(self) -> bool:
        """Whether the patience is used up."""
        return self.epochs - self.epoch >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its epoch, the network's state then, and the number of epochs."""
        return {"score": self.score, "epoch": self.epoch, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict(state)
        self.score, self.epoch = state["score"], state["epoch"]


class KeepMean(KeepState):
    """Keep the mean of the network's weights after each epoch from one on: no validation chooses what is tested.

    Where few positives are validated, the state with the greatest AUC is one that was lucky with them. Before that
    epoch, and in a stage that ends before it, the last state is kept.

    Args:
        network: whose state is kept.
        from_epoch: the first epoch of a stage that counts, at least 1.

    Raises:
        ValueError: the epoch is below 1.

    Reference:
        Izmailov et al., 2018, arXiv:1803.05407: stochastic weight averaging; here at a constant rate.
    """

    def __init__(self, network: nn.Module, *, from_epoch: int) -> None:
        if from_epoch < 1:
            raise ValueError(f"from_epoch must be at least 1, got {from_epoch} in KeepMean. Epochs count from 1.")
        self._from_epoch = from_epoch
        super().__init__(network)

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        super().__call__(trainer)
        count, own = self.epochs - self._from_epoch + 1, copy.deepcopy(self._network.state_dict())
        for name, mean in self.network_state.items():
            if count > 1 and mean.is_floating_point():
                own[name] = mean.lerp(own[name], 1 / count)
        self.network_state = own


class Checkpoint:
    """Write the state of all that changes after each epoch, and begin from it where there is one.

    A kill at any time leaves the old state or the new one; the run that goes on from it gives the numbers of an
    uninterrupted one. Only the leader of several processes writes.

    Args:
        file: called when the training starts; makes the folder of the run and returns the file.
        parts: what changes, by name; `history` says how many epochs there were.
    """

    def __init__(self, file: Callable[[], Path], parts: Mapping[str, Any]) -> None:
        self._file = file
        self._parts = parts

    def attach(self, trainer: Engine) -> None:
        """Act at the start and after each epoch of `trainer`."""
        trainer.add_event_handler(Events.STARTED, self.load)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def load(self, trainer: Engine) -> None:
        """Go on from the file, if it exists; a trainer that has trained already goes on from where it is."""
        self._path = self._file()
        if not self._path.is_file() or trainer.state.epoch:
            return
        saved = torch.load(self._path, map_location=trainer.state.device, weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(saved[name])
        trainer.state.epoch, trainer.state.max_epochs = saved["epoch"], saved["max_epochs"]
        trainer.state.iteration = saved["epoch"] * trainer.state.epoch_length

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        if not is_leader():
            return
        states = {name: part.state_dict() for name, part in self._parts.items()}
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        torch.save(states | {"epoch": trainer.state.epoch, "max_epochs": trainer.state.max_epochs}, temporary)
        temporary.replace(self._path)


class KeepMultipliers:
    """Keep λ and μ at their site while a federated training goes on from round to round, a restart included.

    In the place of `Checkpoint`: the network comes from the server at the start of each round, so none is loaded here.

    Args:
        file: called when the training starts; makes the folder of the run and returns the file.
        loss: of the training; it holds the multipliers by sample id.
    """

    def __init__(self, file: Callable[[], Path], loss: nn.Module) -> None:
        self._file = file
        self._loss = loss

    def attach(self, trainer: Engine) -> None:
        """Act at the start of the first round and after each epoch of `trainer`."""
        trainer.add_event_handler(Events.STARTED, self.load)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self)

    def load(self, trainer: Engine) -> None:
        """Take over what was kept before a restart."""
        self._path = self._file()
        if self._path.is_file() and not trainer.state.epoch:
            self._loss.load_state_dict(torch.load(self._path, map_location=trainer.state.device, weights_only=True))

    def __call__(self, trainer: Engine) -> None:
        """Act at the event."""
        with replacing(self._path) as temporary:
            torch.save(self._loss.state_dict(), temporary)
