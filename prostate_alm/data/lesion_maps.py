"""Image and lesions as one stack, the lesions in its last channel: what crops and mirrors one moves the other."""

from collections.abc import Sequence
from typing import Any

import torch
from monai.transforms import CenterSpatialCrop, ResizeWithPadOrCrop
from torch import Tensor

from prostate_alm.data.tensors import crop_mirror_and_scale

CUT = -1
"""What stands in a map of lesions for voxels of a lesion of which the crop left a part only."""


def mark_cut(before: Tensor, after: Tensor) -> Tensor:
    """Return a cropped map of lesions in which the voxels of each lesion that the crop cut are -1.

    Args:
        before: whole numbers, any shape: 0 background, k >= 1 the k-th lesion, -1 cut before.
        after: a crop of it.

    >>> mark_cut(torch.tensor([0, 1, 1, 2]), torch.tensor([1, 2]))
    tensor([-1,  2])
    """
    marked = after.clone()
    for number in torch.unique(after).tolist():
        if number > 0 and int((after == number).sum()) < int((before == number).sum()):
            marked[after == number] = CUT
    return marked


class CropLesions:
    """Crop or pad the `lesions` (1, X, Y, Z) of a sample around their centre, and mark those that are cut.

    Args:
        size: along X, Y and Z.

    >>> sample = {"lesions": torch.ones(1, 3, 3, 3)}
    >>> CropLesions((2, 4, 4))(sample)["lesions"].unique().tolist()
    [-1.0, 0.0]
    """

    def __init__(self, size: Sequence[int]) -> None:
        self.size = tuple(size)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with cropped lesions."""
        lesions = sample["lesions"]
        cropped = ResizeWithPadOrCrop(self.size, mode="constant")(lesions)
        return sample | {"lesions": mark_cut(lesions, cropped)}


class CropStack:
    """Cut the middle out of the `image` (C + 1, X, Y, Z) of a sample, whose last channel are lesions; mark cut ones.

    Args:
        size: along X, Y and Z, at most that of the image.

    >>> sample = {"image": torch.ones(2, 4, 4, 4)}
    >>> CropStack((2, 2, 2))(sample)["image"][:, 0, 0, 0]
    tensor([ 1., -1.])
    """

    def __init__(self, size: Sequence[int]) -> None:
        self.size = tuple(size)

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return the sample with a cropped stack."""
        stack = sample["image"]
        cropped = CenterSpatialCrop(self.size)(stack).as_subclass(Tensor).clone()
        cropped[-1] = mark_cut(stack[-1], cropped[-1])
        return sample | {"image": cropped}


def crop_mirror_and_scale_stack(stack: Tensor, random: torch.Generator, *, size: Sequence[int]) -> Tensor:
    """Do with stacks of image and lesions as `crop_mirror_and_scale` does; gain and offset change the image alone.

    Lesions that the crop cuts become -1; those that it leaves out are gone.

    Args:
        stack: (B, C + 1, X, Y, Z), X from left to right; the last channel are lesions.
        random: source of random numbers, on the CPU.
        size: of the block along X, Y and Z, at most that of the volumes.

    Returns:
        (B, C + 1, *size).

    >>> crop_mirror_and_scale_stack(torch.zeros(2, 5, 6, 6, 5), torch.Generator(), size=(4, 4, 4)).shape
    torch.Size([2, 5, 4, 4, 4])
    """
    drawn = random.get_state()
    image = crop_mirror_and_scale(stack[:, :-1], random, size=size)
    random.set_state(drawn)  # the same places and mirrors
    lesions = crop_mirror_and_scale(stack[:, -1:], random, size=size, gain_max=0, offset_max=0)
    marked = torch.stack([mark_cut(before, after) for before, after in zip(stack[:, -1:], lesions, strict=True)])
    return torch.cat([image, marked], dim=1)
