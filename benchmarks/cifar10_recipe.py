"""Which recipe? Variants of the CIFAR-10 bundle judged on training-set images that no member of the ensemble has drawn.

    OMP_NUM_THREADS=1 python benchmarks/cifar10_recipe.py DATASET_DIR OUTPUT_DIR [--members 0 1 2 ...] [--only NAME ...]

No test image is read. Each variant is a set of overrides of bundles/cifar10/train.json, with the weights that torch
draws and 100 epochs as the bundle had them then (today's: base_recipes.py). Each member is judged in three
states: the best by validation AUC (which the bundle took), the last, and the running mean of the weights (a factor of
0.98 a step). The logits of 1000 + 1000 such images are kept as OUTPUT_DIR/RATIO-NAME-MEMBER.npz, and what is there is
not trained again; several processes may share the members. Prints for each variant and state, in percent: AUC and FPR
of the ensemble, mean AUC of the members. docs/results/cifar10-recipe.md holds what came out.
"""

import argparse
import copy
import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn
from torch.optim import Optimizer

from prostate_alm.data.cifar10 import read_classes
from prostate_alm.data.cifar10_draws import draw_member
from prostate_alm.data.tensors import TensorLoader
from prostate_alm.method.metrics import auc, fpr_at_tpr
from prostate_alm.training.engines import Training
from prostate_alm.training.handlers import KeepBest

CONFIG = Path(__file__).resolve().parents[1] / "bundles" / "cifar10" / "train.json"
UNSEEN = 1000  # of each class
ALL_MEMBERS = range(10)
STATES = ("best", "last", "mean")
COSINE = "cosine"  # no setting of the bundle: the rate falls to 0 along half a cosine

FORMER: dict[str, Any] = {
    "network": "@network_def",
    "network_def#initial_scale": 1.0,
    "alm_epochs": 100,
    "logit_penalty": 0.0,
    "train#handlers#5": {
        "_target_": "prostate_alm.training.handlers.KeepBest",
        "network": "@network_def",
        "evaluator": "@validate#evaluator",
        "patience": 100,
    },
}
BASELINE: dict[str, Any] = {"alm": False}
FOCAL: dict[str, Any] = {"loss": "a_fl", "loss_parameters": {"gamma": 2.0}}
WEIGHTED: dict[str, Any] = {"loss": "w_bce"}  # its weight is N/3, as in the plan


def strength(mu0: float, multiplier_max: float) -> dict[str, Any]:
    return {"mu0": mu0, "constraint#multiplier_max": multiplier_max}


