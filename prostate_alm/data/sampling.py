"""Mini-batches in which each class has its share."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class StratifiedBatchSampler(Sampler[list[int]]):
    """Batches of nearly equal size that each carry their share of the positives, or of each of several classes.

    The constraint compares the positives of a batch with its negatives (Eq. 7 of the paper) and is silent in a batch
    without one of them. Each epoch visits every sample once; the classes are shuffled separately and dealt out to the
    batches in turn. The order is a function of seed and epoch only: a resumed run sees the same batches.

    Args:
        labels: 0 or 1 per sample, or the number of its class, (N,).
        batch_size: largest number of samples in a batch, at least 2.
        seed: seed of the order.
        rank: number of this process among those that train together; it gets every `ranks`-th row of each batch.
        ranks: number of processes.

    Raises:
        ValueError: batch_size is below 2, or so small that a process would get an empty batch.

    >>> batches = list(StratifiedBatchSampler([1, 0, 0, 1, 0, 0], batch_size=3, seed=0))
    >>> sorted(index for batch in batches for index in batch)
    [0, 1, 2, 3, 4, 5]
    >>> [sum(index in (0, 3) for index in batch) for batch in batches]
    [1, 1]
    """

    def __init__(self, labels: Sequence[int], batch_size: int, *, seed: int, rank: int = 0, ranks: int = 1) -> None:
        if batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, got {batch_size}. A ranking needs two samples.")
        highest = max(1, *labels)
        self._classes = [np.flatnonzero(np.asarray(labels) == value) for value in range(highest, -1, -1)]
        self._batches = -(-len(labels) // batch_size)
        if len(labels) // self._batches < ranks:
            raise ValueError(
                f"batch_size must leave a sample for each of {ranks} processes, got {batch_size} for {len(labels)} "
                "samples. Choose a larger one or fewer processes."
            )
        self._rank, self._ranks = rank, ranks
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the epoch, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self._seed, self._epoch])
        # the highest class first (positives, then negatives), dealt like cards: sizes and shares differ by one at most
        order = np.concatenate([generator.permutation(indices) for indices in self._classes])
        for batch in range(self._batches):
            rows = generator.permutation(order[batch :: self._batches])
            yield rows[self._rank :: self._ranks].tolist()
