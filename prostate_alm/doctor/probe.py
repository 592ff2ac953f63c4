"""Run as a program: what torch says of this machine, a line of JSON for what is known at once and one for the rest.

In its own process, as torch may be broken or slow.
"""

import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from prostate_alm.dtype import fastest_dtype

_ROUNDS = 3
_SHAPES: dict[str, tuple[int, ...]] = {"2D": (32, 16, 16, 16), "3D": (4, 16, 20, 20, 10)}
"""Parts of batches as the second layers of the bundles see them."""


class Comparison(TypedDict):
    """Of one convolution forward and backward: how many times as fast bfloat16 is, and its largest relative error."""

    times_as_fast: float
    error: float


def compare_convolutions() -> dict[str, Comparison]:
    """Return how bfloat16 compares with float32 on one thread of the processor, for images and for volumes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: _compare(shape) for name, shape in _SHAPES.items()}
    finally:
        torch.set_num_threads(threads)


def _compare(shape: tuple[int, ...]) -> Comparison:
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    layer = (nn.Conv2d if len(shape) == 4 else nn.Conv3d)(channels, channels, 3, padding=1)
    image, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    exact, exact_s = _best(lambda: _pass(layer, image, gradient, half=False))
    rounded, rounded_s = _best(lambda: _pass(layer, image, gradient, half=True))
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(rounded, exact, strict=True)]
    return {"times_as_fast": exact_s / rounded_s, "error": max(errors)}


def _pass(layer: nn.Module, image: Tensor, gradient: Tensor, *, half: bool) -> list[Tensor]:
    """Return the output, and the gradients of weights and image."""
    layer.zero_grad()
    image = image.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        output = layer(image)
    output.backward(gradient.to(output.dtype))
    weight, seen = layer.get_parameter("weight").grad, image.grad
    return [part.detach().float() for part in (output, weight, seen) if part is not None]


def _best(action: Callable[[], list[Tensor]]) -> tuple[list[Tensor], float]:
    times = []
    for _ in range(_ROUNDS):
        start = perf_counter()
        result = action()
        times.append(perf_counter() - start)
    return result, min(times)


def describe() -> dict[str, Any]:
    """Return versions, the precision of each device, and the GPUs; each GPU has to add two numbers."""
    return {
        "torch": torch.__version__,
        "built_for": torch.version.cuda or torch.version.hip,
        "threads": torch.get_num_threads(),
        "cpu_dtype": str(fastest_dtype(torch.device("cpu"))),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
    }


def _gpu(index: int) -> dict[str, Any]:
    device = torch.device("cuda", index)
    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:  # a build without kernels for this GPU says so here first
        return {"name": torch.cuda.get_device_name(index), "error": str(error).splitlines()[0]}
    free, total = torch.cuda.mem_get_info(index)
    return {
        "name": torch.cuda.get_device_name(index),
        "capability": ".".join(map(str, torch.cuda.get_device_capability(index))),
        "free_gb": free / 1e9,
        "total_gb": total / 1e9,
        "dtype": str(fastest_dtype(device)),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe()) + "\n")
    sys.stdout.flush()
    sys.stdout.write(json.dumps({"convolutions": compare_convolutions()}) + "\n")
