"""One mini-batch as the constraint sees it: scores, labels and sample ids, checked, on one process or many."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from prostate_alm.method.constraint import all_finite, violation_per_positive

Ids = Sequence[str] | Sequence[int] | Tensor
"""Ids of samples as data loaders give them; numbers, in a tensor or not, count as the text of them."""

_FAULT = -1  # the row count that a rank announces when it refuses its own batch


class NonFiniteLogitsError(ValueError):
    """A logit is NaN or infinite: the network has diverged; λ and μ are left as they were."""


@dataclass(frozen=True)
class Batch:
    """Rows of a mini-batch. ``keys`` are sample ids, or their digests once rows of several ranks are joined.

    ``unnamed`` are negatives beyond the rows, each counted once: voxels, of which there are too many for ids.
    """

    logits: Tensor  # (B,), or (B, K) of K classes; float32 or float64, finite
    labels: list[int]  # 0 or 1, or 0..K-1
    keys: Sequence[str | int]
    base_weight: float = 1.0  # share of the rank's own rows, times the number of ranks
    unnamed: Tensor | None = None  # (N,), of the logits' type

    @property
    def has_pairs(self) -> bool:
        """Whether there is a positive and a negative to compare."""
        has_unnamed = self.unnamed is not None and len(self.unnamed) > 0
        return 1 in self.labels and (has_unnamed or 0 in self.labels)

    def probabilities(self) -> "Batch":
        """Return the batch with the sigmoid of all logits in their place."""
        unnamed = None if self.unnamed is None else torch.sigmoid(self.unnamed)
        return replace(self, logits=torch.sigmoid(self.logits), unnamed=unnamed)

    def zero(self) -> Tensor:
        """Return 0 that depends on all logits, so that a backward pass reaches them."""
        total = self.logits.sum() if self.unnamed is None else self.logits.sum() + self.unnamed.sum()
        return total * 0.0


class Constraint(Protocol):
    """What is added to a base loss: `AugmentedLagrangian`, or `CriticalClasses`, which holds several of them."""

    @property
    def terms(self) -> Mapping[str, Any]:
        """Each `AugmentedLagrangian` by the ending of the names of its figures."""

    def join(self, logits: Tensor, labels: Tensor, sample_ids: Ids) -> Batch:
        """Return the checked batch, of all ranks together."""

    def of_batch(self, batch: Batch) -> Tensor:
        """Return the term for a checked batch."""

    def update_multipliers(self) -> None:
        """Act after an optimizer step that was taken."""

    def discard(self) -> None:
        """Act after one that was skipped."""


def check_batch(logits: Tensor, labels: Tensor, sample_ids: Ids, *, step: int) -> Batch:
    """Return the checked batch with logits of shape (B,) in at least float32.

    Args:
        logits: (B,) or (B, 1), floating.
        labels: (B,) or (B, 1), 0 or 1 in any type.
        sample_ids: B strings, or whole numbers.
        step: number of optimizer steps so far, for the message only.

    Returns:
        The batch; B may be 0.

    Raises:
        NonFiniteLogitsError: names the step and the samples.
        ValueError: a shape or a label is wrong.
        TypeError: no tensor, logits that are not floating, or ids that are neither strings nor whole numbers.

    >>> check_batch(torch.zeros(2, 1), torch.tensor([1, 0]), ["a", "b"], step=0).labels
    [1, 0]
    """
    keys = names_of(sample_ids, where="a batch")
    _check_rows(logits, labels, shapes=((len(keys),), (len(keys), 1)), rows=len(keys))
    flat = plain_float(logits).reshape(-1)
    check_finite(flat, keys, step=step)
    return Batch(flat, class_numbers(labels, classes=2, where="a batch"), keys)


def check_class_batch(logits: Tensor, labels: Tensor, sample_ids: Ids, *, classes: int, step: int) -> Batch:
    """Return the checked batch of several classes with logits of shape (B, K) in at least float32.

    Args:
        logits: (B, K), floating.
        labels: (B,) or (B, 1), 0..K-1 in any type.
        sample_ids: B strings, or whole numbers.
        classes: K.
        step: number of optimizer steps so far, for the message only.

    Returns:
        The batch; B may be 0.

    Raises:
        As `check_batch`.

    >>> check_class_batch(torch.zeros(2, 3), torch.tensor([2, 0]), ["a", "b"], classes=3, step=0).labels
    [2, 0]
    """
    keys = names_of(sample_ids, where="a batch")
    _check_rows(logits, labels, shapes=((len(keys), classes),), rows=len(keys))
    wide = plain_float(logits)
    check_finite(wide, keys, step=step)
    return Batch(wide, class_numbers(labels, classes=classes, where="a batch"), keys)


def unique_ids(sample_ids: Ids) -> frozenset[str]:
    """Return the ids that a constraint knows.

    Raises:
        TypeError: they are neither strings nor whole numbers.
        ValueError: one is there twice.
    """
    times = Counter(names_of(sample_ids, where="AugmentedLagrangian"))
    repeated = [key for key, count in times.items() if count > 1]
    if repeated:
        raise ValueError(f"sample_ids must be unique, got {repeated[:5]} more than once in AugmentedLagrangian")
    return frozenset(times)


def names_of(sample_ids: Ids, *, where: str) -> list[str]:
    """Return ids of samples as strings.

    Raises:
        TypeError: they are neither strings nor whole numbers.

    >>> names_of(torch.tensor([7, 3]), where="a batch"), names_of(["a"], where="a batch")
    (['7', '3'], ['a'])
    """
    values = sample_ids.tolist() if hasattr(sample_ids, "tolist") else sample_ids  # NumPy's arrays as well
    if isinstance(values, str) or not all(isinstance(key, str | Integral) for key in values):
        raise TypeError(f"sample_ids must be a list of str or int, got {_short(values)} in {where}")
    return [str(key) for key in values]


def check_finite(logits: Tensor, sample_ids: Ids, *, step: int) -> None:
    """Raise NonFiniteLogitsError with step and samples unless every logit is finite."""
    if not all_finite(logits):
        wide = logits.detach().reshape(len(logits), -1)
        rows = (~torch.isfinite(wide)).any(1).nonzero().reshape(-1).tolist()
        value = next(one for one in wide[rows[0]].tolist() if not math.isfinite(one))
        names = names_of(sample_ids, where="a batch")
        raise NonFiniteLogitsError(
            f"logits must be finite, got {value} for {_short([names[row] for row in rows])} at step {step} "
            "in a batch. Lower the learning rate or mu, or clip the gradient norm."
        )


def violation_per_sample(batch: Batch, *, margin: float) -> tuple[list[str | int], Tensor, int]:
    """Return the keys of the positives, q of each, and the number of negatives; each sample counted once.

    Rows of one sample share the weight of one row: q_j is the mean over the rows of j, and a negative with two
    rows enters each sum with half the weight of either.

    Args:
        batch: its logits (B,) are the output that the margin separates; it has pairs.
        margin: δ >= 0, in the unit of the output.

    Returns:
        Keys of P distinct positives, q (P,) as a sum over negatives, N distinct negatives.

    Raises:
        ValueError: a sample is positive in one row and negative in another.

    >>> batch = Batch(torch.tensor([0.0, 0.5, 0.5]), [1, 0, 0], ["p", "n", "n"])
    >>> violation_per_sample(batch, margin=1.0)
    (['p'], tensor([1.5000]), 1)
    """
    rows: dict[int, list[int]] = {0: [], 1: []}
    for row, label in enumerate(batch.labels):
        rows[label].append(row)
    positive, negative = batch.logits[rows[1]], batch.logits[rows[0]]
    others = 0 if batch.unnamed is None else len(batch.unnamed)
    negative = negative if batch.unnamed is None else torch.cat([negative, batch.unnamed])
    keys, negative_keys = [batch.keys[row] for row in rows[1]], [batch.keys[row] for row in rows[0]]
    times = Counter(batch.keys)
    if len(times) == len(batch.keys):
        return keys, violation_per_positive(positive, negative, margin=margin), len(negative)
    if both := set(keys) & set(negative_keys):
        raise ValueError(
            f"labels must be the same in all rows of a sample, got 0 and 1 for {sorted(both, key=str)[:5]} in a batch"
        )
    weight = torch.tensor([1.0 / times[key] for key in negative_keys] + [1.0] * others, dtype=torch.float64)
    per_row = violation_per_positive(positive, negative, margin=margin, weight=weight.to(negative.device))
    unique = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    place = torch.tensor([unique[key] for key in keys], device=negative.device)
    share = per_row.new_tensor([1.0 / times[key] for key in keys])
    violation = per_row.new_zeros(len(unique)).index_add(0, place, per_row * share)
    return list(unique), violation, len(set(negative_keys)) + others


def plain(tensor: Tensor) -> Tensor:
    """Return logits without their subclass (MONAI's MetaTensor makes every small operation slow)."""
    require_tensors(logits=tensor)
    return tensor if type(tensor) is Tensor else tensor.as_subclass(Tensor)


def plain_float(tensor: Tensor) -> Tensor:
    """Return it plain, in float64 where it is, else in float32."""
    return plain(tensor) if tensor.dtype == torch.float64 else plain(tensor).float()


def is_distributed() -> bool:
    """Say whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def digest(sample_id: str) -> int:
    """Return a 64-bit number that is the same for an id on every rank, host and run."""
    return int.from_bytes(hashlib.blake2b(sample_id.encode(), digest_size=8).digest(), "big", signed=True)


def require_tensors(**values: object) -> None:
    """Raise TypeError unless each value is a tensor."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            found = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
            raise TypeError(f"{name} must be a torch.Tensor, got {found} in a batch. Use torch.as_tensor({name}).")


def checked_and_joined(check: Callable[[], Batch], *, mu: float, device: torch.device) -> Batch:
    """Return a checked batch, of all ranks together where there are several; an error here is told to the others.

    Args:
        check: returns the rank's own batch, or raises.
        mu: as for `join_ranks`.
        device: where tensors of this rank live.
    """
    try:
        batch = check()
    except (TypeError, ValueError):
        if is_distributed():
            refuse_batch(mu=mu, device=device)
        raise
    return join_ranks(batch, mu=mu) if is_distributed() else batch


def join_ranks(batch: Batch, *, mu: float) -> Batch:
    """Return the rows of all ranks in rank order, the same on every rank, with gradient.

    Every rank then computes the same term. Data-parallel training averages the gradients of the ranks, so the
    gradient of the own rows is multiplied by the number of ranks; a collective in backward is not needed.

    Args:
        batch: the rank's own rows, any number.
        mu: μ of this rank; it must be the same everywhere.

    Returns:
        The joined batch; ids have become their digests.

    Raises:
        RuntimeError: another rank refused its batch, or μ differs.
    """
    sizes = _announce(len(batch.labels), mu, batch.logits.device)
    if _FAULT in sizes:
        raise RuntimeError(
            f"every rank must have a valid batch, got an error on rank {sizes.index(_FAULT)} in join_ranks. "
            "See the message of that rank."
        )
    if sum(sizes) == 0:
        return batch
    rows = _exchange(batch, sizes)  # (all rows, logits + 2)
    start = sum(sizes[: dist.get_rank()])
    values = rows[:, :-2].contiguous().view(torch.float64).to(batch.logits.device, batch.logits.dtype)
    values = values.reshape(len(rows), *batch.logits.shape[1:])
    logits: Tensor = _OwnRows.apply(batch.logits, values, start)  # type: ignore[no-untyped-call]  # torch gives it no types
    weight = _share(len(batch.labels), total=sum(sizes))
    return Batch(logits, rows[:, -2].tolist(), rows[:, -1].tolist(), weight)


def base_weight(rows: int, *, device: torch.device) -> float:
    """Return the weight of this rank's mean over samples that makes the mean over ranks the mean over all samples.

    A collective call when torch.distributed is initialised, else 1.

    Args:
        rows: number of rows of this rank, at least 0.
        device: where tensors of this rank live.
    """
    if not is_distributed():
        return 1.0
    total = torch.tensor([rows], dtype=torch.int64, device=_wire(device))
    dist.all_reduce(total)
    return _share(rows, total=int(total))


def _share(rows: int, *, total: int) -> float:
    return rows * dist.get_world_size() / max(total, 1)


def refuse_batch(*, mu: float, device: torch.device) -> None:
    """Tell the other ranks, which wait in ``join_ranks``, that this one is about to raise an error."""
    _announce(_FAULT, mu, device)


def _announce(size: int, mu: float, device: torch.device) -> list[int]:
    own = torch.tensor([mu, size], dtype=torch.float64, device=_wire(device))
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    penalties, sizes = torch.stack(every).T.tolist()
    if len(set(penalties)) > 1 and _FAULT not in sizes:
        raise RuntimeError(
            f"mu must be the same on all ranks, got {penalties} in join_ranks. "
            "Call observe_validation on every rank with the same, gathered AUC."
        )
    return [int(rows) for rows in sizes]


def _exchange(batch: Batch, sizes: list[int]) -> Tensor:
    bits = batch.logits.detach().double().cpu().contiguous().view(torch.int64)
    bits = bits.reshape(len(batch.labels), math.prod(batch.logits.shape[1:]))
    count, columns = bits.shape
    own = torch.zeros(max(sizes), columns + 2, dtype=torch.int64)  # bits of the logits, label, digest
    own[:count, :-2] = bits
    own[:count, -2] = torch.tensor(batch.labels, dtype=torch.int64)
    own[:count, -1] = torch.tensor([digest(str(key)) for key in batch.keys], dtype=torch.int64)
    own = own.to(_wire(batch.logits.device))
    every = [torch.empty_like(own) for _ in sizes]
    dist.all_gather(every, own)
    return torch.cat([part[:size] for part, size in zip(every, sizes, strict=True)]).cpu()


def _wire(device: torch.device) -> torch.device:
    return device if "nccl" in dist.get_backend() else torch.device("cpu")


class _OwnRows(torch.autograd.Function):
    """The joined values; their gradient reaches the rank's own rows, times the number of ranks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, joined: Tensor, start: int) -> Tensor:
        ctx.rows = slice(start, start + len(own))
        return joined.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.rows] * dist.get_world_size(), None, None


def class_numbers(labels: Tensor, *, classes: int, where: str) -> list[int]:
    """Return labels of K classes as whole numbers.

    Raises:
        ValueError: one is not among 0..K-1.

    >>> class_numbers(torch.tensor([2.0, 0.0]), classes=3, where="a batch")
    [2, 0]
    """
    values = plain(labels).reshape(-1).tolist()
    wrong = set(values) - set(range(classes))
    if wrong:
        rule = "0 or 1" if classes == 2 else f"whole numbers from 0 to {classes - 1}"
        raise ValueError(f"labels must be {rule}, got {_short(sorted(wrong))} in {where}")
    return [int(value) for value in values]


def _check_rows(logits: Tensor, labels: Tensor, *, shapes: Sequence[tuple[int, ...]], rows: int) -> None:
    if not logits.is_floating_point():
        raise TypeError(f"logits must be of a floating type, got {logits.dtype} in a batch")
    for name, tensor, allowed in (("logits", logits, shapes), ("labels", labels, ((rows,), (rows, 1)))):
        if tensor.shape not in allowed:
            raise ValueError(
                f"{name} must have shape {' or '.join(map(str, allowed))}, one row for each of the sample_ids, "
                f"got {tuple(tensor.shape)} in a batch"
            )


def _short(values: Sequence[object]) -> str:
    shown = repr(values[:5] if not isinstance(values, str) else values)
    return shown if len(values) <= 5 else f"{shown[:-1]}, ... {len(values)} in all]"
