"""The network of the lesions bundle: two encoders, T2 and diffusion, one decoder, a logit for each voxel."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import interpolate


class DualPathUNet(nn.Module):
    """Image (B, C, X, Y, Z) -> logit of "this voxel is part of a lesion", (B, 1, X, Y, Z).

    Each path has an encoder of its own: at each level a convolution with a stride, instance normalisation and ReLU. A
    decoder goes up from the joined features of the lowest level, and takes those of both paths at each level on its
    way. It ends at the first level, whose logits are interpolated linearly to the voxels of the image: lesions are
    several voxels wide, and convolutions at full resolution would cost most of the time.

    The case's logit is the soft maximum of the map (`method.lesions.case_logits`): one network says whether and where.

    Args:
        path_channels: input channels of each path in the order of the stack; (1, 3) is T2 and three b-values.
        features: channels of each level of a path, at least one.
        strides: of each level, one entry per spatial axis.
        prior: share of lesion voxels that the first bias says, in (0, 1): without it the first steps of a
            voxel-wise loss only learn that lesions are rare.

    Raises:
        ValueError: features and strides differ in length, or the prior is out of range.

    Reference:
        The prior: Lin et al. 2017, arXiv:1708.02002, section 3.3. The decoder: Ronneberger et al. 2015,
        arXiv:1505.04597.

    >>> net = DualPathUNet((1, 3), features=(4, 8), strides=((2, 2, 1), (2, 2, 2)))
    >>> net(torch.zeros(2, 4, 16, 16, 8)).shape
    torch.Size([2, 1, 16, 16, 8])
    """

    def __init__(
        self,
        path_channels: Sequence[int],
        *,
        features: Sequence[int],
        strides: Sequence[Sequence[int]],
        prior: float = 0.001,
    ) -> None:
        super().__init__()
        if len(features) != len(strides) or not features:
            raise ValueError(
                f"strides must have one entry for each of features, at least one, got {len(strides)} for "
                f"{len(features)} in DualPathUNet."
            )
        if not 0 < prior < 1:
            raise ValueError(f"prior must be in (0, 1), got {prior} in DualPathUNet. It is the share of lesion voxels.")
        self.path_channels = list(path_channels)
        self.paths = nn.ModuleList(_encoder(channels, features, strides) for channels in path_channels)
        joined = [len(self.path_channels) * count for count in features]
        self.up = nn.ModuleList(_block(above + own, own) for own, above in reversed(list(pairwise(joined))))
        self.head = nn.Conv3d(joined[0], 1, kernel_size=1)
        self.head.bias = nn.Parameter(torch.tensor([math.log(prior / (1 - prior))]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the map of logits, on the voxels of the image."""
        parts = torch.split(image, self.path_channels, dim=1)
        of_paths = [_levels(path, part) for path, part in zip(self.paths, parts, strict=True)]
        *above, features = [torch.cat(level, dim=1) for level in zip(*of_paths, strict=True)]
        for block, skip in zip(self.up, reversed(above), strict=True):
            wider = interpolate(features, size=skip.shape[2:], mode="nearest")
            features = block(torch.cat([skip, wider], dim=1))
        with torch.autocast(image.device.type, enabled=False):  # logits of 8 bits tie, and ties are no ranking
            logits = self.head(features.float())
            return interpolate(logits, size=image.shape[2:], mode="trilinear", align_corners=False)


def _levels(path: nn.Module, part: torch.Tensor) -> list[torch.Tensor]:
    """Return the features of each level of a path, from the image downwards."""
    found: list[torch.Tensor] = []
    for level in path.children():
        part = level(part)
        found.append(part)
    return found


def _encoder(channels: int, features: Sequence[int], strides: Sequence[Sequence[int]]) -> nn.ModuleList:
    return nn.ModuleList(
        _block(before, after, stride)
        for (before, after), stride in zip(pairwise((channels, *features)), strides, strict=True)
    )


def _block(before: int, after: int, stride: Sequence[int] = (1, 1, 1)) -> nn.Module:
    """Return MONAI's `Convolution` of these settings, layer by layer: to import MONAI takes longer than an answer."""
    layers = {
        "conv": nn.Conv3d(
            before, after, kernel_size=3, stride=(stride[0], stride[1], stride[2]), padding=1, bias=False
        ),
        "norm": nn.InstanceNorm3d(after),
        "act": nn.ReLU(),
    }
    return nn.Sequential(OrderedDict(layers))
