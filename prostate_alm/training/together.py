"""Members trained at once: each follows its own course, and one network of all of them computes their steps.

A course is a generator that reads like the training of one member alone. It hands out what the group computes for it
(images -> logits, gradient of the logits -> optimizer step) and keeps all else to itself: batches, loss, multipliers,
best state, history. So the members may differ in all of these, and in the number and the size of their batches.
"""

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer

from prostate_alm.data.tensors import TensorLoader
from prostate_alm.training.distributed import is_distributed
from prostate_alm.training.grouped_network import GroupedNetwork, stack_parameters
from prostate_alm.training.handlers import EpochLosses
from prostate_alm.training.networks import CascadeNet
from prostate_alm.training.scores import LABELS, SAMPLE_IDS, RankingMetrics
from prostate_alm.training.trainer import Batch, StageState, TargetLoss, TwoStageTraining

CHECKPOINT_EPOCHS = 10
"""A checkpoint of each of many members takes longer than an epoch of all: an interruption costs this many epochs."""


@dataclass(frozen=True)
class TrainingImages:
    """Asks for the logits (B, 1), on the CPU, of images (B, C, ...); the gradient of the logits follows."""

    images: Tensor


@dataclass(frozen=True)
class EvaluationImages:
    """Asks for the logits (B, 1), on the CPU, of images (B, C, ...)."""

    images: Tensor


@dataclass(frozen=True)
class LogitGradient:
    """Asks for the optimizer's step that follows from the gradient (B, 1) of the loss at the logits.

    The answer is whether the step was taken: not where the gradient is not finite.
    """

    gradient: Tensor
    optimizer: Optimizer
    norm_max: float


Request = TrainingImages | EvaluationImages | LogitGradient

Course = Generator[Request, Any, None]


@dataclass(frozen=True)
class Ended:
    """A member that is through: its number in the group, and what went wrong, if anything."""

    number: int
    error: Exception | None


def train_together(
    trainings: Sequence[TwoStageTraining], *, checkpoints: Sequence[Path] | None = None
) -> Iterator[Ended]:
    """Train all members at once, each as `TwoStageTraining.run` would alone, and yield each when it is through.

    Its network then is in its best state of the second stage, and its history is complete. All numbers are those of the
    training alone but for rounding, which a long training in float32 amplifies, as it does a change of the first
    weights in the last digit. A member that is through, or failed, takes no part in the steps that follow.

    Args:
        trainings: see `check_alike`.
        checkpoints: for each member a file, as `TwoStageTraining.run` writes it, but every ten epochs only; training
            goes on from it when it exists. None for no checkpoints.

    Raises:
        ValueError: the trainings cannot be grouped.
    """
    check_alike(trainings)
    files = checkpoints if checkpoints is not None else [None] * len(trainings)
    courses = [follow(training, checkpoint) for training, checkpoint in zip(trainings, files, strict=True)]
    return run_courses(trainings, courses)


def check_alike(trainings: Sequence[TwoStageTraining]) -> None:
    """Check that trainings can be grouped.

    Raises:
        ValueError: there is none, this is one of several processes, or they differ in architecture, device or
            precision; a network is no `CascadeNet` or its training images no `TensorLoader`: others may draw random
            numbers from a source that all members share.
    """
    if not trainings:
        raise ValueError("trainings must hold at least one member, got none in train_together.")
    if is_distributed():
        raise ValueError("members are trained together by one process, got a process group. Train them one by one.")
    for name, of in _ALIKE.items():
        values = [of(training) for training in trainings]
        other = next((value for value in values if value != values[0]), None)
        if other is not None:
            lines = itertools.zip_longest(values[0].splitlines(), other.splitlines(), fillvalue="")
            first, second = next((a.strip(), b.strip()) for a, b in lines if a != b)
            raise ValueError(
                f"{name} must be the same for all members of a group, got {first} and {second} in train_together. "
                "Train those that differ apart."
            )
    for training in trainings:
        for part, kind in ((training.network, CascadeNet), (training.loaders.train, TensorLoader)):
            if not isinstance(part, kind):
                raise ValueError(
                    f"members trained together must have a {kind.__name__}, got {type(part).__name__}. "
                    "Train them one by one."
                )


