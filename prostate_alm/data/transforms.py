"""MONAI dictionary transforms that MONAI does not have."""

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform


class LogSignald(MapTransform):
    """Take the logarithm of diffusion-weighted signals: log(max(S / mean(S), floor)).

    With S_b = S_0 exp(-b ADC) the logarithm makes the ADC a difference of channels, log(S_b1 / S_b2) / (b2 - b1), which
    a first convolution can compute, and turns the scanner's gain into an offset that all channels share.

    Args:
        keys: items to transform, each (C, spatial axes...), non-negative signals.
        floor: lower bound of the relative signal, above 0; keeps air and noise from dominating.

    Raises:
        ValueError: floor is not above 0.

    >>> signal = torch.tensor([[1.0, 3.0]])
    >>> LogSignald("dwi", floor=0.1)({"dwi": signal})["dwi"]
    tensor([[-0.6931,  0.4055]])
    """

    def __init__(self, keys: KeysCollection, floor: float) -> None:
        super().__init__(keys)
        if not floor > 0:
            raise ValueError(f"floor must be above 0, got {floor}. Choose for example 0.02.")
        self.floor = floor

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of `data` with the items replaced."""
        result = dict(data)
        for key in self.key_iterator(result):
            signal = result[key]
            scale = signal.mean().clamp_min(torch.finfo(signal.dtype).tiny)
            result[key] = (signal / scale).clamp_min(self.floor).log()
        return result
