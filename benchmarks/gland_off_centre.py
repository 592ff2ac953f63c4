"""What the centre crop loses where the gland lies off the image's centre, and what a crop around the gland would keep.

    OMP_NUM_THREADS=1 python benchmarks/gland_off_centre.py [PACK] [--studies 100] [--offsets 0 10 20 30 40]

Draws synthetic studies of a seed that nothing was trained on and moves the field of view, within the slices and in a
direction drawn for each study, until the gland's centre lies so many mm from that of the T2. Prints for each offset
how much of the gland the network's image holds, how many lesions it holds whole and how many not at all, and the AUC of
the packed model (the one that comes along by default) on the centre crop and on one around the gland's true mask: an
upper bound for a localiser. The studies of each offset are the same; in their slices the gland's height is kept.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from prostate_alm.delivery.card import GridSpec
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.preprocess import network_input
from prostate_alm.imaging.geometry import LPS_TO_RAS
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume, resample, resample_labels
from prostate_alm.method.metrics import auc
from prostate_alm.phantom.masks import render_masks
from prostate_alm.phantom.render import Grid
from prostate_alm.phantom.study import StudyPlan, plan_study, render_study
from prostate_alm.shipped import shipped_bundle

SEED = 20_264


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, nargs="?", default=shipped_bundle("prostate") / "demo.zip")
    parser.add_argument("--studies", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--offsets", type=float, nargs="+", default=[0.0, 10.0, 20.0, 30.0, 40.0], metavar="MM")
    options = parser.parse_args()
    model = open_package(options.pack)
    plans = [plan_study(index, seed=SEED) for index in range(1, options.studies + 1)]
    labels = [plan.label for plan in plans]
    print("| offset, mm | gland held | lesions whole | lesions absent | AUC, centre crop | AUC, around the gland |")
    print("|---|---|---|---|---|---|")
    for offset_mm in options.offsets:
        rows = [measured(plan, offset_mm, model) for plan in tqdm(plans, leave=False)]
        gland, lesion, centre, around = (np.array(column) for column in zip(*rows, strict=True))
        lesions = lesion[~np.isnan(lesion)]
        print(
            f"| {offset_mm:g} | {gland.mean():.3f} | {(lesions > 0.99).mean():.2f} | {(lesions == 0).mean():.2f} "
            f"| {auc(labels, centre):.3f} | {auc(labels, around):.3f} |",
            flush=True,
        )


def measured(plan: StudyPlan, offset_mm: float, model: PackedModel) -> tuple[float, float, float, float]:
    """Return the shares of gland and lesion (NaN without one) in the image, and the logits of both crops."""
    study = moved(plan, offset_mm)
    masks, volumes = render_masks(study), volumes_of(study)
    gland = volume_of(masks.gland, masks.grid)
    lesions = np.zeros_like(masks.gland) if masks.lesions is None else masks.lesions
    held = [shown(volume_of(labels, masks.grid), model.card.grid) for labels in (masks.gland, lesions)]
    logits = [logit(one, model) for one in (volumes, around(volumes, gland))]
    return held[0], held[1], logits[0], logits[1]


def moved(plan: StudyPlan, offset_mm: float) -> StudyPlan:
    """Return a plan whose fields of view have the gland so far from the middle of T2."""
    angle = np.random.default_rng(plan.noise_seed).uniform(0, 2 * np.pi)
    place_mm = (plan.centre_mm - plan.t2_centre_mm) @ plan.image_axes.T  # of the gland: along columns, rows, slices
    wanted_mm = np.array([offset_mm * np.cos(angle), offset_mm * np.sin(angle), place_mm[2]])
    shift_mm = (place_mm - wanted_mm) @ plan.image_axes
    return replace(
        plan, t2_centre_mm=plan.t2_centre_mm + shift_mm, diffusion_centre_mm=plan.diffusion_centre_mm + shift_mm
    )


def volume_of(stored: NDArray[np.generic], grid: Grid) -> Volume:
    """Return an array (slices, rows, columns) as a volume."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = grid.steps_mm.T, grid.origin_mm
    return Volume(stored.transpose(2, 1, 0).astype(np.float32), LPS_TO_RAS @ affine)


def volumes_of(plan: StudyPlan) -> StudyVolumes:
    study = render_study(plan)
    t2 = volume_of(study.t2.pixels, study.t2.grid)
    traces = tuple(resample(volume_of(one.pixels, one.grid), reference=t2) for one in study.diffusion.traces)
    b_values = plan.b_values_s_per_mm2
    return StudyVolumes(t2, traces, b_values, b_values, (False,) * len(b_values), Selection(None, (), None, ()))


def shown(mask: Volume, grid: GridSpec) -> float:
    """Return the share of a mask within the network's image; NaN for an empty one."""
    affine = np.eye(4)
    size = np.array(grid.image_size)
    directions = mask.affine_ras_mm[:3, :3] / np.linalg.norm(mask.affine_ras_mm[:3, :3], axis=0)
    affine[:3, :3] = directions * grid.spacing_mm
    middle = mask.affine_ras_mm @ np.append((np.array(mask.voxels.shape) - 1) / 2, 1.0)
    affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((size - 1) / 2)
    inside = resample_labels(Volume(np.ones(size, np.float32), affine), reference=mask).voxels
    return float((mask.voxels * inside).sum() / mask.voxels.sum()) if mask.voxels.any() else float("nan")


def around(volumes: StudyVolumes, gland: Volume) -> StudyVolumes:
    """Return the largest part of the volumes, within the slices, in whose middle the gland lies."""
    index = np.argwhere(gland.voxels)
    middle = np.rint((index.min(axis=0) + index.max(axis=0)) / 2).astype(int)
    size = np.array(gland.voxels.shape)
    half = np.minimum(middle, size - 1 - middle)
    low, high = middle - half, middle + half + 1
    low[2], high[2] = 0, size[2]
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))

    def cut(volume: Volume) -> Volume:
        affine = volume.affine_ras_mm.copy()
        affine[:3, 3] += affine[:3, :3] @ low
        return Volume(volume.voxels[window], affine)

    return replace(volumes, t2=cut(volumes.t2), dwi=tuple(cut(one) for one in volumes.dwi))


def logit(volumes: StudyVolumes, model: PackedModel) -> float:
    with torch.inference_mode():
        return float(model.network(network_input(volumes, model.card.grid)[None]))


if __name__ == "__main__":
    main()
