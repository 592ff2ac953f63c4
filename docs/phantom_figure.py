"""Draw docs/images/phantom.png: a positive and the two kinds of negatives of the synthetic cohort.

Run from the repository root: python docs/phantom_figure.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from prostate_alm.imaging.phantom import PhantomStudy, StoredVolume, make_study

STUDIES = (6, 5, 1)  # of seed 0: no lesion, an equivocal one, an unmistakable one
COLUMNS = ("T2 axial", "T2 sagittal", "b 100", "b 600", "b 1000", "ADC")
ADC_WINDOW = 2500  # 1e-6 mm2/s
PICTURE = Path(__file__).parent / "images" / "phantom.png"


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
    row[0].set_ylabel(f"{plan.verdict.kind}\nlabel {plan.label}", fontsize=11)


def main() -> None:
    figure, rows = plt.subplots(len(STUDIES), len(COLUMNS), figsize=(13, 6), layout="constrained")
    for row, index in zip(rows, STUDIES, strict=True):
        draw_study(list(row), make_study(index))
    for axes, title in zip(rows[0], COLUMNS, strict=True):
        axes.set_title(title, fontsize=11)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=65, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
