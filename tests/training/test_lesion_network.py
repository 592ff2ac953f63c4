"""The network of the lesions bundle: shapes, paths, and that it can learn where something is."""

import math

import pytest
import torch

from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.method.lesions import LesionConstraint, lesion_auc, lesion_scores
from prostate_alm.training.lesion_network import DualPathUNet
from prostate_alm.training.map_losses import make_map_loss

STRIDES = ((2, 2, 1), (2, 2, 2))


def network(**changes: object) -> DualPathUNet:
    torch.manual_seed(0)
    return DualPathUNet((1, 3), **{"features": (4, 8), "strides": STRIDES} | changes)


@pytest.mark.parametrize("size", [(16, 16, 8), (18, 14, 9), (10, 12, 5)])
def test_the_map_has_the_voxels_of_the_image(size: tuple[int, int, int]) -> None:
    assert network()(torch.randn(2, 4, *size)).shape == (2, 1, *size)


def test_each_path_sees_its_own_channels() -> None:
    net = network().eval()
    assert [path[0].conv.in_channels for path in net.paths] == [1, 3]
    image = torch.randn(1, 4, 16, 16, 8)
    for channel in range(4):
        changed = image.clone()
        changed[:, channel] += torch.randn(16, 16, 8)
        assert not torch.equal(net(changed), net(image))


def test_the_first_logits_say_that_lesions_are_rare() -> None:
    assert network(prior=0.01).head.bias.item() == pytest.approx(math.log(0.01 / 0.99))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": STRIDES[:1]}, "strides must have one entry for each of features, at least one, got 1 for 2"),
        ({"features": (), "strides": ()}, "at least one, got 0 for 0"),
        ({"prior": 0.0}, r"prior must be in \(0, 1\), got 0.0"),
    ],
)
def test_a_wrong_shape_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**changes)


def test_logits_under_autocast_are_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network()(torch.randn(1, 4, 16, 16, 8)).dtype == torch.float32


def test_it_learns_where_a_bright_spot_is_with_the_constraint() -> None:
    random = torch.Generator().manual_seed(1)
    image = torch.randn(4, 4, 16, 16, 8, generator=random)
    lesions = torch.zeros(4, 1, 16, 16, 8, dtype=torch.int64)
    for row, (x, y, z) in enumerate([(2, 3, 1), (9, 10, 4), (5, 11, 2)]):  # the last case has none
        image[row, :, x : x + 4, y : y + 4, z : z + 3] += 2
        lesions[row, 0, x : x + 4, y : y + 4, z : z + 3] = 1
    net, ids = network(), [str(row) for row in range(4)]
    term = LesionConstraint([f"{key}/lesion-1" for key in ids], mu=30.0)
    loss = ConstrainedLoss(make_map_loss("bce"), term)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss(net(image), lesions, ids).backward()
        optimizer.step()
        term.update_multipliers()
    scores, _ = lesion_scores(net(image), lesions, temperature=0.5)
    assert lesion_auc(scores.tolist(), net(image)[lesions == 0]) > 0.99
    assert len(term.term.multipliers) == 3
