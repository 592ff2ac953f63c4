"""The constraint on lesions against naive double loops over voxels, and what it must not depend on."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.lesions import (
    LesionConstraint,
    background,
    case_logits,
    lesion_auc,
    lesion_batch,
    lesion_id,
    lesion_scores,
)
from prostate_alm.method.losses import make_loss

SHAPE = (3, 1, 7, 6, 5)
IDS = ["a", "b", "c"]
LESIONS = ["a/lesion-1", "a/lesion-2", "b/lesion-7"]


def case_of_three(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return maps and lesions: two whole ones and a cut one in a, one in b, none in c."""
    maps = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lesions = torch.zeros(SHAPE, dtype=torch.int64)
    lesions[0, 0, :2, :2, :2] = 1
    lesions[0, 0, 5:, 4:, 3:] = 2
    lesions[0, 0, 3, 0, 0] = -1
    lesions[1, 0, 2:5, 3, 1:4] = 7
    return maps, lesions


def neighbours(place: tuple[int, int, int], rim: int) -> list[tuple[int, int, int]]:
    span = range(-rim, rim + 1)
    moved = [(place[0] + i, place[1] + j, place[2] + k) for i in span for j in span for k in span]
    return [one for one in moved if all(0 <= x < size for x, size in zip(one, SHAPE[2:], strict=True))]


def naive(
    maps: Tensor, lesions: Tensor, *, temperature: float, rim: int, margin: float
) -> tuple[dict[str, float], dict[str, float], int]:
    """Return s and q of each lesion and the number of negatives, by loops over voxels."""
    places = [(x, y, z) for x in range(SHAPE[2]) for y in range(SHAPE[3]) for z in range(SHAPE[4])]
    inside: dict[str, list[float]] = {}
    negatives: list[float] = []
    for row, name in enumerate(IDS):
        for place in places:
            number = int(lesions[(row, 0, *place)])
            if number > 0:
                inside.setdefault(f"{name}/lesion-{number}", []).append(float(maps[(row, 0, *place)]))
            elif all(int(lesions[(row, 0, *near)]) == 0 for near in neighbours(place, rim)):
                negatives.append(float(maps[(row, 0, *place)]))
    scores = {
        key: temperature * math.log(sum(math.exp(z / temperature) for z in values) / len(values))
        for key, values in inside.items()
    }
    violations = {key: sum(max(0.0, margin - (s - z)) for z in negatives) for key, s in scores.items()}
    return scores, violations, len(negatives)


@pytest.mark.parametrize("rim", [0, 1, 2])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
def test_scores_and_term_are_those_of_the_loops(temperature: float, rim: int) -> None:
    maps, lesions = case_of_three()
    scores, violations, negatives = naive(maps, lesions, temperature=temperature, rim=rim, margin=1.0)
    batch = lesion_batch(maps, lesions, IDS, temperature=temperature, rim_voxels=rim)
    assert batch.unnamed is not None
    assert dict(zip(batch.keys, batch.logits.tolist(), strict=True)) == pytest.approx(scores)
    assert len(batch.unnamed) == negatives
    term = LesionConstraint(
        LESIONS, temperature=temperature, rim_voxels=rim, mu=0.7, multiplier_max=None, relaxation=0.0
    )
    for step in range(2):  # the second step has multipliers
        r = {key: q / negatives for key, q in violations.items()}
        expected = sum(0.7 * x**2 / 2 + step * 0.7 * x * x for x in r.values()) / len(r)
        assert term(maps, lesions, IDS).item() == pytest.approx(expected)
        term.update_multipliers()
    assert term.term.multipliers == pytest.approx({key: 2 * 0.7 * x for key, x in r.items()})
    assert term.term.diagnostics().q_max == pytest.approx(max(r.values()))


def test_the_gradient_is_that_of_finite_differences() -> None:
    maps, lesions = case_of_three()
    term = LesionConstraint(LESIONS, mu=0.7).eval()
    assert torch.autograd.gradcheck(lambda one: term(one, lesions, IDS), maps.requires_grad_())


def test_the_term_is_the_binary_one_where_a_lesion_is_a_voxel() -> None:
    logits = torch.tensor([0.3, 1.2, -0.4, 0.9])
    binary = AugmentedLagrangian(["a/lesion-1", "b/lesion-1"])
    expected = binary(logits, torch.tensor([1, 0, 1, 0]), ["a/lesion-1", "n", "b/lesion-1", "m"])
    maps, lesions = logits.view(2, 1, 2, 1, 1), torch.tensor([1, 0, 1, 0]).view(2, 1, 2, 1, 1)
    term = LesionConstraint(["a/lesion-1", "b/lesion-1"], rim_voxels=0)
    torch.testing.assert_close(term(maps, lesions, ["a", "b"]), expected)


