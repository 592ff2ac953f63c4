"""In which precision a device computes fastest; apart from what needs MONAI, so that it can be asked at once."""

import torch


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 when the device has arithmetic for it, else float32.

    A processor without such arithmetic emulates it, several times slower than float32.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32
