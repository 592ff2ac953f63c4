"""torch as it says itself in another process, and what the doctor makes of it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from findings import the_one

from prostate_alm.doctor.hardware import check_hardware, in_words
from prostate_alm.dtype import fastest_dtype


def test_torch_is_asked_in_its_own_process() -> None:
    found = {one.check: one for one in check_hardware(timeout_s=120)}
    assert found["torch"].found.startswith(torch.__version__)
    native = fastest_dtype(torch.device("cpu")) == torch.bfloat16
    assert f"processor: {'yes' if native else 'no'}" in found["bfloat16"].found
    assert (found["cuda"].level == "ok") == torch.cuda.is_available()
    assert found["convolutions"].level in ("ok", "note")  # how fast they are is the processor's; right they must be


@pytest.mark.parametrize(
    ("dtype", "times_as_fast", "error", "level"),
    [
        ("torch.bfloat16", 1.5, 0.003, "ok"),
        ("torch.bfloat16", 0.2, 0.003, "note"),
        ("torch.float32", 0.2, 0.003, "ok"),  # emulated, and so not used
        ("torch.bfloat16", 1.5, 0.19, "problem"),
    ],
)
def test_bfloat16_is_doubted_where_it_is_wrong_or_slow(
    dtype: str, times_as_fast: float, error: float, level: str
) -> None:
    compared = {"2D": {"times_as_fast": 2.0, "error": 0.003}, "3D": {"times_as_fast": times_as_fast, "error": error}}
    described = {"torch": "2.8.0", "threads": 2, "cpu_dtype": dtype, "gpus": [], "built_for": None}
    found = in_words(described | {"convolutions": compared}, has_driver=False)
    assert {one.check: one.level for one in found}["convolutions"] == level


def test_torch_that_is_slow_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert the_one(check_hardware(timeout_s=0.01)).level == "note"
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = the_one(check_hardware(timeout_s=120))
    assert (found.level, found.found.endswith("libcudart.so.12: cannot open shared object file")) == ("problem", True)


GPU = {"name": "A", "capability": "9.0", "free_gb": 70.0, "total_gb": 80.0, "dtype": "torch.bfloat16"}


@pytest.mark.parametrize(
    ("described", "has_driver", "level", "words"),
    [
        ({"gpus": [GPU], "built_for": "12.8"}, True, "ok", "A, 70.0 of 80.0 GB free, compute capability 9.0"),
        ({"gpus": [{"name": "A", "error": "no kernel image"}]}, True, "problem", "cannot compute: no kernel image"),
        ({"built_for": "12.8"}, True, "problem", "built for 12.8, finds no GPU"),
        ({"built_for": None}, True, "note", "built for processors only"),
        ({"built_for": "12.8"}, False, "note", "no GPU"),
    ],
)
def test_a_gpu_that_is_there_must_be_usable(
    described: Mapping[str, object], has_driver: bool, level: str, words: str
) -> None:
    usual = {"torch": "2.8.0", "threads": 2, "cpu_dtype": "torch.float32", "gpus": [], "built_for": None}
    found = {one.check: one for one in in_words({**usual, **described}, has_driver=has_driver)}
    assert found["cuda"].level == level
    assert words in found["cuda"].found
    assert "processor: no" in found["bfloat16"].found
    assert ("A: yes" in found["bfloat16"].found) == (level == "ok")
