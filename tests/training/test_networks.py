import pytest
import torch
from torch import nn

from prostate_alm.training.networks import CascadeNet

POOLING_3D = ((2, 2, 1), (2, 2, 2))


def small_net() -> CascadeNet:
    torch.manual_seed(0)
    return CascadeNet(3, (1, 3), features=(4, 8), pooling=POOLING_3D)


def paper_forward(net: CascadeNet, image: torch.Tensor) -> torch.Tensor:
    """Compute in the paper's order: convolution, ReLU, max-pooling."""
    features = []
    for path, part in zip(net.paths, image.split([1, 3], dim=1), strict=True):
        convolutions = [layer for layer in path if isinstance(layer, nn.Conv3d)]
        for convolution, window in zip(convolutions, POOLING_3D, strict=True):
            weight, bias = convolution.weight.contiguous(), convolution.bias
            part = nn.functional.max_pool3d(nn.functional.conv3d(part, weight, bias, padding=1).relu(), window)
        features.append(part.amax(dim=(2, 3, 4)))
    return net.classifier(torch.cat(features, dim=1))


def test_pooling_before_relu_channels_last_is_the_function_of_the_paper() -> None:
    net = small_net().double()
    image = torch.randn(3, 4, 16, 14, 8, dtype=torch.float64)
    torch.testing.assert_close(net(image), paper_forward(net, image), rtol=1e-12, atol=1e-12)


def test_each_path_sees_its_channels_only() -> None:
    net = small_net()
    image = torch.randn(1, 4, 16, 16, 8, requires_grad=True)
    t2_features = net.paths[0](image[:, :1]).sum()
    (gradient,) = torch.autograd.grad(t2_features, image)
    assert gradient[:, :1].abs().sum() > 0
    assert gradient[:, 1:].abs().sum() == 0


def test_the_paths_are_identical_but_for_their_input() -> None:
    first, second = small_net().paths
    shapes = [[tuple(p.shape) for p in path.parameters()][1:] for path in (first, second)]
    assert shapes[0] == shapes[1]


def test_one_class_serves_two_dimensions() -> None:
    net = CascadeNet(2, (3,), features=(4, 8), pooling=((2, 2), (2, 2)))
    assert net(torch.zeros(5, 3, 32, 32)).shape == (5, 1)


def test_each_of_several_logits_is_that_of_a_network_with_its_weights() -> None:
    many = CascadeNet(3, (1, 3), features=(4, 8), pooling=POOLING_3D, outputs=3)
    image = torch.randn(5, 4, 16, 16, 8)
    logits = many(image)
    assert logits.shape == (5, 3)
    for place in range(3):
        one = small_net()
        own = {
            name: value[place : place + 1] if name.startswith("classifier") else value
            for name, value in many.state_dict().items()
        }
        one.load_state_dict(own)
        torch.testing.assert_close(one(image)[:, 0], logits[:, place])
    with pytest.raises(ValueError, match="outputs must be at least 1, got 0"):
        CascadeNet(2, (3,), features=(4,), pooling=((2, 2),), outputs=0)


def test_a_sample_does_not_depend_on_the_others_of_its_batch() -> None:
    net, images = small_net(), torch.randn(4, 4, 16, 16, 8)
    torch.testing.assert_close(net(images)[2:3], net(images[2:3]), rtol=1e-5, atol=1e-6)


def test_the_root_of_six_gives_the_variance_of_he_and_one_leaves_the_weights_as_torch_draws_them() -> None:
    def seeded(scale: float) -> CascadeNet:
        torch.manual_seed(0)
        return CascadeNet(2, (3,), features=(64, 64), pooling=((2, 2), (2, 2)), initial_scale=scale)

    plain = seeded(1).paths[0][0].weight
    torch.manual_seed(0)
    assert torch.equal(plain, nn.Conv2d(3, 64, kernel_size=3).weight)
    for layer, fan_in in ((0, 27), (3, 576)):
        variance = seeded(6**0.5).paths[0][layer].weight.var().item()
        assert variance == pytest.approx(2 / fan_in, rel=0.1)  # that of nn.init.kaiming_normal_ with fan in and ReLU


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 4, "features": (4,), "pooling": ((2, 2),)}, "spatial_dims must be 2 or 3, got 4"),
        ({"spatial_dims": 2, "features": (4, 8), "pooling": ((2, 2),)}, "pooling must have one entry per convolution"),
        (
            {"spatial_dims": 2, "features": (4,), "pooling": ((2, 2),), "initial_scale": 0.0},
            "initial_scale must be above 0, got 0.0",
        ),
    ],
)
def test_a_wrong_architecture_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CascadeNet(path_channels=(1,), **arguments)
