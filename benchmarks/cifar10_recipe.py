"""Which recipe? Variants of the CIFAR-10 bundle judged on training-set images that no member of the ensemble has drawn.

    OMP_NUM_THREADS=1 python benchmarks/cifar10_recipe.py DATASET_DIR OUTPUT_DIR [--members 5] [--only NAME ...]

No test image is read. Each variant is a set of overrides of bundles/cifar10/train.json; its members are trained one
after another, their logits of 2000 + 2000 such images are kept as OUTPUT_DIR/NAME-MEMBER.npz, and what is there is not
trained again. Prints a line a variant: AUC and FPR of the ensemble in percent, mean AUC of the members on those images
and on their own validation images. docs/results/cifar10-recipe.md holds what came out.
"""

import argparse
import copy
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from prostate_alm.data.cifar10 import read_classes
from prostate_alm.data.cifar10_draws import draw_member
from prostate_alm.data.tensors import TensorLoader
from prostate_alm.method.metrics import auc, fpr_at_tpr

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "cifar10" / "train.json"
RATIOS = (9, 19)
UNSEEN = 2000
MEMBERS_MOST = 10


VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": {"alm": False},
    "baseline, restart at 40": {"alm": False, "pretrain_epochs": 40, "alm_epochs": 60},
    "baseline, rate 0.001": {"alm": False, "learning_rate": 0.001},
    "baseline, rate 0.004": {"alm": False, "learning_rate": 0.004},
    "logit": {},
    "logit, from epoch 10": {"pretrain_epochs": 10, "alm_epochs": 90},
    "logit, rate 0.004": {"learning_rate": 0.004},
    "logit, delta 2": {"delta": 2.0},
    "logit, delta 4": {"delta": 4.0},
    "logit, lambda to 5": {"constraint#multiplier_max": 5.0},
    "probability": {"constraint#on": "probability"},
    "probability, from epoch 40": {"constraint#on": "probability", "pretrain_epochs": 40, "alm_epochs": 60},
    "probability, lambda to 20": {"constraint#on": "probability", "constraint#multiplier_max": 20.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--members", type=int, default=5, help="at most 10 (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    unseen = TensorLoader(unseen_images(options.dataset_dir))
    for ratio in RATIOS:
        print(f"1:{ratio:<28} {'AUC':>6} {'FPR@100':>8} {'FPR@95':>7} {'FPR@90':>7} {'member':>7} {'own val':>8}")
        for name in options.only:
            files = [options.output_dir / f"{ratio}-{name}-{member}.npz" for member in range(options.members)]
            for member, file in enumerate(files):
                if not file.exists():
                    overrides = {**VARIANTS[name], "ratio": ratio, "member": member}
                    np.savez(file, **train(overrides, options.dataset_dir, unseen))
            print(line(name, files), flush=True)


def unseen_images(dataset_dir: Path) -> list[dict[str, Any]]:
    """Return images of classes 0 and 1 of the training files that no member draws; 1:2 draws those of rarer ratios."""
    data = read_classes(dataset_dir, (0, 1)).train
    drawn: set[int] = set()
    for member in range(MEMBERS_MOST):
        for rows in draw_member(data.classes, majority=0, minority=1, ratio=2, seed=0, member=member):
            drawn.update(rows.tolist())
    free = [row for row in range(len(data.classes)) if row not in drawn]
    chosen = [row for value in (0, 1) for row in [r for r in free if data.classes[r] == value][:UNSEEN]]
    return [
        {"image": torch.from_numpy(data.images[row]), "label": int(data.classes[row]), "sample_id": str(row)}
        for row in chosen
    ]


def train(overrides: dict[str, Any], dataset_dir: Path, unseen: TensorLoader) -> dict[str, Any]:
    """Return labels and logits of the unseen images, and the AUC on the member's own validation images."""
    config = ConfigParser(copy.deepcopy(ConfigParser.load_config_file(CONFIG)))
    with tempfile.TemporaryDirectory() as folder:
        config.update({"dataset_dir": str(dataset_dir), "output_dir": f"{folder}/out", "tracking_uri": "none"})
        config.update(overrides)
        training = config.get_parsed_content("trainer")
        training.run(Path(folder) / "checkpoint.pt")
    own, scores = (training.evaluate(loader) for loader in (training.loaders.validation, unseen))
    return {"labels": scores.labels, "logits": scores.logits, "validation_auc": auc(own.labels, own.logits)}


def line(name: str, files: list[Path]) -> str:
    members = [np.load(file) for file in files]
    labels, logits = members[0]["labels"], np.mean([member["logits"] for member in members], axis=0)
    single = np.mean([auc(labels, member["logits"]) for member in members])
    own = np.mean([member["validation_auc"] for member in members])
    rates = [100 * fpr_at_tpr(labels, logits, tpr) for tpr in (1.0, 0.95, 0.9)]
    figures = [100 * auc(labels, logits), *rates, 100 * single, 100 * own]
    return f"{name:30} " + " ".join(
        f"{value:{width}.1f}" for value, width in zip(figures, (6, 8, 7, 7, 7, 8), strict=True)
    )


if __name__ == "__main__":
    main()
