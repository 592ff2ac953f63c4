"""What the constraint does to a network while it trains, where it helps and where it harms.

    OMP_NUM_THREADS=1 python benchmarks/why.py train DATASET_DIR OUTPUT_DIR [--settings 4/7-1:9 ...] [--methods bce ...]
    python benchmarks/why.py draw OUTPUT_DIR FIGURE.png [--setting 4/7-1:9]
    python benchmarks/why.py outliers OUTPUT_DIR

`train` is the league's training (five members of the first draw) and keeps, every fifth epoch, the logits of the
member's own training images, unaugmented, and of 1000 + 1000 training images that no member draws, the ratio of the
gradients of constraint and F at the logits, and the multipliers. No test image is read. `draw` shows AUC on both, the
distance of the class means on both, and that ratio. `outliers` prints how many positives end at the bound, whether
they are those that the other members, which never saw them, rank low, and where wrong labels stand among them.
"""

import argparse
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from league_training import (
    EPOCHS,
    MEMBERS,
    SETTINGS,
    Entry,
    Recipe,
    Samples,
    all_training_images,
    loss_of,
    scored,
    share_outranked,
    train,
    unseen_images,
)
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from prostate_alm.data.tensors import TensorLoader
from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.method.metrics import auc

METHODS = ("bce", "bce+3,3,0", "bce+alm", "mbauc", "mbauc+3,3,0", "mbauc+alm")
NAMES = {one: one.replace("+3,3,0", ", hard constraint").replace("+alm", ", relaxed constraint") for one in METHODS}
PLAYED = ("4/7-1:9", "4/7-1:9-noise20")
EVERY = 5
TOLD = (5, 10, 25, 50)


class Watch:
    """Keeps what is seen after every fifth epoch."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        self.file = entry.file(folder)
        self.epoch = 0
        self.seen: dict[str, list[Any]] = {name: [] for name in ("training", "unseen", "ratio", "multipliers")}
        self.judges: dict[str, TensorLoader] = {}
        self.ids: list[str] = []
        self.labels: list[int] = []

    def loss(self, entry: Entry, training: Samples) -> ConstrainedLoss:
        self.judges["training"] = TensorLoader(training)
        self.ids = [sample["sample_id"] for sample in training]
        self.labels = [sample["label"] for sample in training]
        return loss_of(entry, training)

    def images(self, data: Any, entry: Entry) -> Samples:
        unseen = unseen_images(data, entry)
        self.judges["unseen"] = TensorLoader(unseen)
        self.unseen_labels = [sample["label"] for sample in unseen]
        return all_training_images(data, entry)

    def after_epoch(self, network: nn.Module, loss: ConstrainedLoss) -> None:
        self.epoch += 1
        if self.epoch % EVERY:
            return
        for name, loader in self.judges.items():
            self.seen[name].append(scored(network, loader)[1])
        term = loss.term
        known = term.multipliers if term is not None else {}
        self.seen["ratio"].append(term.diagnostics().gradient_ratio if term is not None else 0.0)
        self.seen["multipliers"].append([known.get(key, 0.0) for key in self.ids])
        if term is not None:
            term.reset_diagnostics()

    def save(self, right_labels: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        kept = {name: np.array(values, np.float32) for name, values in self.seen.items()}
        rows = np.array([int(key) for key in self.ids])
        wrong = np.array(self.labels) != right_labels[rows]
        np.savez(
            self.file, rows=rows, labels=self.labels, wrong=wrong, unseen_labels=self.unseen_labels, all=logits, **kept
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("train")
    trains.add_argument("dataset_dir", type=Path)
    trains.add_argument("output_dir", type=Path)
    trains.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(PLAYED), metavar="PAIR-RATIO")
    trains.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="LOSS")
    draws = commands.add_parser("draw")
    draws.add_argument("output_dir", type=Path)
    draws.add_argument("png_file", type=Path)
    draws.add_argument("--setting", choices=SETTINGS, default=PLAYED[0], metavar="PAIR-RATIO")
    commands.add_parser("outliers").add_argument("output_dir", type=Path)
    options = parser.parse_args()
    if options.command == "draw":
        draw(options.output_dir, options.setting, options.png_file)
        return
    if options.command == "outliers":
        print_outliers(options.output_dir)
        return
    torch.set_num_threads(1)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for setting, method, member in product(options.settings, options.methods, MEMBERS):
        entry = Entry(setting, method, 0, member)
        watch = Watch(entry, options.output_dir)
        if not watch.file.exists():
            recipe = Recipe(loss=watch.loss, after_epoch=watch.after_epoch)
            watch.save(*train(entry, options.dataset_dir, watch.images, recipe))


def members(folder: Path, setting: str, method: str) -> list[Any]:
    files = [Entry(setting, method, 0, member).file(folder) for member in MEMBERS]
    return [np.load(file) for file in files if file.exists()]


def draw(folder: Path, setting: str, png_file: Path) -> None:
    """Draw means over the members: AUC and distance of the class means, and the constraint's share of the gradient."""
    epochs = np.arange(EVERY, EPOCHS + 1, EVERY)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    areas, distances, ratios = figure.subplots(1, 3)
    for method, color in zip(
        METHODS, ("tab:blue", "tab:cyan", "navy", "tab:orange", "tab:pink", "tab:red"), strict=True
    ):
        found = members(folder, setting, method)
        if not found:
            continue
        for name, style in (("training", "--"), ("unseen", "-")):
            labels = [one["labels" if name == "training" else "unseen_labels"] for one in found]
            logits = [one[name] for one in found]
            area = [[100 * auc(own, row) for row in each] for own, each in zip(labels, logits, strict=True)]
            gap = [
                each[:, own == 1].mean(1) - each[:, own == 0].mean(1) for own, each in zip(labels, logits, strict=True)
            ]
            areas.plot(
                epochs, np.mean(area, axis=0), style, color=color, label=NAMES[method] if name == "unseen" else None
            )
            distances.plot(epochs, np.mean(gap, axis=0), style, color=color)
        if "+" in method:
            ratios.plot(epochs, np.mean([one["ratio"] for one in found], axis=0), color=color, label=NAMES[method])
    areas.plot([], [], "--", color="gray", label="its training images")
    areas.set(xlabel="epoch", ylabel="AUC of a member, %")
    areas.legend(fontsize=8)
    distances.set(xlabel="epoch", ylabel="distance of the class means, logits", yscale="log")
    ratios.set(xlabel="epoch", ylabel="gradient of the constraint / of F", yscale="log")
    ratios.legend(fontsize=8)
    figure.suptitle(f"{setting}, mean of members; solid: images that no member trains on, dashed: its training images")
    figure.savefig(png_file, dpi=100)


