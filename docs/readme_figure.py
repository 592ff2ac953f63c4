"""Draw docs/images/readme.png: a study, what the members looked at, and the operating point on the ROC curve.

Run from the repository root: python docs/readme_figure.py prostate.zip STUDY
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prostate_alm.delivery.package.opened import open_package
from prostate_alm.delivery.predict import predict_folder
from prostate_alm.delivery.prediction import Prediction
from prostate_alm.delivery.report import figures
from prostate_alm.delivery.report.panels import path_views
from prostate_alm.delivery.report.saliency import saliency
from prostate_alm.delivery.report.views import study_views
from prostate_alm.delivery.report.words import english

PICTURE = Path(__file__).parent / "images" / "readme.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("study", type=Path)
    options = parser.parse_args()
    model = open_package(options.model)
    result = predict_folder(options.study, model)
    if not isinstance(result.answer, Prediction):
        raise SystemExit(f"study must be answered, got a refusal of {options.study}: {result.answer}")
    views = study_views(result.volumes, model.card.grid, saliency=saliency(model, result.image))
    figure = Figure(figsize=(12.5, 3.6))
    *slices, roc = figure.subplots(1, 4)
    for number, axes in enumerate(slices):
        axes.set_position((0.005 + 0.228 * number, 0.08, 0.222, 0.84))
    roc.set_position((0.745, 0.31, 0.25, 0.61))  # room for the legend below
    draw_slices(slices, path_views(views, model.card, english()), views)
    figures.draw_roc(roc, model.card, result.answer, words=english())
    roc.set_title("Operating point", fontsize="medium")
    figure.savefig(PICTURE, dpi=75, pil_kwargs={"optimize": True})
    print(PICTURE)


def draw_slices(places: list[Axes], paths: list, views: object) -> None:
    """Draw T2, the highest b-value, and the latter with saliency, in the slice that has most of it."""
    t2, diffusion = paths[0], paths[-1]
    for axes, path, title in zip(
        places, (t2, diffusion, diffusion), ("T2", diffusion.image_name, "what the members looked at"), strict=True
    ):
        figures.draw_slice(axes, path.image, views, index=views.peak, window=figures.signal_window(path.image, views))
        axes.set_title(title, fontsize="medium")
    figures.draw_saliency(
        places[-1], diffusion.saliency, index=views.peak, greatest=float(np.abs(diffusion.saliency).max())
    )


if __name__ == "__main__":
    main()