def test_the_soft_maximum_lies_between_its_bounds_and_moves_with_an_offset() -> None:
    maps, lesions = case_of_three()
    inside = maps[1][lesions[1] == 7]
    for temperature in (0.05, 0.5, 5.0):
        score = lesion_scores(maps, lesions, temperature=temperature)[0][2]
        assert inside.max() - temperature * math.log(len(inside)) <= score <= inside.max()
        moved = lesion_scores(maps + 3, lesions, temperature=temperature)[0][2]
        torch.testing.assert_close(moved, score + 3)
        case = case_logits(maps, temperature=temperature)[1, 0]
        assert maps[1].max() <= case <= maps[1].max() + temperature * math.log(maps[1].numel())
    assert lesion_scores(maps, lesions, temperature=1e6)[0][2].item() == pytest.approx(inside.mean().item(), abs=1e-5)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_large_logits_stay_finite(logit: float) -> None:
    maps, lesions = torch.full(SHAPE, logit).requires_grad_(), case_of_three()[1]
    scores, _ = lesion_scores(maps, lesions, temperature=0.5)
    torch.testing.assert_close(scores, torch.full((3,), logit))
    scores.sum().backward()
    assert maps.grad is not None
    torch.testing.assert_close(maps.grad.sum(), torch.tensor(3.0))  # each score moves as its voxels do


def test_cut_lesions_and_cases_without_lesions() -> None:
    maps, lesions = case_of_three()
    term = LesionConstraint(LESIONS)
    none = torch.zeros_like(lesions)
    maps.requires_grad_()
    value = term(maps, none, IDS)
    value.backward()  # reaches the network
    assert value.item() == 0
    assert maps.grad is not None
    assert not maps.grad.any()
    term(maps, torch.where(lesions == 7, -1, lesions), IDS)
    term.update_multipliers()
    assert set(term.term.multipliers) <= {"a/lesion-1", "a/lesion-2"}  # the one of b is cut now
    assert not background(lesions, rim_voxels=1)[0, 0, 3, 0, 1]
    assert background(lesions, rim_voxels=1)[2].all()


def test_a_permutation_of_the_cases_changes_no_multiplier() -> None:
    maps, lesions = case_of_three()
    order = torch.tensor([2, 0, 1])
    first, second = LesionConstraint(LESIONS), LesionConstraint(LESIONS)
    one = first(maps, lesions, IDS)
    two = second(maps[order], lesions[order], [IDS[row] for row in order.tolist()])
    torch.testing.assert_close(one, two)
    for term in (first, second):
        term.update_multipliers()
    assert first.term.multipliers == pytest.approx(second.term.multipliers)


def test_a_lesion_in_two_rows_is_one_constraint() -> None:
    maps, lesions = case_of_three()
    twice = ConstrainedLoss(make_loss("bce"), LesionConstraint(LESIONS)).term
    assert twice is not None
    once = LesionConstraint(LESIONS)
    value = once(maps, lesions, IDS)
    both = twice.of_batch(twice.join(torch.cat([maps, maps]), torch.cat([lesions, lesions]), IDS + IDS))
    torch.testing.assert_close(both, value)


def test_the_state_goes_on_bit_for_bit() -> None:
    def steps(term: LesionConstraint, seeds: range) -> None:
        for seed in seeds:
            maps, lesions = case_of_three(seed)
            term(maps, lesions, IDS)
            term.update_multipliers()
            term.term.observe_validation(0.5 + 0.4 * (seed % 2))

    whole, half, rest = (LesionConstraint(LESIONS) for _ in range(3))
    steps(whole, range(20))
    steps(half, range(10))
    rest.load_state_dict(half.state_dict())
    steps(rest, range(10, 20))
    assert whole.state_dict() == rest.state_dict()


def test_lesion_auc_is_the_share_of_pairs() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 9, (6,), generator=random).double()
    negative = torch.randint(0, 9, (50,), generator=random).double()
    pairs = [float(s > z) + 0.5 * float(s == z) for s in scores for z in negative]
    assert lesion_auc(scores.tolist(), negative) == pytest.approx(sum(pairs) / len(pairs))


def test_the_id_of_a_lesion() -> None:
    assert lesion_id("study", 2) == "study/lesion-2"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"logits": torch.zeros(3, 7, 6, 5)}, ValueError, r"must have shape \(3, 1, X, Y, Z\), one map for each"),
        ({"logits": torch.zeros(SHAPE, dtype=torch.int64)}, TypeError, "logits must be of a floating type"),
        ({"lesions": torch.zeros(SHAPE)}, TypeError, "lesions must be of an integer type, got torch.float32"),
        ({"lesions": torch.full(SHAPE, -2)}, ValueError, "lesions must be -1, 0 or a number from 1, got -2"),
        ({"study_ids": ["a", "b"]}, ValueError, r"must have shape \(2, 1, X, Y, Z\)"),
        ({"study_ids": ["a", "d", "c"]}, ValueError, "the id of a positive must be one of .*, got 'd/lesion-7'"),
        ({"logits": torch.full(SHAPE, math.nan)}, ValueError, r"logits must be finite, got nan for \['a', 'b', 'c'\]"),
    ],
)
def test_a_wrong_batch_is_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    maps, lesions = case_of_three()
    with pytest.raises(error, match=message):
        LesionConstraint(LESIONS)(**{"logits": maps, "lesions": lesions, "study_ids": IDS} | given)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"temperature": 0.0}, "temperature must be finite and > 0, got 0.0"),
        ({"rim_voxels": -1}, "rim_voxels must be a whole number >= 0, got -1"),
        ({"mu": 0.0}, "mu must be finite and > 0"),
    ],
)
def test_a_parameter_out_of_range_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LesionConstraint(LESIONS, **parameters)