def print_outliers(folder: Path) -> None:
    for setting, method in product(PLAYED, [one for one in METHODS if "+" in one]):
        found = members(folder, setting, method)
        if len(found) < 2:
            continue
        courses = [one["multipliers"][:, one["labels"] == 1] for one in found]  # members of (epochs, positives)
        weights = np.concatenate([course[-1] for course in courses])
        outranked = np.concatenate(
            [outranked_for(one, [other for other in found if other is not one]) for one in found]
        )
        wrong = np.concatenate([one["wrong"][one["labels"] == 1] for one in found])
        shares = [f"{np.mean(np.concatenate(rows) > 2.99):.0%}" for rows in zip(*courses, strict=True)]
        at_bound = [shares[epoch // EVERY - 1] for epoch in TOLD]
        correlation = spearmanr(weights, outranked).statistic if np.ptp(weights) else math.nan
        line = (
            f"{setting:16} {method:10} {len(weights)} positives, "
            f"at the bound after {', '.join(map(str, TOLD))} epochs: {' '.join(at_bound)}; "
            f"rank correlation with what the others outrank {correlation:+.2f}"
        )
        if wrong.any():
            line += (
                f", wrong labels: multiplier {weights[wrong].mean():.2f}, right ones {weights[~wrong].mean():.2f}; "
                f"the others outrank {outranked[wrong].mean():.0%}, {outranked[~wrong].mean():.0%}"
            )
        print(line)


def outranked_for(one: Any, others: list[Any]) -> NDArray[np.float64]:
    """Return, for each positive of a member, the share of its negatives that it outranks for the others."""
    logits = np.mean([other["all"] for other in others], axis=0)
    positives, negatives = (one["rows"][one["labels"] == value] for value in (1, 0))
    return share_outranked(logits, positives, negatives)


if __name__ == "__main__":
    main()
