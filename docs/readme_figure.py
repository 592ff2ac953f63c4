"""Draw docs/images/readme.png: a synthetic study beside the ROC curve of a trained member.

make train
python docs/readme_figure.py outputs/prostate/run-001
"""

import csv
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure

from prostate_alm.method.metrics import auc, fpr_at_tpr
from prostate_alm.training.results import roc_points

VOLUMES = Path("data/phantom-60-seed0/PHANTOM-0005")
LEVEL = 9  # slice through the lesion
PICTURE = Path(__file__).parent / "images" / "readme.png"


def main(run: Path) -> None:
    with (run / "predictions.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    labels = np.array([float(row["label"]) for row in rows])
    logits = np.array([float(row["logit"]) for row in rows])
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    study, curve = figure.subfigures(1, 2, width_ratios=(1.05, 1))
    draw_study(study)
    draw_curve(curve, labels, logits)
    figure.savefig(PICTURE, dpi=75, pil_kwargs={"optimize": True})


def draw_study(figure: Figure) -> None:
    t2 = np.asarray(nib.load(VOLUMES / "t2.nii.gz").dataobj)
    dwi = np.asarray(nib.load(VOLUMES / "dwi.nii.gz").dataobj)
    images = {"T2": t2, "b 100": dwi[..., 0], "b 600": dwi[..., 1], "b 1000": dwi[..., 2]}
    for axes, (name, image) in zip(figure.subplots(2, 2).flat, images.items(), strict=True):
        axes.imshow(image[..., LEVEL].T, cmap="gray", vmax=np.percentile(image[..., LEVEL], 99.7), origin="lower")
        axes.set(title=name, xticks=[], yticks=[])
    figure.suptitle("A synthetic study with an equivocal lesion (label 1)")


def draw_curve(figure: Figure, labels: np.ndarray, logits: np.ndarray) -> None:
    axes = figure.subplots()
    fpr, tpr = roc_points(labels, logits)
    axes.axhspan(0.95, 1.0, color="tab:orange", alpha=0.2, label="TPR of 95 % and more")
    axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":")
    axes.plot(fpr, tpr, color="tab:blue", linewidth=2, label=f"AUC {auc(labels, logits):.3f}")
    axes.plot(fpr_at_tpr(labels, logits, 1.0), 1.0, "o", color="tab:red", label="no positive missed")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_title(f"Test studies: {int(labels.sum())} positive, {int(len(labels) - labels.sum())} negative")
    axes.legend(loc="lower right")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
