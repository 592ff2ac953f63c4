"""Which saliency points at the lesion, and what it costs: the table of docs/report.md.

Positive studies of a synthetic cohort that no training saw are answered by a packed model. A map hits when its greatest
absolute value lies within the lesion's radius and 3 mm of its centre, both known from the study's plan. Run from the
repository root:

    python benchmarks/saliency.py prostate.zip [--studies 40] [--seed 11] [--methods occlusion ...]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.predict import network_input, predict_folder
from prostate_alm.delivery.preprocess import image_placement
from prostate_alm.delivery.report.saliency import blurred, integrated_gradients, saliency
from prostate_alm.delivery.report.views import lps_order
from prostate_alm.imaging.volume import load_study
from prostate_alm.phantom.cohort import plan_study, render_study, write_study

TOLERANCE_MM = 3.0  # half a block of the coarsest map
NOISY_COPIES, NOISE = 8, 0.3  # SmoothGrad; the input has unit variance
BLOCK = (8, 8, 4)  # voxels: 16 x 16 x 12 mm
Method = Callable[[PackedModel, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Positive:
    """A positive study: the network's input, each voxel's distance from the lesion's centre, the radius in mm."""

    image: Tensor
    distance_mm: NDArray[np.float64]
    radius_mm: float
    predict_s: float


def positives(model: PackedModel, *, studies: int, seed: int) -> Iterator[Positive]:
    plans = (plan for index in count(1) if (plan := plan_study(index, seed=seed)).label == 1)
    for _, plan in zip(range(studies), plans, strict=False):
        with tempfile.TemporaryDirectory() as folder:
            write_study(render_study(plan), Path(folder))
            start = time.process_time()
            predict_folder(Path(folder), model)
            predict_s = time.process_time() - start
            volumes = load_study(Path(folder), b_values_s_per_mm2=model.card.grid.b_values_s_per_mm2)
        first, step = image_placement(volumes.t2, model.card.grid)
        _, affine = lps_order(volumes.t2)
        centre_ras_mm = plan.lesion_centre_mm * [-1, -1, 1]
        centre = np.linalg.solve(affine, [*centre_ras_mm, 1])[:3]
        voxels = np.stack(np.meshgrid(*map(np.arange, model.card.grid.image_size), indexing="ij"), axis=-1)
        offset_mm = (first + voxels * step - centre) @ affine[:3, :3].T
        distance_mm = np.linalg.norm(offset_mm, axis=-1)
        image = network_input(volumes, model.card.grid)
        yield Positive(image, distance_mm, plan.anatomy.lesion.radius_mm, predict_s)


def gradient(model: PackedModel, points: Tensor) -> Tensor:
    points = points.detach().requires_grad_()
    (result,) = torch.autograd.grad(model.network(points).sum(), points)
    return result


def smooth_gradient(model: PackedModel, image: Tensor) -> Tensor:
    noise = torch.randn(NOISY_COPIES, *image.shape, generator=torch.Generator().manual_seed(0))
    return gradient(model, image + NOISE * noise).mean(0) * image


def from_blurred(model: PackedModel, image: Tensor, *, steps: int) -> Tensor:
    baseline = blurred(image, spacing_mm=model.card.grid.spacing_mm)
    return integrated_gradients(model.network, image, baseline=baseline, steps=steps)


def from_zero(model: PackedModel, image: Tensor) -> Tensor:
    return integrated_gradients(model.network, image, baseline=torch.zeros_like(image), steps=8)


def activation_map(model: PackedModel, image: Tensor) -> Tensor:
    """Weigh the last features as the linear layer does, everywhere instead of at their maximum only."""
    result = torch.zeros_like(image)
    with torch.inference_mode():
        for member in model.network.members:
            weights = member.classifier.weight[0].split(member.paths[0][-3].out_channels)
            first = 0
            for path, part, weight in zip(
                member.paths, image[None].split(list(member.path_channels), 1), weights, strict=True
            ):
                coarse = (path(part)[0] * weight[:, None, None, None]).sum(0)
                fine = torch.nn.functional.interpolate(coarse[None, None], size=image.shape[1:], mode="trilinear")
                result[first] += fine[0, 0]
                first += part.shape[1]
    return result


