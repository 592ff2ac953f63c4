"""The networks of the paper: cascades of convolution, max-pooling and ReLU, joined in a linear layer; ensembles."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_POOLING = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MEMORY_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}


class CascadeNet(nn.Module):
    """One cascade for each group of channels; their features are concatenated in the fully connected layer.

    f(x) = w · [cascade_1(x_1), cascade_2(x_2), ...] + b, the logit of the positive class, or one for each of K classes.

    A cascade repeats convolution, max-pooling, ReLU and ends with the maximum over what remains of the grid. Pooling
    before ReLU is the same function as ReLU before pooling (both are monotonic) and leaves ReLU less to do. Weights and
    activations lie channels-last, which is faster on CPU and GPU and changes no value by more than rounding.

    Args:
        spatial_dims: 2 or 3.
        path_channels: input channels of each path in the order of the stack; (1, 3) is T2 and three b-values.
        features: output channels of each convolution.
        pooling: window and stride of the max-pooling after each convolution, one entry per spatial axis.
        initial_scale: factor on the convolutions' first weights, above 0. Torch draws them with a sixth of the variance
            that keeps a signal's size through ReLU layers (He et al., 2015): √6 gives that variance.
        outputs: number of logits: 1 for two classes, K for several.

    Raises:
        ValueError: spatial_dims is not 2 or 3, features and pooling differ in length, or a number is not above 0.

    Reference:
        Section 5.2 and appendix B of the paper.

    >>> net = CascadeNet(3, (1, 3), features=(4, 8), pooling=((2, 2, 1), (2, 2, 2)))
    >>> net(torch.zeros(2, 4, 16, 16, 8)).shape
    torch.Size([2, 1])
    """

    def __init__(
        self,
        spatial_dims: int,
        path_channels: Sequence[int],
        *,
        features: Sequence[int],
        pooling: Sequence[Sequence[int]],
        initial_scale: float = 1.0,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        if spatial_dims not in _CONVOLUTION:
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        if len(features) != len(pooling):
            raise ValueError(
                f"pooling must have one entry per convolution, got {len(pooling)} for {len(features)} features."
            )
        if not initial_scale > 0:
            raise ValueError(f"initial_scale must be above 0, got {initial_scale}. 1 leaves the weights as drawn.")
        if outputs < 1:
            raise ValueError(f"outputs must be at least 1, got {outputs}. It is 1 for two classes.")
        self.path_channels = list(path_channels)
        self.paths = nn.ModuleList(
            _cascade(spatial_dims, channels, features=features, pooling=pooling) for channels in path_channels
        )
        self.classifier = nn.Linear(len(self.path_channels) * features[-1], outputs)
        self._is_3d = spatial_dims == 3
        for convolution in self.paths.modules():
            if isinstance(convolution, nn.Conv2d | nn.Conv3d):
                scaled = convolution.weight.data * initial_scale
                convolution.weight.data = scaled.contiguous(memory_format=_MEMORY_FORMAT[spatial_dims])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, outputs) of images (B, sum of path_channels, spatial axes...)."""
        parts = torch.split(image, self.path_channels, dim=1)
        features: list[torch.Tensor] = []
        for number, path in enumerate(self.paths):  # words that TorchScript reads, too
            if self._is_3d:
                part = parts[number].contiguous(memory_format=torch.channels_last_3d)
            else:
                part = parts[number].contiguous(memory_format=torch.channels_last)
            features.append(path(part).flatten(2).amax(2))  # (B, features[-1])
        joined = torch.cat(features, dim=1).to(self.classifier.weight.dtype)  # (B, paths * features[-1])
        # A product and a sum, since autocast would round a linear layer: logits of 8 bits tie, and ties are no ranking.
        logits: torch.Tensor = (joined[:, None] * self.classifier.weight).sum(2) + self.classifier.bias  # (B, outputs)
        return logits


def _cascade(
    spatial_dims: int, in_channels: int, *, features: Sequence[int], pooling: Sequence[Sequence[int]]
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for (before, after), window in zip(pairwise((in_channels, *features)), pooling, strict=True):
        layers.append(_CONVOLUTION[spatial_dims](before, after, kernel_size=3, padding=1))
        layers.append(_POOLING[spatial_dims](tuple(window)))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
