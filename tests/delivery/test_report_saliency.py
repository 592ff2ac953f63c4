import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.report.saliency import blurred, integrated_gradients, saliency


@pytest.fixture(scope="module")
def image(packed_model: PackedModel) -> Tensor:
    return torch.randn(4, *packed_model.card.grid.image_size, generator=torch.Generator().manual_seed(3))


def changed(model: PackedModel, change: str) -> PackedModel:
    """Return a copy of a model, its weights set to 0 (`zero`), or those of the linear layer for one path alone."""
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        for member in network.members:
            weight = member.classifier.weight
            half = weight.shape[1] // 2
            {"zero": weight, "t2": weight[:, half:], "diffusion": weight[:, :half]}[change].zero_()
    return dataclasses.replace(model, network=network)


def test_one_map_a_path_on_the_grid_of_the_network(packed_model: PackedModel, image: Tensor) -> None:
    maps = saliency(packed_model, image)
    assert maps.shape == (2, *packed_model.card.grid.image_size)
    assert maps.dtype == np.float32
    assert (np.abs(maps).max(axis=(1, 2, 3)) > 0).all()


def test_weights_of_zero_give_a_map_of_zero(packed_model: PackedModel, image: Tensor) -> None:
    assert not saliency(changed(packed_model, "zero"), image).any()


@pytest.mark.parametrize(("seen", "path"), [("t2", 0), ("diffusion", 1)])
def test_a_path_that_moves_nothing_has_no_saliency(
    packed_model: PackedModel, image: Tensor, seen: str, path: int
) -> None:
    maps = saliency(changed(packed_model, seen), image)
    assert maps[path].any()
    assert not maps[1 - path].any()


def test_the_values_sum_to_the_difference_of_the_logits(packed_model: PackedModel, image: Tensor) -> None:
    baseline = blurred(image, spacing_mm=packed_model.card.grid.spacing_mm)
    with torch.inference_mode():
        whole, without = packed_model.network(torch.stack([image, baseline])).flatten().tolist()
    attribution = integrated_gradients(packed_model.network, image, baseline=baseline, steps=24)
    assert float(attribution.sum()) == pytest.approx(whole - without, rel=0.02)


def test_the_ensemble_is_the_mean_of_its_members(packed_model: PackedModel, image: Tensor) -> None:
    each = []
    for member in packed_model.network.members:
        alone = copy.deepcopy(packed_model.network)
        alone.members = nn.ModuleList([member])
        each.append(saliency(dataclasses.replace(packed_model, network=alone), image))
    np.testing.assert_allclose(saliency(packed_model, image), np.mean(each, axis=0), atol=1e-8)


def test_what_the_blur_leaves_as_it_is_has_no_saliency(packed_model: PackedModel) -> None:
    """Around one voxel the image differs from its blurred version; elsewhere x - x' is 0, whatever the gradient."""
    image = torch.zeros(4, *packed_model.card.grid.image_size)
    image[:, 20, 12, 9] = 5.0
    maps = saliency(packed_model, image)
    far = np.ones(maps.shape[1:], bool)
    far[20 - 9 : 20 + 10, 12 - 9 : 12 + 10, 9 - 6 : 9 + 7] = False  # 3 standard deviations of 6 mm
    assert maps.any()
    assert not maps[:, far].any()


def test_the_midpoint_rule_is_exact_for_a_quadratic() -> None:
    class Energy(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return points.square().sum(1, keepdim=True)

    start, end = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 1.0, 0.5])
    found = integrated_gradients(Energy(), end, baseline=start, steps=1)
    torch.testing.assert_close(found, end.square() - start.square())  # each axis by itself, by hand


def test_the_blur_keeps_what_is_constant_and_its_width_is_in_mm() -> None:
    torch.testing.assert_close(
        blurred(torch.full((2, 9, 9, 9), 3.0), spacing_mm=(2, 2, 3)), torch.full((2, 9, 9, 9), 3.0)
    )
    point = torch.zeros(1, 41, 41, 41)
    point[0, 20, 20, 20] = 1.0
    spread = blurred(point, spacing_mm=(2.0, 2.0, 3.0))[0]
    for axis, spacing_mm in enumerate((2.0, 2.0, 3.0)):
        profile = spread.sum(tuple(other for other in range(3) if other != axis))
        deviation_mm = float((profile * (spacing_mm * (torch.arange(41) - 20)) ** 2).sum()) ** 0.5
        assert deviation_mm == pytest.approx(6.0, rel=0.05)  # the tails beyond three deviations are cut


def test_weights_and_image_stay_as_they_are(packed_model: PackedModel, image: Tensor) -> None:
    before = image.clone()
    saliency(packed_model, image)
    assert torch.equal(image, before)
    assert all(weight.grad is None for weight in packed_model.network.parameters())


def test_a_batch_is_no_study(packed_model: PackedModel, image: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^image must be \(C, X, Y, Z\), got shape \(1, 4, "):
        saliency(packed_model, image[None])
