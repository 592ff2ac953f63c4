"""Run as a program: what torch says of this machine, a line of JSON for what is known at once and one for the rest.

In its own process, as torch may be broken or slow.
"""

import json
import sys
from typing import Any

import torch

from prostate_alm.doctor.convolutions import compare_convolutions
from prostate_alm.training.dtype import fastest_dtype


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
