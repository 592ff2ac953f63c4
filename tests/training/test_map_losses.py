"""Base losses of maps against their formulas, computed voxel by voxel in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prostate_alm.training.map_losses import MAP_LOSSES, make_map_loss

SHAPE = (2, 1, 4, 3, 2)


def maps() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    lesions = torch.zeros(SHAPE, dtype=torch.int64)
    lesions[0, 0, :2], lesions[1, 0, 1, 1], lesions[1, 0, 3] = 1, 2, -1
    return 3 * torch.randn(SHAPE, generator=random, dtype=torch.float64), lesions


def voxels() -> list[tuple[float, bool]]:
    logits, lesions = maps()
    pairs = zip(logits.flatten().tolist(), lesions.flatten().tolist(), strict=True)
    return [(1 / (1 + math.exp(-z)), k > 0) for z, k in pairs if k >= 0]


def bce() -> float:
    return sum(-math.log(p if y else 1 - p) for p, y in voxels()) / len(voxels())


def focal(gamma: float) -> float:
    right = [p if y else 1 - p for p, y in voxels()]
    return sum(-((1 - p) ** gamma) * math.log(p) for p in right) / len(right)


def overlap(alpha: float, beta: float) -> float:
    hit = sum(p for p, y in voxels() if y)
    false_positive = sum(p for p, y in voxels() if not y)
    false_negative = sum(1 - p for p, y in voxels() if y)
    return 1 - hit / (hit + alpha * false_positive + beta * false_negative)


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("bce", {}, bce()),
        ("focal", {}, focal(2.0)),
        ("focal", {"gamma": 0.5}, focal(0.5)),
        ("dice_bce", {}, overlap(0.5, 0.5) + bce()),
        ("tversky", {}, overlap(0.3, 0.7)),
        ("tversky", {"alpha": 1.0, "beta": 0.0}, overlap(1.0, 0.0)),
    ],
)
def test_a_loss_is_its_formula_over_the_voxels_that_count(
    name: str, parameters: dict[str, float], expected: float
) -> None:
    logits, lesions = maps()
    assert make_map_loss(name, **parameters)(logits, lesions).item() == pytest.approx(expected, abs=1e-4)
    changed = torch.where(lesions == -1, 50.0, logits)
    assert make_map_loss(name, **parameters)(changed, lesions).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", sorted(MAP_LOSSES))
@pytest.mark.parametrize("number", [0, -1])
def test_maps_without_lesions_or_without_any_voxel_give_finite_gradients(name: str, number: int) -> None:
    logits = maps()[0].float().requires_grad_()
    loss = make_map_loss(name)(logits, torch.full(SHAPE, number))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "parameters", "error", "message"),
    [
        ("dice", {}, ValueError, r"loss must be a known one .*got 'dice'. Available: \['bce', 'focal', 'dice_bce', 't"),
        ("focal", {"gamma": -1.0}, ValueError, "gamma must be finite and >= 0, got -1.0 in focal"),
        ("tversky", {"beta": math.inf}, ValueError, "beta must be finite and >= 0, got inf in tversky"),
        ("bce", {"gamma": 1.0}, TypeError, r"parameters of bce must be \[\], got \['gamma'\]"),
    ],
)
def test_a_fault_of_the_caller_is_told(
    name: str, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_map_loss(name, **parameters)


def my_loss(*, factor: float = 2.0) -> Any:
    return lambda logits, labels: factor * (logits * labels).sum()


def test_a_loss_of_ones_own_gets_the_voxels_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prostate_alm.training.map_losses.my_loss", my_loss, raising=False)
    logits, lesions = maps()
    expected = 2 * logits[lesions > 0].sum()
    torch.testing.assert_close(make_map_loss("prostate_alm.training.map_losses.my_loss")(logits, lesions), expected)
