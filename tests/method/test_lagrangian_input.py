"""ConstrainedLoss as a whole, and what both refuse: every error names argument, rule and value."""

import math

import numpy as np
import pytest
import torch
from printed_term import make_term
from torch import Tensor

from prostate_alm.method.batch import NonFiniteLogitsError
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import make_loss


def make_batch(size=24, seed=0, *, dtype=torch.float64) -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(size) % 3 == 0).long()
    return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype), labels, [f"s{i}" for i in range(size)]


def test_the_constrained_loss_is_the_sum_of_its_parts():
    logits, labels, ids = make_batch()
    base, term = make_loss("s_fl", gamma=2.0), make_term(ids)
    assert ConstrainedLoss(base)(logits, labels, ids) == base(logits, labels)
    expected = base(logits, labels) + make_term(ids)(logits, labels, ids)
    assert ConstrainedLoss(base, term)(logits, labels, ids).item() == pytest.approx(expected.item(), rel=1e-12)
    term.update_multipliers()
    assert len(term.multipliers) == int(labels.sum())


@pytest.mark.parametrize("with_term", [False, True])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_is_reported_with_step_and_ids_and_leaves_the_multipliers(with_term, value):
    term = make_term() if with_term else None
    loss = ConstrainedLoss(make_loss("bce"), term)
    labels, ids = torch.tensor([1, 0, 0]), ["a", "b", "c"]
    for _ in range(2):
        loss(torch.zeros(3), labels, ids)
        if term:
            term.update_multipliers()
    before = term and term.multipliers
    with pytest.raises(NonFiniteLogitsError, match=rf"logits must be finite, got {value} for \['b'\] at step 2"):
        loss(torch.tensor([0.0, value, 0.0]), labels, ids)
    if term:
        term.update_multipliers()
        assert term.multipliers == before


def test_a_violation_that_overflows_is_not_folded_into_the_multipliers():
    term = make_term()
    with pytest.raises(NonFiniteLogitsError, match="violations must be finite, got inf at step 0"):
        term(torch.tensor([-3e38, 3e38]), torch.tensor([1, 0]), ["a", "n"])
    term.update_multipliers()
    assert term.multipliers == {}


@pytest.mark.parametrize(
    ("logits", "labels", "ids", "error", "message"),
    [
        ([0.0, 0.0], [0, 2], ["a", "b"], ValueError, r"labels must be 0 or 1, got \[2\] in a batch"),
        ([0.0, 0.0], [0.5, 1.0], ["a", "b"], ValueError, r"labels must be 0 or 1, got \[0.5\] in a batch"),
        ([0.0, 0.0], [0.0, math.nan], ["a", "b"], ValueError, r"labels must be 0 or 1, got \[nan\] in a batch"),
        ([0.0], [0, 1], ["a", "b"], ValueError, r"logits must have shape \(2,\) or \(2, 1\), .* got \(1,\)"),
        ([0.0, 0.0], [1], ["a", "b"], ValueError, r"labels must have shape \(2,\) or \(2, 1\), .* got \(1,\)"),
        ([0.0, 0.0], [0, 1], ["a"], ValueError, r"logits must have shape \(1,\) or \(1, 1\), .* got \(2,\)"),
        ([[0.0, 0.0]], [1], ["a"], ValueError, r"logits must have shape \(1,\) or \(1, 1\), .* got \(1, 2\)"),
        ([0, 0], [0, 1], ["a", "b"], TypeError, "logits must be of a floating type, got torch.int64"),
        ([0.0], [1], "a", TypeError, "sample_ids must be a list of str or int, got 'a'"),
        ([0.0], [1], [0.5], TypeError, r"sample_ids must be a list of str or int, got \[0.5\]"),
        ([0.0, 0.0], [1, 0], ["x", "a"], ValueError, r"must be one of the 3 given .* got 'x' .* Available: \['a'"),
    ],
)
def test_bad_batches(logits, labels, ids, error, message):
    with pytest.raises(error, match=message):
        make_term()(torch.tensor(logits), torch.tensor(labels), ids)


def test_negatives_need_no_multiplier():
    assert make_term()(torch.zeros(2), torch.tensor([1, 0]), ["a", "unknown"]) > 0


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("margin", -1.0, "finite and >= 0"),
        ("margin", math.inf, "finite and >= 0"),
        ("mu", 0.0, "finite and > 0"),
        ("mu", math.nan, "finite and > 0"),
        ("rho", 0.99, "finite and >= 1"),
        ("rho", math.inf, "finite and >= 1"),
        ("multiplier_max", 0.0, "> 0, or None"),
        ("relaxation", -0.1, "finite and >= 0"),
        ("mu_max", 0.1, "at least mu, 0.2"),
        ("mu_max", math.nan, "> 0, or None"),
        ("auc_tolerance", -0.1, r"in \[0, 1\)"),
        ("auc_tolerance", 1.0, r"in \[0, 1\)"),
        ("auc_patience", 0, "a whole number >= 1"),
        ("auc_patience", 1.5, "a whole number >= 1"),
        ("on", "score", r"one of \['logit', 'probability'\]"),
        ("reduction", "none", r"one of \['sum', 'mean'\]"),
    ],
)
def test_parameters_out_of_range(name, value, rule):
    with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value!r} in AugmentedLagrangian"):
        make_term(**{name: value})


def test_the_closed_ends_of_the_ranges_are_allowed():
    term = make_term(margin=0.0, rho=1.0, auc_tolerance=0.0, auc_patience=1, mu_max=0.2)
    assert "margin=0.0, mu=0.2, rho=1.0" in repr(term)


def test_sample_ids_must_be_unique_strings():
    with pytest.raises(ValueError, match=r"sample_ids must be unique, got \['a'\] more than once"):
        make_term(["a", "b", "a"])
    with pytest.raises(TypeError, match="sample_ids must be a list of str or int, got 'abc'"):
        make_term("abc")
    with pytest.raises(TypeError, match="sample_ids must be a list of str or int"):
        make_term([1.0, 2.0])


@pytest.mark.parametrize("ids", [torch.tensor([4, 9, 5]), np.array([4, 9, 5]), [4, 9, 5]])
def test_numbers_that_loaders_give_are_ids(ids):
    term, named = AugmentedLagrangian(range(10)), AugmentedLagrangian([str(one) for one in range(10)])
    logits, labels = torch.tensor([0.5, -1.0, 0.25]), torch.tensor([1, 0, 1])
    assert term(logits, labels, ids) == named(logits, labels, ["4", "9", "5"])
    for one in (term, named):
        one.update_multipliers()
    assert term.state_dict() == named.state_dict()
    assert set(term.multipliers) == {"4", "5"}


@pytest.mark.parametrize(
    ("logits", "labels", "found"),
    [
        (np.zeros(2, np.float32), torch.tensor([1, 0]), "logits must be a torch.Tensor, got numpy.ndarray"),
        (torch.zeros(2), np.array([1, 0]), "labels must be a torch.Tensor, got numpy.ndarray"),
        (torch.zeros(2), [1, 0], "labels must be a torch.Tensor, got list"),
    ],
)
def test_what_is_no_tensor_is_named(logits, labels, found):
    with pytest.raises(TypeError, match=found):
        make_term()(logits, labels, ["a", "b"])
