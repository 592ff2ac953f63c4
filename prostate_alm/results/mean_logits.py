"""An ensemble as one network: the mean of its members' logits."""

from collections.abc import Sequence

import torch
from torch import nn


class MeanLogits(nn.Module):
    """The mean of the logits of several networks: f(x) = (1 / M) Σ_m f_m(x).

    Args:
        members: networks of one shape, images (B, C, ...) -> logits (B, 1).

    Raises:
        ValueError: there are no networks.

    Reference:
        Section 5.2 of the paper.

    >>> MeanLogits([nn.Linear(2, 1), nn.Linear(2, 1)])(torch.zeros(3, 2)).shape
    torch.Size([3, 1])
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members must be at least one network, got none.")
        self.members = nn.ModuleList(members)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the mean logits (B, 1) of images (B, C, ...)."""
        return torch.stack([member(image) for member in self.members]).mean(0)  # (M, B, 1) -> (B, 1)
