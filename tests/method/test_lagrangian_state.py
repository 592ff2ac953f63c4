"""λ, μ and the counters survive saving, whatever the order of the samples; what makes μ rise."""

import copy
import io
import math

import pytest
import torch
from printed_term import make_term
from torch import Tensor, nn

from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.method.losses import make_loss


def make_batch(size=24, seed=0, *, dtype=torch.float64) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(size) % 3 == 0).long()
    return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype), labels, [f"s{i}" for i in range(size)]


def train(network, loss, optimizer, steps: range):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randperm(60, generator=generator)[:20]
        x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))[rows]
        optimizer.zero_grad()
        loss(network(x), (rows % 4 == 0).long(), [f"s{row}" for row in rows]).backward()
        optimizer.step()
        loss.term.update_multipliers()
        if step % 7 == 6:
            loss.term.observe_validation(0.5 + 0.4 * math.sin(step))


def make_training():
    torch.manual_seed(1)
    network = nn.Linear(5, 1)
    term = make_term([f"s{i}" for i in range(60)], auc_patience=2, multiplier_max=3.0)
    return (
        network,
        ConstrainedLoss(make_loss("bce"), term),
        torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9),
    )


def test_200_steps_are_100_saved_loaded_and_100_bit_for_bit():
    """The authors' public code loses λ and μ on resumption."""
    whole = make_training()
    train(*whole, range(200))

    half = make_training()
    train(*half, range(100))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in half], file)
    file.seek(0)
    resumed = make_training()
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    train(*resumed, range(100, 200))

    assert whole[1].term.mu > 0.2
    assert whole[1].term.multipliers == resumed[1].term.multipliers
    assert whole[1].state_dict() == resumed[1].state_dict()
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), resumed[0].parameters(), strict=True))


def test_state_follows_the_ids_and_not_their_order():
    logits, labels, ids = make_batch()
    term = make_term(ids)
    term(logits, labels, ids)
    term.update_multipliers()
    other = make_term([*ids[::-1], "new"])
    other.load_state_dict(copy.deepcopy(term.state_dict()))
    assert other.multipliers == term.multipliers
    assert make_term(ids).multipliers == {}


def test_state_of_other_samples_or_of_something_else_is_refused():
    term = make_term()
    term(torch.zeros(2), torch.tensor([1, 0]), ["a", "n"])
    term.update_multipliers()
    with pytest.raises(ValueError, match=r"the id of a positive must be one of the 2 given .* got 'a'"):
        make_term(["b", "c"]).load_state_dict(term.state_dict())
    with pytest.raises(ValueError, match=r"the state must have the keys \['multipliers', 'mu'"):
        term.load_state_dict({"_extra_state": {"mu": 1.0}})


def test_a_state_is_no_view_of_the_living_multipliers():
    def one_step(term):
        term(torch.zeros(2), torch.tensor([1, 0]), ["a", "n"])
        term.update_multipliers()

    term, other = make_term(), make_term()
    state = term.state_dict()
    one_step(term)
    assert state["_extra_state"]["multipliers"] == {}
    other.load_state_dict(state)
    one_step(other)
    assert state["_extra_state"]["multipliers"] == {}
    assert other.multipliers == term.multipliers


# --- the rule of μ ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "aucs", "rises"),
    [
        ({}, [0.9, 0.8, 0.8, 0.85, 0.84, 0.83], [0, 1, 0, 0, 1, 1]),  # the paper: any fall against the one before
        ({"auc_tolerance": 0.05}, [0.9, 0.86, 0.80, 0.85, 0.7], [0, 0, 1, 0, 1]),
        ({"auc_patience": 2}, [0.9, 0.8, 0.85, 0.8, 0.9, 0.8, 0.95], [0, 0, 1, 0, 0, 0, 0]),
        ({"auc_patience": 3}, [0.9, 0.8, 0.8, 0.8, 0.7, 0.8, 0.7], [0, 0, 0, 1, 0, 0, 0]),
    ],
)
def test_mu_rises_when_the_validation_auc_falls(changes, aucs, rises):
    term = make_term(mu_max=math.inf, **changes)
    for auc, rise in zip(aucs, rises, strict=True):
        before = term.mu
        assert term.observe_validation(auc) == bool(rise)
        assert term.mu == before * (2.0 if rise else 1.0)


@pytest.mark.parametrize(("changes", "cap"), [({}, 0.2 * 2**3), ({"mu_max": 0.5}, 0.5), ({"mu_max": 0.2}, 0.2)])
def test_the_cap_of_mu(changes, cap):
    term = make_term(**changes)
    rose = [term.observe_validation(1.0 - 0.05 * fall) for fall in range(10)]
    assert term.mu == pytest.approx(cap)
    assert rose[-1] is False


@pytest.mark.parametrize("auc", [math.nan, -0.01, 1.01, 93.0])
def test_an_auc_out_of_range(auc):
    with pytest.raises(ValueError, match=r"auc must be in \[0, 1\], got .* in observe_validation"):
        make_term().observe_validation(auc)