_ALIKE: dict[str, Callable[[TwoStageTraining], str]] = {
    "device": lambda training: str(training.device),
    "precision": lambda training: str(training.dtype),
    "architecture": lambda training: str(training.network),
}


def run_courses(trainings: Sequence[TwoStageTraining], courses: Sequence[Course]) -> Iterator[Ended]:
    """Serve the courses of a group until all are through; a course that raises an error ends, the others go on.

    Closing the iteration ends all courses.

    Args:
        trainings: those of the courses; see `check_alike`.
        courses: see `follow`.
    """
    group = _Group(trainings[0])
    members = [
        _Member(number, training, course)
        for number, (training, course) in enumerate(zip(trainings, courses, strict=True))
    ]
    try:
        for member in members:
            member.answer(None)
        # Who has fewer batches waits, so that all begin the next epoch, and its evaluation, in step.
        for serve, kind in itertools.cycle(((group.train, TrainingImages), (group.evaluate, EvaluationImages))):
            asking = members
            while asking:
                yield from (Ended(member.number, member.error) for member in members if member.request is None)
                members = [member for member in members if member.request is not None]
                asking = [member for member in members if isinstance(member.request, kind)]
                if asking:
                    serve(asking)
            if not members:
                return
    finally:
        for member in members:
            member.course.close()


class _Member:
    """A course with what it asks for at present; nothing once it is through."""

    def __init__(self, number: int, training: TwoStageTraining, course: Course) -> None:
        self.number = number
        self.network = training.network
        self.course = course
        self.request: Request | None = None
        self.error: Exception | None = None

    def answer(self, answer: Tensor | bool | None) -> None:
        """Let the course go on to its next request."""
        try:
            self.request = self.course.send(answer)
        except StopIteration:
            self.request = None
        except Exception as error:
            self.request, self.error = None, error


class _Group:
    """Computes steps of several members in one call of one network.

    The device is waited for twice in a training step, for the logits and for the norms of the gradients, and once in an
    evaluation, whatever the number of members. Losses are computed on the CPU: they are many small operations on a few
    numbers, and ask for values (the multipliers are kept by sample id) for which a GPU would be waited for each time.

    Args:
        training: one of the group.
    """

    def __init__(self, training: TwoStageTraining) -> None:
        self._network = GroupedNetwork(training.network)  # type: ignore[arg-type]  # see check_alike
        self._infer = training.inferer
        self._device = training.device

    def evaluate(self, members: Sequence[_Member]) -> None:
        """Answer the members' `EvaluationImages`."""
        with torch.no_grad():
            logits = self._logits(members, stack_parameters([member.network for member in members]))
        _hand_out(logits.cpu(), members)  # waits for the device

    def train(self, members: Sequence[_Member]) -> None:
        """Answer the members' `TrainingImages` and the `LogitGradient` that follows."""
        parameters = stack_parameters([member.network for member in members])
        logits = self._logits(members, parameters)  # (M, B)
        _hand_out(logits.detach().cpu(), members)  # waits for the device
        asking = [(row, member, member.request) for row, member in enumerate(members)]
        steps = [(row, member, request) for row, member, request in asking if isinstance(request, LogitGradient)]
        gradient = torch.zeros(logits.shape, dtype=logits.dtype)  # stays zero for a member that failed
        norm_max = torch.ones(len(members), dtype=logits.dtype)
        for row, _, request in steps:
            gradient[row, : len(request.gradient)] = request.gradient.flatten()
            norm_max[row] = request.norm_max
        gradients = torch.autograd.grad(logits, list(parameters.values()), gradient.to(self._device))  # each (M, ...)
        clipped, is_finite = _clip(gradients, norm_max.to(self._device))
        for row, member, request in steps:
            if is_finite[row]:
                for parameter, part in zip(member.network.parameters(), clipped, strict=True):
                    parameter.grad = part[row]
                request.optimizer.step()
            member.answer(is_finite[row])

    def _logits(self, members: Sequence[_Member], parameters: dict[str, Tensor]) -> Tensor:
        # Images are independent of each other, so zeros fill up the smaller batches and their logits are left out.
        images = pad_sequence([_images(member) for member in members], batch_first=True)  # (M, B, C, ...)
        return self._infer(images, self._network, parameters)


