"""Draw docs/images/phantom.png, a positive and the two kinds of negatives of the synthetic cohort, and
phantom-graded.png, lesions of phantom-400 from too faint to too plain.

Run from the repository root: python docs/phantom_figure.py
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from prostate_alm.data.synthetic import read_recipe
from prostate_alm.phantom.cohort import PhantomStudy, StoredVolume, plan_study, render_study

FIGURES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "phantom.png": ({}, (6, 5, 1)),  # no lesion, an equivocal one, an unmistakable one
    "phantom-graded.png": (
        read_recipe(Path("data_manifest/phantom-400.json")).cohort.phantom,
        (102, 239, 292, 194, 112),
    ),
}
"""By name: the cohort's settings, and its studies from top to bottom."""
COLUMNS = ("T2 axial", "T2 sagittal", "b 100", "b 600", "b 1000", "ADC")
ADC_WINDOW = 2500  # 1e-6 mm2/s
FOLDER = Path(__file__).parent / "images"


def slice_through(volume: StoredVolume, point_mm: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Return the slice of a volume nearest to a point."""
    normal = volume.grid.steps_mm[2] / volume.grid.spacing_mm[2]
    index = round(float((point_mm - volume.grid.origin_mm) @ normal) / volume.grid.spacing_mm[2])
    return volume.pixels[int(np.clip(index, 0, len(volume.pixels) - 1))]


def draw_study(row: list[Axes], study: PhantomStudy) -> None:
    plan, diffusion = study.plan, study.diffusion
    point_mm = plan.centre_mm if plan.lesion_centre_mm is None else plan.lesion_centre_mm
    volumes = (study.t2, study.sagittal, *diffusion.traces, diffusion.adc)
    for axes, volume in zip(row, volumes, strict=True):
        image = slice_through(volume, point_mm)
        top = ADC_WINDOW if volume is diffusion.adc else np.percentile(image, 99.6)
        axes.imshow(image, cmap="gray", vmin=0, vmax=top)
        axes.set(xticks=[], yticks=[])
    kind = f"c = {plan.verdict.conspicuity:.2f}" if plan.verdict.kind == "graded" else plan.verdict.kind
    row[0].set_ylabel(f"{kind}\nlabel {plan.label}", fontsize=11)


def draw(picture: Path, settings: dict[str, Any], studies: tuple[int, ...]) -> None:
    size = (13, 2 * len(studies))
    figure, rows = plt.subplots(len(studies), len(COLUMNS), figsize=size, layout="constrained")
    for row, index in zip(rows, studies, strict=True):
        draw_study(list(row), render_study(plan_study(index, **settings)))
    for axes, title in zip(rows[0], COLUMNS, strict=True):
        axes.set_title(title, fontsize=11)
    figure.savefig(picture, dpi=65, pil_kwargs={"optimize": True})


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, (settings, studies) in FIGURES.items():
        draw(FOLDER / name, settings, studies)


if __name__ == "__main__":
    main()
