"""The constraint against a naive double loop, the paper's toy example, autograd's checks and its invariances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prostate_alm.method import constraint
from prostate_alm.method.constraint import ranking_violation, violation_per_positive

TOY = json.loads((Path(__file__).parents[1] / "golden" / "toy_example.json").read_text())
PATHS = pytest.mark.parametrize("pairwise_limit", [10**9, -1], ids=["pairwise", "sorted"])


@pytest.fixture
def path(monkeypatch, pairwise_limit):
    monkeypatch.setattr(constraint, "_PAIRWISE_LIMIT", pairwise_limit)


def double_loop(positive, negative, *, margin, weight=None):
    weight = [1.0] * len(negative) if weight is None else weight
    return [sum(w * max(0.0, margin - (f - g)) for g, w in zip(negative, weight, strict=True)) for f in positive]


def scores(*values, dtype=torch.float64, grad=True) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=grad)


def draw(size, seed, *, dtype=torch.float64) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


# Multiples of 1/4 in a small range make ties, also with the margin, and are exact in every type.
QUARTERS = st.integers(-12, 12).map(lambda value: value / 4)


@pytest.mark.parametrize("limit", [10**9, -1])
@settings(max_examples=120, deadline=None)
@given(
    positive=st.lists(QUARTERS, max_size=12),
    negative=st.lists(QUARTERS, max_size=12),
    margin=st.integers(0, 8).map(lambda value: value / 4),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_equals_the_double_loop_for_all_sizes_ties_and_types(limit, positive, negative, margin, dtype):
    original = constraint._PAIRWISE_LIMIT
    constraint._PAIRWISE_LIMIT = limit if positive and negative else original
    try:
        q = ranking_violation(
            scores(*positive, dtype=dtype), scores(*negative, dtype=dtype), margin=margin, per="positive"
        )
        mirrored = ranking_violation(
            scores(*positive, dtype=dtype), scores(*negative, dtype=dtype), margin=margin, per="negative"
        )
    finally:
        constraint._PAIRWISE_LIMIT = original
    assert q.dtype == dtype
    expected = torch.tensor(double_loop(positive, negative, margin=margin)).to(dtype)
    torch.testing.assert_close(q.detach(), expected, rtol=0, atol=0)
    swapped = double_loop([-g for g in negative], [-f for f in positive], margin=margin)
    torch.testing.assert_close(mirrored.detach(), torch.tensor(swapped).to(dtype), rtol=0, atol=0)


@PATHS
def test_gradient_at_a_kink_is_that_of_relu(path):
    positive, negative = scores(1.0, 0.0), scores(0.0, -1.0)
    ranking_violation(positive, negative, margin=1.0).sum().backward()
    # The pairs (1, 0) and (0, -1) meet the margin exactly; only (0, 0) violates it.
    assert positive.grad.tolist() == [0.0, -1.0]
    assert negative.grad.tolist() == [1.0, 0.0]


@PATHS
@pytest.mark.parametrize("per", ["positive", "negative"])
def test_gradient_equals_that_of_the_broadcast_form(path, per):
    positive, negative = draw(40, 0).requires_grad_(), draw(300, 1).requires_grad_()
    outer = draw(40 if per == "positive" else 300, 2)
    (ranking_violation(positive, negative, margin=1.0, per=per) * outer).sum().backward()
    p, n = positive.detach().requires_grad_(), negative.detach().requires_grad_()
    pairs = torch.relu(1.0 - (p[:, None] - n[None, :]))
    (pairs.sum(1 if per == "positive" else 0) * outer).sum().backward()
    torch.testing.assert_close(positive.grad, p.grad)
    torch.testing.assert_close(negative.grad, n.grad)


@PATHS
@pytest.mark.parametrize("per", ["positive", "negative", "pair"])
def test_gradcheck_and_its_gradient(path, per):
    positive, negative = draw(6, 3).requires_grad_(), draw(9, 4).requires_grad_()

    def squared(p, n):
        return ranking_violation(p, n, margin=0.7, per=per).square()

    assert torch.autograd.gradcheck(squared, (positive, negative))
    assert torch.autograd.gradgradcheck(squared, (positive, negative))


@PATHS
def test_weights_count_a_negative_in_parts(path):
    positive, negative, weight = draw(5, 5), draw(8, 6), draw(8, 7).abs()
    q = violation_per_positive(positive, negative, margin=0.5, weight=weight)
    expected = double_loop(positive.tolist(), negative.tolist(), margin=0.5, weight=weight.tolist())
    np.testing.assert_allclose(q.numpy(), expected, rtol=1e-12)
    leaves = (positive.requires_grad_(), negative.requires_grad_())
    assert torch.autograd.gradcheck(lambda p, n: violation_per_positive(p, n, margin=0.5, weight=weight), leaves)


@PATHS
def test_every_violated_positive_receives_gradient(path):
    """In the authors' public code only the last positive of a batch does."""
    positive, negative = scores(0.0, -0.5, 0.3, -2.0), scores(0.1, 0.2)
    ranking_violation(positive, negative, margin=1.0).square().sum().backward()
    assert (positive.grad < 0).all()
    assert (negative.grad > 0).all()


@pytest.mark.parametrize("per", ["positive", "negative", "pair"])
@pytest.mark.parametrize("colour", ["green", "red"])
def test_the_six_numbers_of_the_toy_example(per, colour):
    def squares_and_sum(order: str) -> tuple[float, float]:
        place = dict(enumerate(order))
        positive = [float(i) for i, kind in place.items() if kind == "P"]
        negative = [float(i) for i, kind in place.items() if kind == "N"]
        q = ranking_violation(scores(*positive), scores(*negative), margin=0.0, per=per)
        return q.square().sum().item(), q.sum().item()

    order = list(TOY["order"])
    left, right = TOY["swaps"][colour]
    order[left], order[right] = order[right], order[left]
    before, after = squares_and_sum(TOY["order"]), squares_and_sum("".join(order))
    expected = TOY["decrease"][per][colour]
    assert before[0] - after[0] == expected["half"]
    assert before[1] - after[1] == expected["linear"]


