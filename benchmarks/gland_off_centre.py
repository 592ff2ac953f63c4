"""What the centre crop loses where the gland lies off the image's centre, and what a crop around the gland keeps.

    OMP_NUM_THREADS=1 python benchmarks/gland_off_centre.py [PACK] [--localiser DIR] [--studies 100] [--offsets 0 40]

Draws synthetic studies of a seed that nothing was trained on and moves the field of view, within the slices and in a
direction drawn for each study, until the gland's centre lies so many mm from that of the T2. Prints for each offset how
much of the gland the network's image holds with the centre crop, how many lesions it holds whole and how many not at
all, and the AUC of the packed model (the one that comes along by default) on the centre crop, on one around the gland's
true mask, and with a localiser (bundles/gland) on the one around what that finds, with its errors and doubts. The
studies of each offset are the same; in their slices the gland's height is kept.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from prostate_alm.data.gland import GlandLocation, locate_by, place_of
from prostate_alm.delivery.card import GridSpec
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.preprocess import network_input, placed_around
from prostate_alm.imaging.geometry import LPS_TO_RAS
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume, resample, resample_labels
from prostate_alm.method.metrics import auc
from prostate_alm.phantom.masks import render_masks
from prostate_alm.phantom.render import Grid
from prostate_alm.phantom.study import StudyPlan, plan_study, render_study
from prostate_alm.shipped import shipped_bundle
from prostate_alm.training.gland_localiser import Localiser, open_localiser

SEED = 20_264


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path, nargs="?", default=shipped_bundle("prostate") / "demo.zip")
    parser.add_argument("--localiser", type=Path, metavar="DIR", help="of bundles/gland")
    parser.add_argument("--studies", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--offsets", type=float, nargs="+", default=[0.0, 10.0, 20.0, 30.0, 40.0], metavar="MM")
    options = parser.parse_args()
    model = open_package(options.pack)
    plans = [plan_study(index, seed=SEED) for index in range(1, options.studies + 1)]
    labels = [plan.label for plan in plans]
    localiser = open_localiser(options.localiser)[0] if options.localiser else None
    print("| offset, mm | gland held | lesions whole | lesions absent | AUC, centre | AUC, mask | AUC, localised |")
    print("|---|---|---|---|---|---|---|")
    for offset_mm in options.offsets:
        rows = [measured(plan, offset_mm, model, localiser) for plan in tqdm(plans, leave=False)]
        gland, lesion, error_mm, *logits = (np.array(column) for column in zip(*rows, strict=True))
        lesions, areas = (
            lesion[~np.isnan(lesion)],
            ["-" if np.isnan(of).any() else f"{auc(labels, of):.3f}" for of in logits],
        )
        print(
            f"| {offset_mm:g} | {gland.mean():.3f} | {(lesions > 0.99).mean():.2f} | {(lesions == 0).mean():.2f} "
            f"| {' | '.join(areas)} |",
            flush=True,
        )
        if localiser is not None:
            found = error_mm[~np.isnan(error_mm)]
            worst = f"median {np.median(found):.1f} mm, largest {found.max():.1f} mm" if len(found) else "-"
            tqdm.write(f"  {len(error_mm) - len(found)} doubtful of {len(error_mm)}; error of the centre: {worst}")


def measured(plan: StudyPlan, offset_mm: float, model: PackedModel, localiser: Localiser | None) -> tuple[float, ...]:
    """Return the shares of gland and lesion (NaN without one) in the image, the error in mm, each crop's logit."""
    study = moved(plan, offset_mm)
    masks, volumes = render_masks(study), volumes_of(study)
    gland = volume_of(masks.gland, masks.grid)
    lesions = np.zeros_like(masks.gland) if masks.lesions is None else masks.lesions
    held = [shown(volume_of(labels, masks.grid), model.card.grid) for labels in (masks.gland, lesions)]
    truth, grid = place_of(gland.voxels > 0, gland.affine_ras_mm), model.card.grid
    logits = [logit(volumes, grid, model), logit(volumes, placed_around(grid, volumes.t2, truth.centre_mm), model)]
    if localiser is None:
        return held[0], held[1], float("nan"), *logits, float("nan")
    found = locate_by(localiser, volumes.t2)
    if not isinstance(found, GlandLocation):
        return held[0], held[1], float("nan"), *logits, logits[0]
    error_mm = float(np.linalg.norm(np.subtract(found.centre_mm, truth.centre_mm)))
    localised = logit(volumes, placed_around(grid, volumes.t2, found.centre_mm), model)
    return held[0], held[1], error_mm, *logits, localised


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


def logit(volumes: StudyVolumes, grid: GridSpec, model: PackedModel) -> float:
    with torch.inference_mode():
        return float(model.network(network_input(volumes, grid)[None]))


if __name__ == "__main__":
    main()
