"""The diagnostics of known numbers, and the ratio of the gradient norms against autograd."""

import math

import numpy as np
import pytest
import torch
from printed_term import make_term
from torch import Tensor

from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.method.losses import make_loss


def make_batch(size=24, seed=0, *, dtype=torch.float64) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(size) % 3 == 0).long()
    return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype), labels, [f"s{i}" for i in range(size)]


def test_diagnostics_of_known_numbers():
    term = make_term(list("abcd"))
    labels = torch.tensor([1, 1, 0])
    term(torch.tensor([0.0, 5.0, 0.5]), labels, ["a", "b", "n"])  # q 1.5 and 0
    term.update_multipliers()
    term(torch.tensor([0.0, -1.0, 0.0]), labels, ["c", "d", "n"])  # q 1 and 2
    term.update_multipliers()
    found = term.diagnostics()
    assert (found.violated_share, found.q_max, found.mu) == (0.75, 2.0, 0.2)
    assert found.q_mean == pytest.approx(4.5 / 4)
    assert found.multiplier_quantiles == pytest.approx(np.quantile([0.3, 0.0, 0.2, 0.4], [0.5, 0.9, 1.0]))
    assert math.isnan(found.gradient_ratio)
    assert found.advice == "active"
    term.reset_diagnostics()
    assert term.diagnostics().q_mean == 0.0
    assert term.diagnostics().advice == "inactive"


@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_ratio_of_the_gradient_norms(accumulated):
    logits, labels, ids = make_batch()
    term = make_term(ids)
    loss = ConstrainedLoss(make_loss("bce"), term)
    leaf = logits.clone().requires_grad_()
    for _ in range(accumulated):
        (loss(leaf, labels, ids) / accumulated).backward()
    parts = []
    for part in (make_loss("bce"), lambda z, y: make_term(ids)(z, y, ids)):
        z = logits.clone().requires_grad_()
        parts.append(torch.autograd.grad(part(z, labels), z)[0])
    assert term.diagnostics().gradient_ratio == pytest.approx(float(parts[1].norm() / parts[0].norm()), rel=1e-9)
    torch.testing.assert_close(leaf.grad, parts[0] + parts[1])


@pytest.mark.parametrize(
    ("gap", "scale", "advice"), [(5.0, 1.0, "inactive"), (0.5, 1.0, "active"), (-2.0, 500.0, "dominating")]
)
def test_one_word_of_advice(gap, scale, advice):
    term = make_term(mu=0.2 * scale)
    logits = torch.tensor([gap, 0.0], requires_grad=True)
    ConstrainedLoss(make_loss("bce"), term)(logits, torch.tensor([1, 0]), ["a", "n"]).backward()
    assert term.diagnostics().advice == advice