@PATHS
def test_invariances(path):
    positive, negative = draw(30, 8), draw(70, 9)
    q = ranking_violation(positive, negative, margin=1.5)
    shuffle, other = torch.randperm(30), torch.randperm(70)
    torch.testing.assert_close(ranking_violation(positive[shuffle], negative[other], margin=1.5), q[shuffle])
    torch.testing.assert_close(ranking_violation(positive + 100.0, negative + 100.0, margin=1.5), q)
    torch.testing.assert_close(ranking_violation(positive * 3.0, negative * 3.0, margin=4.5), q * 3.0)
    pairs = ranking_violation(positive, negative, margin=1.5, per="pair")
    assert pairs.shape == (30, 70)
    torch.testing.assert_close(pairs.sum(1), q)
    torch.testing.assert_close(pairs.sum(0), ranking_violation(positive, negative, margin=1.5, per="negative"))


@PATHS
def test_float32_sums_are_as_good_as_float64_under_a_large_offset(path):
    positive, negative = draw(200, 10, dtype=torch.float32) + 1e4, draw(5000, 11, dtype=torch.float32) + 1e4
    q = ranking_violation(positive, negative, margin=1.0)
    exact = ranking_violation(positive.double(), negative.double(), margin=1.0)
    torch.testing.assert_close(q.double(), exact, rtol=2e-7, atol=0)


@PATHS
def test_sums_are_rounded_once(path):
    """Multiples of 2^-10 below 2^10 have exact differences in float32; only the sum may round, and at the end."""
    negative = torch.randint(0, 2**20, (9000,), generator=torch.Generator().manual_seed(16)) / 1024
    positive = torch.arange(0, 1000, 7.0)
    q = ranking_violation(positive, negative, margin=1.0)
    exact = torch.relu(negative.double() - positive.double()[:, None] + 1.0).sum(1)
    assert torch.equal(q, exact.float())


def test_both_forms_meet_where_the_faster_one_changes():
    limit = constraint._PAIRWISE_LIMIT
    positive, negative = draw(100, 12), draw(limit // 100 + 1, 13)  # one column over the limit
    both = ranking_violation(positive, negative, margin=1.0)
    pairs = ranking_violation(positive, negative, margin=1.0, per="pair").sum(1)
    torch.testing.assert_close(both, pairs)


@pytest.mark.parametrize("per", ["positive", "negative", "pair"])
@pytest.mark.parametrize(("p", "n"), [(0, 0), (0, 3), (3, 0)])
def test_empty_classes_have_zero_violation_and_gradient(per, p, n):
    positive, negative = torch.ones(p, requires_grad=True), torch.zeros(n, requires_grad=True)
    q = ranking_violation(positive, negative, margin=1.0, per=per)
    assert q.shape == {"positive": (p,), "negative": (n,), "pair": (p, n)}[per]
    assert not q.any()
    q.sum().backward()
    assert not positive.grad.any()
    assert not negative.grad.any()


@PATHS
def test_constant_scores_violate_by_the_margin_times_the_negatives(path):
    q = ranking_violation(torch.full((3,), 7.0), torch.full((5,), 7.0), margin=2.0)
    assert q.tolist() == [10.0] * 3


def test_the_input_is_not_modified():
    positive, negative = draw(500, 14), draw(500, 15)
    copies = positive.clone(), negative.clone()
    ranking_violation(positive, negative, margin=1.0)
    assert torch.equal(positive, copies[0])
    assert torch.equal(negative, copies[1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["positive", "negative"])
def test_scores_that_are_not_finite_are_named(name, value):
    given_scores = {"positive": torch.zeros(3), "negative": torch.zeros(3)}
    given_scores[name][1] = value
    with pytest.raises(ValueError, match=rf"{name} must be finite, got {value} at index 1"):
        ranking_violation(**given_scores, margin=1.0)


def test_large_finite_scores_are_no_infinities():
    largest = torch.finfo(torch.float16).max
    positive = torch.full((3,), largest, dtype=torch.float16)  # their sum overflows float16
    assert not ranking_violation(positive, torch.zeros(2, dtype=torch.float16), margin=1.0).any()


@pytest.mark.parametrize("margin", [-0.1, float("nan"), float("inf")])
def test_margin_out_of_range(margin):
    with pytest.raises(ValueError, match="margin must be finite and >= 0, got"):
        ranking_violation(torch.zeros(1), torch.zeros(1), margin=margin)


def test_wrong_shapes_types_and_names():
    zeros = torch.zeros(2)
    with pytest.raises(ValueError, match=r"negative must be 1-D, got shape \(2, 1\)"):
        ranking_violation(zeros, zeros[:, None], margin=1.0)
    with pytest.raises(TypeError, match=r"positive must be of a floating type, got torch.int64"):
        ranking_violation(zeros.long(), zeros, margin=1.0)
    with pytest.raises(TypeError, match=r"negative must be of the type of positive, torch.float32, got"):
        ranking_violation(zeros, zeros.double(), margin=1.0)
    with pytest.raises(ValueError, match=r"per must be one of \['positive', 'negative', 'pair'\], got 'sample'"):
        ranking_violation(zeros, zeros, margin=1.0, per="sample")
