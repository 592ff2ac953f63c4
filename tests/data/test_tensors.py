"""Batches from memory against a plain loop over samples."""

from typing import Any

import numpy as np
import pytest
import torch

from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.tensors import TensorLoader, crop_mirror_and_scale, mirror_and_shift


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


def volumes(count: int = 400) -> torch.Tensor:
    """Volumes whose voxels all differ: x + 10 y + 100 z, the second channel a thousand more."""
    x, y, z = torch.meshgrid(torch.arange(8.0), torch.arange(7.0), torch.arange(5.0), indexing="ij")
    one = x + 10 * y + 100 * z
    return torch.stack([one, one + 1000]).expand(count, -1, -1, -1, -1).clone()


def test_floats_are_taken_as_they_are() -> None:
    image = torch.randn(1, 2, 2, 2)
    batch = next(iter(TensorLoader([{"image": image, "label": 0, "sample_id": "a"}])))
    assert torch.equal(batch["image"][0], image)


def test_each_block_is_one_of_the_possible_ones_and_all_of_them_come() -> None:
    size, image = (6, 6, 5), volumes()
    blocks = {
        torch.stack([part.flip(1) if mirrored else part for part in [image[0, :, x : x + 6, y : y + 6]]])
        .numpy()
        .tobytes()
        for x in range(3)
        for y in range(2)
        for mirrored in (False, True)
    }
    assert len(blocks) == 12
    found = crop_mirror_and_scale(image, torch.Generator().manual_seed(0), size=size, gain_max=0, offset_max=0)
    assert {block.unsqueeze(0).numpy().tobytes() for block in found} == blocks
    assert torch.equal(image, volumes())


def test_gain_and_offset_change_half_of_the_volumes_by_as_much_as_is_said() -> None:
    image = volumes()
    found = crop_mirror_and_scale(image, torch.Generator().manual_seed(0), size=(8, 7, 5), gain_max=0.1, offset_max=0.5)
    flat, original = found.sort(2).values.flatten(1), image.flatten(1)  # sorting along X undoes the mirror
    gain = (flat[:, -1] - flat[:, 0]) / (original[:, -1] - original[:, 0]) - 1
    offset = flat[:, 0] - (1 + gain) * original[:, 0]
    for change, largest in ((gain, 0.1), (offset, 0.5)):
        changed = change.abs() > largest / 1e3
        assert 160 < changed.sum() < 240  # 400 throws of a coin: 4 standard deviations
        assert 0.9 * largest < change.abs().max() < 1.01 * largest
        assert abs(change[changed].mean()) < 4 * largest / 3**0.5 / 13
    np.testing.assert_allclose(flat, (1 + gain)[:, None] * original + offset[:, None], atol=2e-2)


def test_the_same_seed_gives_the_same_blocks_and_another_one_others() -> None:
    one, same, other = (
        crop_mirror_and_scale(volumes(8), torch.Generator().manual_seed(seed), size=(4, 4, 4)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_images_that_are_read_batch_by_batch_are_those_that_are_held() -> None:
    samples = make_samples(30)
    whole = sum(sample["image"].nbytes for sample in samples)
    batches = StratifiedBatchSampler([sample["label"] for sample in samples], 8, seed=1)
    loaders = [TensorLoader(samples, batches, augment=mirror_and_shift, in_memory_bytes=n) for n in (whole, whole - 1)]
    for epoch in (3, 4):
        seen = []
        for loader in loaders:
            loader.set_seed(epoch)
            seen.append(list(loader))
        for held, read in zip(*seen, strict=True):
            assert torch.equal(held["image"], read["image"])
            assert torch.equal(held["label"], read["label"])
            assert held["sample_id"] == read["sample_id"]


def test_images_of_different_sizes_are_refused() -> None:
    samples = [{"image": torch.zeros(channels, 4, 4), "label": 0, "sample_id": str(channels)} for channels in (3, 1)]
    with pytest.raises(ValueError, match=r"images must have one shape, got \(3, 4, 4\) and \(1, 4, 4\) of 1"):
        TensorLoader(samples, batch_size=1)
