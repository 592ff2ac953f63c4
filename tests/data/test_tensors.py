"""Batches from memory against a plain loop over samples."""

from typing import Any

import pytest
import torch

from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.tensors import TensorLoader, mirror_and_shift


def make_samples(count: int) -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=random, dtype=torch.uint8)
    return [{"image": image, "label": int(i % 3 == 0), "sample_id": f"s{i}"} for i, image in enumerate(images)]


def test_without_a_sampler_each_sample_comes_once_in_order_normalised() -> None:
    samples = make_samples(10)
    loader = TensorLoader(samples, batch_size=4)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert [key for batch in batches for key in batch["sample_id"]] == [sample["sample_id"] for sample in samples]
    for batch in batches:
        for image, label, key in zip(batch["image"], batch["label"], batch["sample_id"], strict=True):
            sample = samples[int(key[1:])]
            assert label == sample["label"]
            torch.testing.assert_close(image, (sample["image"] / 255 - 0.5) / 0.25)


def test_batches_are_those_of_the_sampler_of_that_epoch() -> None:
    samples = make_samples(30)
    labels = [sample["label"] for sample in samples]
    loader = TensorLoader(samples, StratifiedBatchSampler(labels, 8, seed=1))
    sampler = StratifiedBatchSampler(labels, 8, seed=1)
    for epoch in (5, 6):
        loader.set_seed(epoch)
        sampler.set_epoch(epoch)
        assert [[int(key[1:]) for key in batch["sample_id"]] for batch in loader] == list(sampler)


def test_augmentation_is_a_function_of_the_seed() -> None:
    loader = TensorLoader(make_samples(10), augment=mirror_and_shift)
    seen = []
    for seed in (1, 2, 1):
        torch.rand(seed)  # the global source of random numbers has no say
        loader.set_seed(seed)
        seen.append(next(iter(loader))["image"])
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_images_are_moved_and_mirrored_as_a_loop_does() -> None:
    image = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(200, 1, 1, 1)
    padded = torch.nn.functional.pad(image[:1], (2, 2, 2, 2), mode="replicate")[0, 0]
    windows = [padded[r : r + 8, c : c + 8] for r in range(5) for c in range(5)]
    possible = [*windows, *(window.flip(1) for window in windows)]
    moved = mirror_and_shift(image, torch.Generator().manual_seed(0), shift_max=2)
    found = [next(i for i, one in enumerate(possible) if torch.equal(one, each[0])) for each in moved]
    assert len(set(found)) > 40  # of 50
    assert 70 < sum(i >= 25 for i in found) < 130  # half are mirrored


def test_no_sample_is_a_fault_of_the_caller() -> None:
    with pytest.raises(ValueError, match="samples must not be empty"):
        TensorLoader([])
