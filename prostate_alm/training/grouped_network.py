"""Several networks of one architecture as one network: a grouped convolution computes a layer of all of them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from prostate_alm.training.networks import CascadeNet

_CONVOLUTION = {2: functional.conv2d, 3: functional.conv3d}
_MEMORY_FORMAT = {2: torch.channels_last, 3: torch.channels_last_3d}


def stack_parameters(networks: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return copies of the parameters of M networks with a leading axis of networks, by name; each wants a gradient.

    Args:
        networks: at least one, all of the same architecture.

    >>> {name: tuple(value.shape) for name, value in stack_parameters([nn.Linear(3, 1), nn.Linear(3, 1)]).items()}
    {'weight': (2, 1, 3), 'bias': (2, 1)}
    """
    own = [dict(network.named_parameters()) for network in networks]
    return {name: torch.stack([each[name].detach() for each in own]).requires_grad_() for name in own[0]}


class GroupedNetwork(nn.Module):
    """M cascade networks of one architecture, whose parameters are given with each call.

    The channels of all networks lie behind each other, and a convolution of M groups lets each network see its own
    only: one kernel does a layer of all networks, where M small ones would leave a GPU idle.

    Args:
        network: names the layers; its own parameters are not used.

    >>> networks = [CascadeNet(2, (3,), features=(4, 8), pooling=((2, 2), (2, 2))) for _ in range(5)]
    >>> GroupedNetwork(networks[0])(torch.zeros(5, 2, 3, 16, 16), stack_parameters(networks)).shape
    torch.Size([5, 2])
    """

    def __init__(self, network: CascadeNet) -> None:
        super().__init__()
        self._path_channels = list(network.path_channels)
        self._layers = [
            [(f"paths.{p}.{n}", x) for n, x in path.named_children()] for p, path in enumerate(network.paths)
        ]

    def forward(self, images: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the logits (M, B) of images (M, B, C, spatial axes...).

        Args:
            images: B images for each of the M networks.
            parameters: see `stack_parameters`.
        """
        parts = torch.split(images, self._path_channels, dim=2)
        features = [self._cascade(layers, part, parameters) for layers, part in zip(self._layers, parts, strict=True)]
        weight, bias = parameters["classifier.weight"], parameters["classifier.bias"]  # (M, 1, F), (M, 1)
        joined = torch.cat(features, dim=2).to(weight.dtype)  # (M, B, F)
        return (joined * weight).sum(2) + bias  # (M, B); no product of matrices, as in CascadeNet

    @staticmethod
    def _cascade(layers: Sequence[tuple[str, nn.Module]], part: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        members, batch = part.shape[:2]
        spatial_dims = part.ndim - 3
        values = part.transpose(0, 1).flatten(1, 2)  # (B, M * C, ...)
        values = values.contiguous(memory_format=_MEMORY_FORMAT[spatial_dims])
        for name, layer in layers:
            if isinstance(layer, nn.Conv2d | nn.Conv3d):
                weight, bias = parameters[f"{name}.weight"].flatten(0, 1), parameters[f"{name}.bias"].flatten()
                convolve = _CONVOLUTION[spatial_dims]
                values = convolve(values, weight, bias, padding=layer.padding, groups=members)
            else:  # pooling and ReLU know no channels
                values = layer(values)
        return values.flatten(2).amax(2).view(batch, members, -1).transpose(0, 1)  # (M, B, features[-1])
