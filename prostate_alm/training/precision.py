"""A network in a given precision, its logits in float32; which precision is the fastest: see `dtype`."""

from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn


class AutocastInferer(Inferer):
    """Run a network in a given precision and return its logits in float32, in which losses are computed.

    MONAI's `amp` option does this on CUDA only.

    Args:
        device: where the network is.
        dtype: bfloat16 or float32.

    >>> infer = AutocastInferer(torch.device("cpu"), torch.bfloat16)
    >>> infer(torch.ones(1, 2), nn.Linear(2, 1)).dtype
    torch.float32
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device_type = device.type
        self._dtype = dtype

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return `network(inputs)` in float32."""
        with torch.autocast(self._device_type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            logits: torch.Tensor = network(inputs, *args, **kwargs)
        return logits if self._dtype == torch.float32 else logits.float()
