import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from prostate_alm.training.networks import CascadeNet, whitened

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


def smooth_images(*shape: int) -> torch.Tensor:
    """Return noise whose neighbours are alike, and whose channels are, as in photographs."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.cumsum(1) + sum(noise.roll(1, axis) for axis in range(2, len(shape)))


def whitened_net(images: torch.Tensor, *, channels: tuple[int, ...], features: int, batch: int = 2) -> CascadeNet:
    dims = images.ndim - 2
    torch.manual_seed(0)
    net = CascadeNet(dims, channels, features=(features, 4), pooling=((2,) * dims,) * 2)
    return whitened(net, ({"image": part} for part in images.split(batch)), eps=0.0)


def inner_outputs(convolution: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return what the filters answer where all of them lies within the image, (outputs, places)."""
    answers = convolution(images)
    inner = (slice(None), slice(None), *[slice(1, -1)] * (images.ndim - 2))
    return answers[inner].movedim(1, 0).flatten(1).detach()


@pytest.mark.parametrize(("shape", "channels"), [((5, 3, 12, 14), (3,)), ((5, 4, 9, 8, 7), (1, 3))])
def test_whitened_filters_answer_without_correlation_and_with_variance_one(shape, channels):
    images = smooth_images(*shape)
    net = whitened_net(images, channels=channels, features=16)
    for path, part in zip(net.paths, images.split(channels, dim=1), strict=True):
        covariance = np.cov(inner_outputs(path[0], part)[:8].double().numpy())
        np.testing.assert_allclose(covariance, np.eye(8), atol=2e-3)
        assert torch.equal(path[0].weight[8:], -path[0].weight[:8])


def test_whitened_filters_are_the_principal_components_of_the_patches():
    images = smooth_images(6, 2, 10, 9)
    net = whitened_net(images, channels=(2,), features=10)
    patches = nn.functional.unfold(images, 3).movedim(1, 2).flatten(0, 1).double().numpy()
    reference = PCA(5, whiten=True, svd_solver="full").fit(patches)
    expected = reference.components_ / np.sqrt(reference.explained_variance_)[:, None]
    found = net.paths[0][0].weight[:5].detach().flatten(1).numpy()[::-1]  # ours has the greatest last
    signs = np.sign((found * expected).sum(1, keepdims=True))
    np.testing.assert_allclose(found, expected * signs, rtol=2e-3, atol=1e-5)
    largest = np.abs(found).argmax(1)
    assert (found[np.arange(5), largest] > 0).all()  # the sign is fixed, whatever the processor's eigenvectors are


def test_whitening_does_not_depend_on_the_batches_and_leaves_all_but_the_first_filters():
    images = smooth_images(6, 2, 10, 9)
    torch.manual_seed(0)
    plain = CascadeNet(2, (2,), features=(41, 4), pooling=((2, 2), (2, 2)))
    one, other = (whitened_net(images, channels=(2,), features=41, batch=batch) for batch in (1, 6))
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], other.state_dict()[name], rtol=1e-4, atol=1e-6)
        unchanged = slice(36, None) if name == "paths.0.0.weight" else slice(None)  # 2 x 18 directions of 2 x 3 x 3
        assert torch.equal(value[unchanged], one.state_dict()[name][unchanged])
    assert one.paths[0][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_images_of_one_grey_value_give_finite_filters():
    net = CascadeNet(2, (3,), features=(16,), pooling=((2, 2),))
    assert whitened(net, [{"image": torch.ones(2, 3, 8, 8)}]).paths[0][0].weight.isfinite().all()


def test_whitening_without_its_images_is_refused_and_another_network_left_as_it_is():
    net = CascadeNet(2, (3,), features=(4,), pooling=((2, 2),))
    with pytest.raises(ValueError, match="at least one image, got none"):
        whitened(net, [])
    with pytest.raises(ValueError, match="image must have 3 channels, got 4"):
        whitened(net, [{"image": torch.zeros(1, 4, 8, 8)}])
    own = nn.Linear(2, 1)
    assert whitened(own, []) is own


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
