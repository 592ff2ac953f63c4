"""torch, GPU and bfloat16, as torch itself says in another process."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prostate_alm.doctor.findings import Finding

_BFLOAT16_ERROR_MAX = 0.02
"""Relative, of a layer: several times what rounding to 8 bits makes, far below any value that is wrong."""

_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")  # of Linux


def check_hardware(*, timeout_s: float) -> list[Finding]:
    """Say whether torch loads, which GPU it can compute on, and in which precision networks run.

    Args:
        timeout_s: how long torch may take to load.
    """
    try:
        installed = version("torch")
    except PackageNotFoundError:
        return []  # the check of the packages says so
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "prostate_alm.doctor.probe"],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        if late.stdout:  # torch is there, only the convolutions were too slow
            return in_words(_read(late.stdout.decode()), has_driver=has_nvidia_driver())
        found = f"{installed}, did not load within {timeout_s:g} s, so GPU and bfloat16 are not known"
        return [
            Finding(
                "torch",
                "note",
                found,
                "The first start after an installation is slow: run it again when the machine is less busy.",
            )
        ]
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        return [Finding("torch", "problem", f"{installed} cannot be loaded: {reason}", "Install torch again.")]
    return in_words(_read(answer.stdout), has_driver=has_nvidia_driver())


def _read(lines: str) -> dict[str, Any]:
    """Return what the lines of `probe` say together."""
    return {key: value for line in lines.splitlines() for key, value in json.loads(line).items()}


def has_nvidia_driver() -> bool:
    """Whether the driver of an NVIDIA GPU is there, whatever torch can do with it."""
    return _NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi") is not None


def in_words(described: dict[str, Any], *, has_driver: bool) -> list[Finding]:
    """Return findings on torch, GPUs and bfloat16.

    Args:
        described: what `probe` says.
        has_driver: see `has_nvidia_driver`.
    """
    threads = described["threads"]
    torch = Finding("torch", "ok", f"{described['torch']}, {threads} thread{'s' if threads > 1 else ''}")
    gpus = [_gpu(gpu) for gpu in described["gpus"]] or [_no_gpu(described["built_for"], has_driver=has_driver)]
    compared = [_convolutions(described)] if "convolutions" in described else []
    return [torch, *gpus, _precision(described), *compared]


def _gpu(gpu: dict[str, Any]) -> Finding:
    if "error" in gpu:
        advice = "Install a build of torch for this GPU: https://pytorch.org/get-started"
        return Finding("cuda", "problem", f"{gpu['name']} cannot compute: {gpu['error']}", advice)
    memory = f"{gpu['free_gb']:.1f} of {gpu['total_gb']:.1f} GB free"
    return Finding("cuda", "ok", f"{gpu['name']}, {memory}, compute capability {gpu['capability']}")


def _no_gpu(built_for: str | None, *, has_driver: bool) -> Finding:
    if not has_driver:
        return Finding("cuda", "note", "no GPU: training and prediction run on the processor, which is enough for both")
    if built_for is None:
        found = "there is an NVIDIA driver, but this torch is built for processors only"
        return Finding("cuda", "note", found, "For the GPU: https://pytorch.org/get-started")
    found = f"there is an NVIDIA driver, but torch, built for {built_for}, finds no GPU"
    return Finding("cuda", "problem", found, "Compare the driver's version (nvidia-smi) and CUDA_VISIBLE_DEVICES.")


def _precision(described: dict[str, Any]) -> Finding:
    dtypes = {"processor": described["cpu_dtype"]}
    dtypes |= {gpu["name"]: gpu["dtype"] for gpu in described["gpus"] if "dtype" in gpu}
    found = "; ".join(
        f"{device}: {'yes' if dtype == 'torch.bfloat16' else 'no, networks run in float32'}"
        for device, dtype in dtypes.items()
    )
    return Finding("bfloat16", "ok", f"arithmetic of its own in the {found}")


def _convolutions(described: dict[str, Any]) -> Finding:
    """Say how the processor's bfloat16 convolutions compare with float32: 8 bits are an error of 0.3 %."""
    compared = described["convolutions"]
    found = "of bfloat16 against float32 in the processor: " + "; ".join(
        f"{name} {one['times_as_fast']:.1f} times as fast, values to {100 * one['error']:.2g} %"
        for name, one in compared.items()
    )
    if max(one["error"] for one in compared.values()) > _BFLOAT16_ERROR_MAX:
        advice = "They are wrong: train with --precision float32, and try another release of torch."
        return Finding("convolutions", "problem", found, advice)
    is_slow = min(one["times_as_fast"] for one in compared.values()) < 1
    if is_slow and described["cpu_dtype"] == "torch.bfloat16":
        return Finding("convolutions", "note", found, "Try --precision float32: it may be faster on this processor.")
    return Finding("convolutions", "ok", found)
