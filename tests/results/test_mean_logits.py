"""The mean of networks' logits, against a loop."""

import pytest
import torch
from torch import nn

from prostate_alm.results.mean_logits import MeanLogits


def test_it_is_the_mean_over_members_whatever_their_order() -> None:
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(12, 1)) for _ in range(5)]
    images = torch.randn(4, 3, 2, 2)
    expected = sum(member(images) for member in members) / 5
    torch.testing.assert_close(MeanLogits(members)(images), expected)
    torch.testing.assert_close(MeanLogits(members[::-1])(images), expected)


def test_no_members_are_refused() -> None:
    with pytest.raises(ValueError, match="members must be at least one network, got none"):
        MeanLogits([])
