"""What the program that asks torch says, beside torch itself and what rounding to eight bits can do."""

import json
import subprocess
import sys

import torch

from prostate_alm.doctor.probe import compare_convolutions, describe

ROUNDING = 2**-8  # of a bfloat16, relative


def test_convolutions_in_bfloat16_differ_by_their_rounding() -> None:
    threads = torch.get_num_threads()
    compared = compare_convolutions()
    assert torch.get_num_threads() == threads
    assert list(compared) == ["2D", "3D"]
    for one in compared.values():
        assert ROUNDING / 8 < one["error"] < 4 * ROUNDING
        assert one["times_as_fast"] > 0


def test_what_it_prints_is_what_torch_says() -> None:
    program = [sys.executable, "-m", "prostate_alm.doctor.probe"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first == json.loads(json.dumps(describe())) | {"gpus": first["gpus"]}  # their free memory moves
    assert len(first["gpus"]) == torch.cuda.device_count()
    assert first["torch"] == torch.__version__
    assert set(second) == {"convolutions"}
