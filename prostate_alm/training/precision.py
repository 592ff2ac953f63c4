"""In which precision a network runs: bfloat16 where the processor computes in it, float32 elsewhere."""

from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 when the device has arithmetic for it, else float32.

    A processor without such arithmetic emulates it, several times slower than float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32


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
