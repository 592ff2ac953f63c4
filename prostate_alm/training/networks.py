"""The networks of the paper: cascades of convolution, max-pooling and ReLU, joined in a linear layer."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

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


def whitened(network: nn.Module, batches: Iterable[dict[str, Any]], *, eps: float = 1e-3) -> nn.Module:
    """Let the first convolution of each path begin with whitened patches of the training images; the same network.

    Half of its filters are v_i / sqrt(l_i + eps), v_i and l_i the eigenvectors and the greatest eigenvalues of the
    covariance of what a filter sees: on these images their outputs are uncorrelated and have variance 1. The other
    half are their negatives, for ReLU lets one side pass. Filters that no eigenvector is left for stay as drawn, and
    so do the biases. All of them are trained like others.

    Args:
        network: its first weights are changed; another network than CascadeNet stays as it is.
        batches: each with `image` (B, sum of path_channels, spatial axes...), as the network gets them, not augmented.
        eps: least variance that is not damped, in squared units of the images.

    Raises:
        ValueError: there is no image, or it has not the network's channels.

    Reference:
        Whitening as a first layer: Coates, Lee, Ng, An analysis of single-layer networks in unsupervised feature
        learning, 2011; in fast training of CIFAR-10: Page, How to train your ResNet, 2018.

    >>> net = CascadeNet(2, (1,), features=(2,), pooling=((2, 2),))
    >>> ramps = torch.arange(36.0).reshape(1, 1, 6, 6)  # its patches differ by a constant alone
    >>> net = whitened(net, [{"image": ramps}])
    >>> filters = net.paths[0][0].weight.flatten(1)  # which is the only thing that the filters look at
    >>> torch.allclose(filters[0], filters[0, 0]), torch.equal(filters[1], -filters[0])
    (True, True)
    """
    if not isinstance(network, CascadeNet):
        return network
    convolutions: list[Any] = [path[0] for path in network.paths]  # type: ignore[index]
    moments = [_Moments() for _ in convolutions]
    for batch in batches:
        channels = batch["image"].shape[1]
        if channels != sum(network.path_channels):
            raise ValueError(
                f"image must have {sum(network.path_channels)} channels, got {channels} in whitened. "
                "Give the images that the network gets."
            )
        parts = torch.split(batch["image"], network.path_channels, dim=1)
        for part, convolution, moment in zip(parts, convolutions, moments, strict=True):
            moment.add(_patches(part, convolution.kernel_size))
    for convolution, moment in zip(convolutions, moments, strict=True):
        values, vectors = torch.linalg.eigh(moment.covariance())  # the greatest last
        largest = vectors.abs().argmax(dim=0, keepdim=True)
        vectors *= vectors.gather(0, largest).sign()  # else the sign is the processor's choice
        count = min(len(convolution.weight) // 2, len(values))
        filters = (vectors / (values.clamp(min=0) + eps).sqrt())[:, -count:].T.reshape(
            count, *convolution.weight.shape[1:]
        )
        convolution.weight.data[: 2 * count] = torch.cat([filters, -filters]).to(convolution.weight)
    return network


class _Moments:
    """Sums over rows, for their covariance."""

    def __init__(self) -> None:
        self._rows = 0
        self._sum: torch.Tensor | float = 0.0
        self._products: torch.Tensor | float = 0.0

    def add(self, rows: torch.Tensor) -> None:
        """Count rows (N, D)."""
        self._rows += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._products = self._products + rows.T @ rows

    def covariance(self) -> torch.Tensor:
        """Return (D, D)."""
        if not isinstance(self._sum, torch.Tensor) or not isinstance(self._products, torch.Tensor):
            raise ValueError("batches must hold at least one image, got none in whitened. Give the training images.")
        mean = self._sum / self._rows
        return self._products / self._rows - torch.outer(mean, mean)


def _patches(images: torch.Tensor, kernel_size: Sequence[int]) -> torch.Tensor:
    """Return what a filter sees of images (B, C, spatial axes...) where it fits, (N, C x kernel), in double precision.

    Sums of squares of millions of voxels need it.
    """
    windows = images.double()
    for axis, size in enumerate(kernel_size, start=2):
        windows = windows.unfold(axis, size, 1)
    channels_behind = windows.movedim(1, len(kernel_size) + 1)  # (B, places..., C, kernel...)
    return channels_behind.flatten(len(kernel_size) + 1).flatten(0, -2)
