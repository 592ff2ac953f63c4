from pathlib import Path

import pytest
import torch
from torch import nn

from prostate_alm.dtype import fastest_dtype
from prostate_alm.training.networks import CascadeNet
from prostate_alm.training.precision import AutocastInferer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return CascadeNet(3, (1, 3), features=(4, 8), pooling=((2, 2, 1), (2, 2, 2)))


def test_float32_is_the_network_itself(network: nn.Module) -> None:
    image = torch.randn(2, 4, 16, 16, 8)
    assert torch.equal(AutocastInferer(CPU, torch.float32)(image, network), network(image))


def test_bfloat16_agrees_to_its_8_bits_and_trains_float32_weights(network: nn.Module) -> None:
    image = torch.randn(2, 4, 16, 16, 8)
    logits = AutocastInferer(CPU, torch.bfloat16)(image, network)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, network(image))  # it did run in another precision
    torch.testing.assert_close(logits, network(image), rtol=0.05, atol=0.05)
    logits.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())


def test_bfloat16_is_chosen_only_with_arithmetic_for_it() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        pytest.skip("no /proc/cpuinfo to ask on this system")
    flags = cpuinfo.read_text()
    expected = torch.bfloat16 if "amx_bf16" in flags or "avx512_bf16" in flags else torch.float32
    assert fastest_dtype(CPU) == expected


def test_close_samples_do_not_tie_in_bfloat16(network: nn.Module) -> None:
    # logits of 8 bits would: over [1, 2) they have 128 values, and a ranking needs more
    image = torch.randn(1, 4, 16, 16, 8) * torch.linspace(1, 1.2, 300)[:, None, None, None, None]
    logits = AutocastInferer(CPU, torch.bfloat16)(image, network)
    assert len(logits.unique()) > 250
