"""The network that finds the gland in a coarse T2, and how a trained one is opened."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prostate_alm.training.lesion_network import DualPathUNet

SPEC, WEIGHTS = "localiser.json", "localiser.pt"
"""Files of a trained localiser; the first is written last and says that it is whole."""


class Localiser(nn.Module):
    """A network on the coarse T2, and the grid that it was trained on; called with images (B, 1, X, Y, Z).

    Args:
        network: coarse T2 -> logit of "this voxel is gland", of the same shape.
        spacing_mm: of the coarse grid along each axis.
        size: its number of voxels along each axis.
    """

    def __init__(self, network: nn.Module, *, spacing_mm: float, size: Sequence[int]) -> None:
        super().__init__()
        self.network, self.spacing_mm, self.size = network, spacing_mm, tuple(size)

    def forward(self, image: Tensor) -> Tensor:
        """Return probabilities of the shape of the images."""
        logits: Tensor = self.network(image)
        return logits.sigmoid()


def localiser_of(spec: Mapping[str, Any]) -> Localiser:
    """Return the localiser that a description says, its weights at random.

    Args:
        spec: `features`, `strides`, `spacing_mm` and `size`.
    """
    network = DualPathUNet((1,), features=spec["features"], strides=spec["strides"])
    return Localiser(network, spacing_mm=spec["spacing_mm"], size=spec["size"])


def open_localiser(folder: Path) -> tuple[Localiser, dict[str, Any]]:
    """Return a trained localiser in evaluation mode and what it says of itself.

    Raises:
        ValueError: there is none.
    """
    try:
        about: dict[str, Any] = json.loads((folder / SPEC).read_text(encoding="utf-8"))
        localiser = localiser_of(about)
        localiser.network.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"localiser must be a folder that bundles/gland wrote, got {folder} ({type(error).__name__}). "
            "Train one: python -m monai.bundle run training --config_file bundles/gland/train.json"
        ) from error
    return localiser.eval().requires_grad_(False), about
