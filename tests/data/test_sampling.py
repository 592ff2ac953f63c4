"""Batches against their promise: every sample once an epoch, positives shared out, the order a function of the seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prostate_alm.data.sampling import StratifiedBatchSampler

LABELS = [1, 0, 0, 0] * 10


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=80),
    st.integers(2, 20),
    st.integers(0, 2**32),
    st.integers(0, 9),
)
def test_each_sample_once_and_each_batch_its_share(labels: list[int], batch_size: int, seed: int, epoch: int) -> None:
    sampler = StratifiedBatchSampler(labels, batch_size, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert Counter(index for batch in batches for index in batch) == Counter(range(len(labels)))
    sizes = [len(batch) for batch in batches]
    positives = [sum(labels[index] for index in batch) for batch in batches]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert max(positives) - min(positives) <= 1


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one() -> None:
    whole, resumed = (StratifiedBatchSampler(LABELS, 8, seed=5) for _ in range(2))
    epochs = []
    for epoch in range(4):
        whole.set_epoch(epoch)
        epochs.append(list(whole))
    resumed.set_epoch(3)
    assert list(resumed) == epochs[3]
    assert len({str(epoch) for epoch in epochs}) == 4


def test_seeds_give_different_orders() -> None:
    assert len({str(list(StratifiedBatchSampler(LABELS, 8, seed=seed))) for seed in range(5)}) == 5


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 2, got 1"):
        StratifiedBatchSampler(LABELS, 1, seed=0)


def test_each_batch_carries_its_share_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [80, 16, 4])
    batches = list(StratifiedBatchSampler(labels.tolist(), batch_size=25, seed=3))
    assert sorted(row for batch in batches for row in batch) == list(range(100))
    for batch in batches:
        assert np.bincount(labels[batch], minlength=3).tolist() == [20, 4, 1]