FIRST = strength(0.2, 1.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "baseline": BASELINE,
    "baseline, restart at 40": BASELINE | {"pretrain_epochs": 40, "alm_epochs": 60},
    "baseline, rate 0.001": BASELINE | {"learning_rate": 0.001},
    "baseline, rate 0.004": BASELINE | {"learning_rate": 0.004},
    "baseline, cosine": BASELINE | {COSINE: True},
    "baseline, 50 epochs, cosine from 0.003": BASELINE | {"alm_epochs": 50, "learning_rate": 0.003, COSINE: True},
    "mu 0.2, lambda to 0.3": strength(0.2, 0.3),
    "mu 0.2, lambda to 1": FIRST,
    "mu 1, lambda to 1": strength(1.0, 1.0),
    "mu 1, lambda to 3": strength(1.0, 3.0),
    "mu 3, lambda to 10": strength(3.0, 10.0),
    "mu 0.2, cosine": FIRST | {COSINE: True},
    "mu 0.2, 50 epochs, cosine from 0.003": FIRST | {"alm_epochs": 50, "learning_rate": 0.003, COSINE: True},
    "mu 0.2, from epoch 10": FIRST | {"pretrain_epochs": 10, "alm_epochs": 90},
    "mu 0.2, rate 0.004": FIRST | {"learning_rate": 0.004},
    "mu 0.2, delta 2": FIRST | {"delta": 2.0},
    "mu 0.2, delta 4": FIRST | {"delta": 4.0},
    "probability": FIRST | {"constraint#on": "probability"},
    "probability, from epoch 40": FIRST | {"constraint#on": "probability", "pretrain_epochs": 40, "alm_epochs": 60},
    "probability, lambda to 20": strength(0.2, 20.0) | {"constraint#on": "probability"},
    **{
        f"{name}, {text}": loss | variant
        for name, loss in {"a_fl": FOCAL, "w_bce": WEIGHTED}.items()
        for text, variant in {
            "baseline": BASELINE,
            "mu 0.2, lambda to 0.3": strength(0.2, 0.3),
            "mu 0.2, lambda to 1": FIRST,
            "mu 1, lambda to 3": strength(1.0, 3.0),
            "mu 3, lambda to 10": strength(3.0, 10.0),
        }.items()
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--members", type=int, nargs="+", choices=ALL_MEMBERS, default=list(ALL_MEMBERS))
    parser.add_argument("--ratios", type=int, nargs="+", default=[9, 19])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    unseen = TensorLoader(unseen_images(options.dataset_dir))
    for ratio in options.ratios:
        for member in options.members:
            for name in options.only:
                file = options.output_dir / f"{ratio}-{name}-{member}.npz"
                if not file.exists():
                    overrides = {**VARIANTS[name], "ratio": ratio, "member": member}
                    np.savez(file, **train(overrides, options.dataset_dir, unseen))
        print(f"1:{ratio:<40} {'state':5} {'AUC':>6} {'FPR@100':>8} {'FPR@95':>7} {'FPR@90':>7} {'member':>7}")
        for name in options.only:
            files = [options.output_dir / f"{ratio}-{name}-{member}.npz" for member in options.members]
            print(lines(name, files), flush=True)


def unseen_images(dataset_dir: Path) -> list[dict[str, Any]]:
    """Return images of classes 0 and 1 of the training files that no member draws; 1:2 draws those of rarer ratios."""
    data = read_classes(dataset_dir, (0, 1)).train
    drawn: set[int] = set()
    for member in ALL_MEMBERS:
        for rows in draw_member(data.classes, majority=0, minority=1, ratio=2, seed=0, member=member):
            drawn.update(rows.tolist())
    free = [row for row in range(len(data.classes)) if row not in drawn]
    chosen = [row for value in (0, 1) for row in [r for r in free if data.classes[r] == value][:UNSEEN]]
    return [
        {"image": torch.from_numpy(data.images[row]), "label": int(data.classes[row]), "sample_id": str(row)}
        for row in chosen
    ]


def train(overrides: dict[str, Any], dataset_dir: Path, unseen: TensorLoader) -> dict[str, Any]:
    """Return labels of the unseen images, and their logits in each state."""
    wanted = {**FORMER, **overrides}
    falls = wanted.pop(COSINE, False)
    if wanted.get("loss") == "w_bce":
        wanted["loss_parameters"] = {"weight": wanted["ratio"] / 3}
    config = ConfigParser(copy.deepcopy(ConfigParser.load_config_file(CONFIG)))
    with tempfile.TemporaryDirectory() as folder:
        config.update({"dataset_dir": str(dataset_dir), "output_dir": f"{folder}/out", "tracking_uri": "none"})
        config.update(wanted)
        training: Training = config.get_parsed_content("member_training")
        optimizer = training.trainer.optimizer
        mean = RunningMean(training.network)
        optimizer.register_step_post_hook(mean)
        training.run(on_epoch=cosine(optimizer, training.trainer.state.max_epochs) if falls else None)
    states = {"best": training.handler(KeepBest).network_state, "last": mean.last, "mean": mean.state}
    logits = {}
    for name, state in states.items():
        training.network.load_state_dict(state)
        scores = training.evaluate(unseen)
        logits[name] = scores.logits
    return {"labels": scores.labels, **logits}


class RunningMean:
    """The running mean of a network's weights, and the weights after the last step."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.state: dict[str, Tensor] = {}
        self.steps = 0

    @property
    def last(self) -> dict[str, Tensor]:
        return self._last

    def __call__(self, *_: object) -> None:
        self._last = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self.steps += 1
        share = 1 - min(0.98, (1 + self.steps) / (10 + self.steps))  # the first steps count less and less
        for key, value in self._last.items():
            self.state.setdefault(key, value.clone()).lerp_(value, share)


def cosine(optimizer: Optimizer, epochs: int) -> Callable[[list[dict[str, float]]], None]:
    def on_epoch(history: list[dict[str, float]]) -> None:
        for group in optimizer.param_groups:
            first = group.setdefault("first_rate", group["lr"])
            group["lr"] = first * 0.5 * (1 + math.cos(math.pi * len(history) / epochs))

    return on_epoch


def lines(name: str, files: list[Path]) -> str:
    members: list[Mapping[str, Any]] = [np.load(file) for file in files if file.exists()]
    labels = members[0]["labels"]
    text = []
    for state in STATES:
        logits = np.mean([member[state] for member in members], axis=0)
        single = np.mean([auc(labels, member[state]) for member in members])
        rates = [100 * fpr_at_tpr(labels, logits, tpr) for tpr in (1.0, 0.95, 0.9)]
        figures = zip([100 * auc(labels, logits), *rates, 100 * single], (6, 8, 7, 7, 7), strict=True)
        text.append(f"{name:42} {state:5} " + " ".join(f"{value:{width}.1f}" for value, width in figures))
    return "\n".join(text)


if __name__ == "__main__":
    main()