def occlusion(model: PackedModel, image: Tensor) -> Tensor:
    """Replace blocks of one path by the blurred image: how far the logit falls."""
    baseline = blurred(image, spacing_mm=model.card.grid.spacing_mm)
    result = torch.zeros_like(image)
    first = 0
    with torch.inference_mode():
        whole = model.network(image[None])
        for channels in model.card.network.path_channels:
            path = slice(first, first + channels)
            for corner in product(*(range(0, size, step) for size, step in zip(image.shape[1:], BLOCK, strict=True))):
                block = (path, *(slice(start, start + step) for start, step in zip(corner, BLOCK, strict=True)))
                covered = image.clone()
                covered[block] = baseline[block]
                result[(first, *block[1:])] = (whole - model.network(covered[None])).item()
            first += channels
    return result


METHODS: dict[str, Method] = {
    "gradient": lambda model, image: gradient(model, image[None])[0].abs(),
    "gradient x input": lambda model, image: gradient(model, image[None])[0] * image,
    "SmoothGrad x input, 8 copies": smooth_gradient,
    "integrated gradients from 0, 8 steps": from_zero,
    "integrated gradients from blurred, 1 step": lambda model, image: from_blurred(model, image, steps=1),
    "integrated gradients from blurred, 2 steps (the report's)": lambda model, image: from_blurred(
        model, image, steps=2
    ),
    "integrated gradients from blurred, 32 steps": lambda model, image: from_blurred(model, image, steps=32),
    "class activation": activation_map,
    "occlusion of 16 x 16 x 12 mm": occlusion,
}


def path_sums(attribution: Tensor, path_channels: tuple[int, ...]) -> NDArray[np.float64]:
    return torch.stack([part.sum(0) for part in attribution.split(list(path_channels))]).double().numpy()


def seconds(task: Callable[[], object]) -> float:
    start = time.process_time()
    task()
    return time.process_time() - start


def forward_s(model: PackedModel, found: list[Positive]) -> float:
    with torch.inference_mode():
        model.network(found[0].image[None])
        return sum(seconds(lambda one=one: model.network(one.image[None])) for one in found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--methods", nargs="+", default=[], metavar="WORD", help="only methods whose name holds one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = open_package(options.model)
    found = list(positives(model, studies=options.studies, seed=options.seed))
    forward, predict = forward_s(model, found), float(np.median([one.predict_s for one in found]))
    volume = np.mean([(one.distance_mm <= one.radius_mm + TOLERANCE_MM).mean() for one in found])
    own = seconds(lambda: [saliency(model, one.image) for one in found]) / len(found)
    print(
        f"{model.card.members} members, {len(found)} positive studies; network alone {1000 * forward:.0f} ms, folder "
        f"to answer {1000 * predict:.0f} ms, the report's saliency {1000 * own:.0f} ms a study (CPU time). A point at "
        f"random hits in {100 * volume:.1f} %.\n"
    )
    print("| method | hits, diffusion | hits, T2 | within the lesion | T2 path | time / network | time / answer |")
    print("|---|---|---|---|---|---|---|")
    for name, method in METHODS.items():
        if options.methods and not any(word in name for word in options.methods):
            continue
        rows, spent_s = [], 0.0
        for one in found:
            start = time.process_time()
            attribution = method(model, one.image)
            spent_s += (time.process_time() - start) / len(found)
            rows.append(_figures(path_sums(attribution, model.card.network.path_channels), one))
        t2_hit, diffusion_hit, inside, t2_share = 100 * np.mean(rows, axis=0)
        print(
            f"| {name} | {diffusion_hit:.0f} % | {t2_hit:.0f} % | {inside:.0f} % | {t2_share:.0f} % | "
            f"{spent_s / forward:.1f} | {spent_s / predict:.2f} |",
            flush=True,
        )


def _figures(maps: NDArray[np.float64], one: Positive) -> tuple[float, float, float, float]:
    """Hits of T2 and diffusion, the share of diffusion's saliency within the lesion, the share of T2 in all."""
    near = one.distance_mm <= one.radius_mm + TOLERANCE_MM
    sizes = np.abs(maps)
    hits = [float(near.flat[size.argmax()] and size.max() > 0) for size in sizes]
    return hits[0], hits[1], float(sizes[1][near].sum() / sizes[1].sum()), float(sizes[0].sum() / sizes.sum())


if __name__ == "__main__":
    main()
