"""Which voxels moved the answer: integrated gradients of the ensemble's logit, by path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from prostate_alm.delivery.card import LesionNetworkSpec
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.method.critical import log_odds
from prostate_alm.method.lesions import case_logits

BLUR_MM = 6.0  # standard deviation of the baseline: the smallest lesions of the synthetic cohort have this radius
SMOOTHING_MM = 3.0  # standard deviation: saliency of single voxels is a speckle that the eye cannot add up
STEPS = 2  # more change no hit and less than 1 % of the sum, see docs/report.md


def saliency(model: PackedModel, image: Tensor) -> NDArray[np.float32]:
    """Return how much each voxel raised or lowered the ensemble's logit, by path.

    s = (x - x') ∫_0^1 ∂f(x' + t (x - x')) / ∂x dt, summed over the channels of a path, where f is the mean of the
    members' logits (of several classes the log-odds of the critical one, of lesions the soft maxima of their maps) and
    x' the image blurred by `BLUR_MM`, in which no lesion is left but all anatomy. The values sum to f(x) - f(x'), up to
    the rule of `STEPS` midpoints.

    Args:
        model: the packed ensemble.
        image: (C, X, Y, Z), as `network_input` gives it.

    Returns:
        (paths, X, Y, Z) in logits per voxel; zero where nothing moved.

    Raises:
        ValueError: the image has not four axes.

    Reference:
        Sundararajan, Taly and Yan 2017, Axiomatic attribution for deep networks, Eq. 1.
    """
    if image.ndim != 4:
        raise ValueError(f"image must be (C, X, Y, Z), got shape {tuple(image.shape)} in saliency. Give one study.")
    baseline = blurred(image, spacing_mm=model.card.grid.spacing_mm)
    logit = partial(_logit, model)
    attribution = integrated_gradients(logit, image, baseline=baseline, steps=STEPS)  # (C, X, Y, Z)
    paths = model.card.network.path_channels
    return torch.stack([part.sum(0) for part in torch.split(attribution, list(paths))]).numpy()


def smooth_per_cm3(saliency: NDArray[np.floating], spacing_mm: tuple[float, float, float]) -> NDArray[np.floating]:
    """Return saliency as it is shown: for each path (paths, X, Y, Z) in logits per cm³, smoothed by `SMOOTHING_MM`.

    Args:
        saliency: (paths, X, Y, Z), logits per voxel.
        spacing_mm: of its voxels.

    >>> even = np.full((1, 40, 40, 40), 2.0)
    >>> float(smooth_per_cm3(even, (1.0, 1.0, 1.0))[0, 20, 20, 20])
    2000.0
    """
    per_cm3 = saliency * (1000.0 / np.prod(spacing_mm))
    widths = SMOOTHING_MM / np.array(spacing_mm)
    return np.stack([ndimage.gaussian_filter(one, widths, mode="constant") for one in per_cm3])


def _logit(model: PackedModel, images: Tensor) -> Tensor:
    """Return the logit of images that the operating point decides on."""
    classes = model.card.classes
    if isinstance(model.card.network, LesionNetworkSpec):
        maps = torch.cat([member(images) for member in model.network.members])  # (M * B, 1, X, Y, Z)
        of_members = case_logits(maps, temperature=model.card.network.temperature)
        return of_members.view(-1, len(images)).mean(0)
    logits = cast(Tensor, model.network(images))
    return logits if classes is None else log_odds(logits, classes.critical, rivals=classes.rivals)


def blurred(image: Tensor, *, spacing_mm: tuple[float, float, float]) -> Tensor:
    """Return an image (C, X, Y, Z) after a Gaussian blur of `BLUR_MM`, its border repeated."""
    deviations = (0.0, *(BLUR_MM / spacing for spacing in spacing_mm))
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(image.numpy(), deviations, mode="nearest", truncate=3.0)
    return torch.from_numpy(smooth)


def integrated_gradients(network: Callable[[Tensor], Tensor], image: Tensor, *, baseline: Tensor, steps: int) -> Tensor:
    """Return (x - x') times the mean gradient of the logit at the midpoints of `steps` parts from x' to x.

    Args:
        network: images (B, C, ...) -> a logit each; its parameters get no gradients.
        image: x, (C, ...).
        baseline: x', of the same shape.
        steps: number of points, at least 1.

    Returns:
        The shape of the image.

    >>> line = torch.nn.Linear(2, 1, bias=False)
    >>> _ = torch.nn.init.constant_(line.weight, 3.0)
    >>> integrated_gradients(line, torch.tensor([1.0, 2.0]), baseline=torch.zeros(2), steps=1)
    tensor([3., 6.])
    """
    share = (torch.arange(steps) + 0.5) / steps
    step = (image - baseline).detach()
    points = baseline + share.view(-1, *[1] * image.ndim) * step  # (steps, C, ...)
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(network(points).sum(), points)
    return step * gradient.mean(0)
