"""Batches of images that lie in memory as one tensor, augmented a batch at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from monai.transforms import Compose, RandomizableTrait
from torch import Tensor

from prostate_alm.data.sampling import StratifiedBatchSampler

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Images (B, C, ...) and a source of random numbers -> images of the same shape."""

MEAN, DEVIATION = 0.5, 0.25
"""What brings grey values in [0, 1] to about zero mean and unit variance."""


IN_MEMORY_BYTES = 1 << 29
"""As much of images as a loader holds; a cohort that is larger stays where it lies, mapped from the disk."""


class TensorLoader:
    """Batches of images that are held in memory: of 8 bits, brought to about zero mean and unit variance, or of floats.

    A data loader copies one sample at a time and, with workers, between processes; for images of a few kilobytes that
    takes longer than the network. Here a batch is one indexing operation.

    Images that together have more than `in_memory_bytes` are read batch by batch, each when its turn comes: what
    `VolumeCache` maps from the disk then needs no memory but that of a batch. The numbers are the same.

    Args:
        samples: each with `image` (C, ...), uint8 or float32, `label` (0 or 1) and `sample_id`; at least one.
        batches: where the batches come from; None takes samples in order, `batch_size` at a time.
        batch_size: number of samples in a batch where `batches` is None.
        augment: changes the images of each batch.
        device: where the images are kept, or brought to batch by batch.
        in_memory_bytes: most bytes of all images that are kept there.

    Raises:
        ValueError: there is no sample, images differ in shape, or a data set draws at random: it would be drawn once
            for all epochs.

    >>> samples = [{"image": torch.full((1, 2, 2), 255, dtype=torch.uint8), "label": 1, "sample_id": "a"}]
    >>> next(iter(TensorLoader(samples)))["image"].unique()
    tensor([2.])
    """

    def __init__(
        self,
        samples: Sequence[dict[str, Any]],
        batches: StratifiedBatchSampler | None = None,
        *,
        batch_size: int = 256,
        augment: Augment | None = None,
        device: str = "cpu",
        in_memory_bytes: int = IN_MEMORY_BYTES,
    ) -> None:
        if not samples:
            raise ValueError("samples must not be empty, got none in TensorLoader")
        for name in random_transforms([getattr(samples, "transform", None)]):
            raise ValueError(
                f"samples of a TensorLoader must have transforms that are not random, got {name}: it would be drawn "
                "once for all epochs. Name monai.data.DataLoader as the dataloader, or give `augment`."
            )
        self._samples, self._device = samples, device
        self._read_all(in_memory_bytes)
        self._rows = [
            list(range(len(samples)))[start : start + batch_size] for start in range(0, len(samples), batch_size)
        ]
        self._batches = batches
        self._augment = augment
        self._random = torch.Generator()

    def _read_all(self, in_memory_bytes: int) -> None:
        """Read each sample once; the images are kept where all of them have room."""
        first = _image(self._samples[0])
        is_held = first.nbytes * len(self._samples) <= in_memory_bytes
        held = torch.empty(len(self._samples) if is_held else 0, *first.shape, dtype=first.dtype)  # (N, C, ...)
        labels: list[Any] = []
        self._ids: list[str] = []
        for row, sample in enumerate(self._samples):
            image = _image(sample)
            if image.shape != first.shape:
                raise ValueError(
                    f"images must have one shape, got {tuple(first.shape)} and {tuple(image.shape)} of "
                    f"{sample['sample_id']}. Crop or pad them to one."
                )
            if is_held:
                held[row] = image
            labels.append(sample["label"])
            self._ids.append(sample["sample_id"])
        self._images = held.to(self._device) if is_held else None
        self._labels = torch.tensor(labels)

    def _read(self, rows: list[int]) -> Tensor:
        """Return the images of some samples, (B, C, ...)."""
        if self._images is not None:
            return self._images[rows]
        return torch.stack([_image(self._samples[row]) for row in rows]).to(self._device)

    def set_seed(self, seed: int) -> None:
        """Choose the order of the batches and the augmentation of the coming epoch."""
        self._random.manual_seed(seed)
        if self._batches is not None:
            self._batches.set_epoch(seed)

    def __len__(self) -> int:
        return len(self._rows if self._batches is None else self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for rows in self._rows if self._batches is None else self._batches:
            image = _normalised(self._read(rows))  # (B, C, ...)
            if self._augment is not None:
                image = self._augment(image, self._random)
            yield {"image": image, "label": self._labels[rows], "sample_id": [self._ids[row] for row in rows]}


def _image(sample: dict[str, Any]) -> Tensor:
    image: Tensor = sample["image"].as_subclass(Tensor)
    return image


def random_transforms(transforms: Iterable[Any]) -> list[str]:
    """Return the names of the transforms of MONAI that draw at random, those within others too.

    >>> from monai.transforms import Compose, Flip, RandFlip
    >>> random_transforms([Flip(0), Compose([RandFlip(0.5), Flip(0)])])
    ['RandFlip']
    """
    names: list[str] = []
    for transform in transforms:
        if isinstance(transform, Compose):
            names += random_transforms(transform.transforms)
        elif isinstance(transform, RandomizableTrait):
            names.append(type(transform).__name__)
    return names


def _normalised(image: Tensor) -> Tensor:
    """Return grey values of 8 bits at about zero mean and unit variance; floats are that already."""
    return image.float().div_(255 * DEVIATION).sub_(MEAN / DEVIATION) if image.dtype == torch.uint8 else image


def mirror_and_shift(image: Tensor, random: torch.Generator, *, shift_max: int = 4) -> Tensor:
    """Mirror half of the images left to right and move each by up to `shift_max` pixels, the border repeated.

    Args:
        image: (B, C, H, W).
        random: source of random numbers, on the CPU.
        shift_max: largest shift in pixels along each axis, at least 0.

    Returns:
        (B, C, H, W).

    >>> mirror_and_shift(torch.ones(2, 3, 8, 8), torch.Generator()).unique()
    tensor([1.])
    """
    count, _, height, width = image.shape
    mirrored = torch.rand(count, generator=random) < 0.5
    shift = torch.randint(-shift_max, shift_max + 1, (2, count, 1), generator=random)
    row = (torch.arange(height) + shift[0]).clamp_(0, height - 1)  # (B, H)
    column = (torch.arange(width) + shift[1]).clamp_(0, width - 1)  # (B, W)
    column = torch.where(mirrored[:, None], column.flip(1), column)
    sample = torch.arange(count)[:, None, None]
    place = (sample, row[:, :, None], column[:, None, :])
    moved = image.movedim(1, -1)[tuple(index.to(image.device) for index in place)]  # (B, H, W, C)
    return moved.movedim(-1, 1)


def crop_mirror_and_scale(
    image: Tensor, random: torch.Generator, *, size: Sequence[int], gain_max: float = 0.1, offset_max: float = 0.1
) -> Tensor:
    """Cut a block from a random place of each volume, mirror half of them, change gain and offset of half.

    x <- (1 + g) x + o with g uniform in ±`gain_max` for a random half of the volumes and o uniform in ±`offset_max` for
    another half, the same for all channels of a volume.

    Args:
        image: (B, C, X, Y, Z), X from left to right; normalised.
        random: source of random numbers, on the CPU.
        size: of the block along X, Y and Z, at most that of the volumes.
        gain_max: largest change of the gain, in [0, 1).
        offset_max: largest offset, in standard deviations.

    Returns:
        (B, C, *size).

    >>> crop_mirror_and_scale(torch.zeros(2, 4, 6, 6, 5), torch.Generator(), size=(4, 4, 4)).shape
    torch.Size([2, 4, 4, 4, 4])
    """
    count = len(image)
    room = torch.tensor(image.shape[2:]) - torch.tensor(size)
    starts = (torch.rand(count, 3, generator=random) * (room + 1)).long().tolist()
    mirrored, scaled, moved = (torch.rand(3, count, generator=random) < 0.5).float()
    gain, offset = 2 * torch.rand(2, count, generator=random) - 1
    blocks = [
        volume[:, x : x + size[0], y : y + size[1], z : z + size[2]]
        for volume, (x, y, z) in zip(image, starts, strict=True)
    ]
    cut = torch.stack([block.flip(1) if flip else block for block, flip in zip(blocks, mirrored, strict=True)])
    shape = (count, 1, 1, 1, 1)
    factor = (1 + gain_max * gain * scaled).view(shape).to(image.device)
    return cut.mul_(factor).add_((offset_max * offset * moved).view(shape).to(image.device))