def _clip(gradients: Sequence[Tensor], norm_max: Tensor) -> tuple[list[Tensor], list[bool]]:
    """Bound the norm of each member's gradients as `nn.utils.clip_grad_norm_` does, and say which norms are finite.

    Args:
        gradients: (M, ...) of each parameter.
        norm_max: (M,).
    """
    norm = torch.stack([torch.linalg.vector_norm(part.flatten(1), dim=1) for part in gradients]).norm(dim=0)  # (M,)
    factor = (norm_max / (norm + 1e-6)).clamp(max=1.0)
    clipped = [part * factor.view(-1, *[1] * (part.ndim - 1)).to(part.dtype) for part in gradients]
    return clipped, torch.isfinite(norm).tolist()  # waits for the device


def _images(member: _Member) -> Tensor:
    request = member.request
    if not isinstance(request, TrainingImages | EvaluationImages):
        raise TypeError(f"a member must ask for logits, got {type(request).__name__} in a group.")
    return request.images


def _hand_out(logits: Tensor, members: Sequence[_Member]) -> None:
    for member, row in zip(members, logits, strict=True):
        member.answer(row[: len(_images(member)), None].clone())  # (B, 1)


def follow(
    training: TwoStageTraining, checkpoint: Path | None = None, *, on_epoch: Callable[[], object] = lambda: None
) -> Course:
    """Return the course of a member: `TwoStageTraining.run`, with the network's work left to a group.

    Args:
        training: of the member.
        checkpoint: file for the state every ten epochs; training goes on from it when it exists.
        on_epoch: called after each epoch.
    """
    training.loss.cpu()
    for state in training.remaining(checkpoint):
        losses = EpochLosses(state.loss)
        hook = losses.follow()
        while not state.is_through:
            yield from _train_epoch(training, state, losses)
            metrics = yield from _validate(training)
            training.end_epoch(state, means=losses.means(), metrics=metrics)
            if checkpoint and (state.is_through or state.epoch % CHECKPOINT_EPOCHS == 0):
                training.save(state, checkpoint)
            on_epoch()
        hook.remove()
    training.loss.to(training.device)


def _train_epoch(training: TwoStageTraining, state: StageState, losses: EpochLosses) -> Course:
    for randomize in training.randomizers:  # nothing else may be random: other members draw in between
        randomize(training.seed(state.stage, state.epoch + 1))
    losses.forget()
    loss_of, term = TargetLoss(state.loss), state.loss.term
    for batch in training.loaders.train:
        logits: Tensor = yield TrainingImages(batch["image"].to(training.device))
        loss = loss_of(logits.requires_grad_(), _targets(batch))
        (gradient,) = torch.autograd.grad(loss, logits)
        losses.add(loss)
        is_taken: bool = yield LogitGradient(gradient, state.optimizer, training.schedule.gradient_norm_max)
        if term is not None:
            term.update_multipliers() if is_taken else term.discard()


def _validate(training: TwoStageTraining) -> Generator[Request, Any, dict[str, float]]:
    metrics = RankingMetrics()
    for batch in training.loaders.validation:
        logits: Tensor = yield EvaluationImages(batch["image"].to(training.device))
        metrics.update((logits, _targets(batch)))
    return metrics.compute()


def _targets(batch: Batch) -> dict[str, Any]:
    return {LABELS: batch[LABELS].cpu(), SAMPLE_IDS: list(batch[SAMPLE_IDS])}
