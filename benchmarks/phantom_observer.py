"""How well a hand-made observer reads the synthetic cohort, beside the one who knows the true conspicuity.

The observer smooths the stored ADC map, takes its lowest value inside the prostate, turns it back into a
conspicuity and scores it by the reader's band. Prints the table of docs/phantom.md; run from the repository root:

    python benchmarks/phantom_observer.py [--studies 300] [--seed 0]
"""

import argparse

import numpy as np
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from prostate_alm.phantom.cohort import StudyPlan, observer_auc, plan_study, render_diffusion
from prostate_alm.phantom.reader import equivocal_probability
from prostate_alm.phantom.render import TISSUES

DIFFICULTIES = (0.0, 0.15, 0.25, 0.35, 0.45, 0.6, 0.8, 1.0)
SMOOTHING_VOXELS = (0.8, 1.2, 1.2)  # slices, rows, columns: about the size of the smallest lesion


def lowest_adc_um2_per_ms(plan: StudyPlan) -> tuple[float, float]:
    """Lowest smoothed ADC inside the prostate, and the median there."""
    diffusion = render_diffusion(plan)
    inside = (diffusion.maps["gland_share"] > 0.9).astype(np.float32)
    adc = diffusion.adc.pixels.astype(np.float32) * 1e-3
    weight = ndimage.gaussian_filter(inside, SMOOTHING_VOXELS)
    smooth = ndimage.gaussian_filter(adc * inside, SMOOTHING_VOXELS) / np.maximum(weight, 1e-6)
    core = (inside > 0) & (weight > 0.5)
    return float(smooth[core].min()), float(np.median(adc[inside > 0]))


def estimated_conspicuity(plan: StudyPlan, *, difficulty: float) -> float:
    """Invert contrast = c^(0.2 + difficulty) for the share of the way from the gland's median ADC to frank cancer."""
    lowest, median = lowest_adc_um2_per_ms(plan)
    contrast = (median - lowest) / (median - TISSUES["lesion"].adc_um2_per_ms)
    return float(np.clip(contrast, 0.0, 1.0) ** (1.0 / (0.2 + difficulty)))


def adc_observer_auc(difficulty: float, *, studies: int, seed: int) -> float:
    plans = [plan_study(index, seed=seed, difficulty=difficulty) for index in range(1, studies + 1)]
    conspicuity = np.array([estimated_conspicuity(plan, difficulty=difficulty) for plan in plans])
    score = equivocal_probability(conspicuity, difficulty)
    return float(roc_auc_score([plan.label for plan in plans], score))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print("| difficulty | knows the conspicuity | reads the ADC map |\n|---|---|---|")
    for difficulty in DIFFICULTIES:
        seen = adc_observer_auc(difficulty, studies=arguments.studies, seed=arguments.seed)
        print(f"| {difficulty:.2f} | {observer_auc(difficulty):.3f} | {seen:.3f} |", flush=True)


if __name__ == "__main__":
    main()
