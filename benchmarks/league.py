"""The league: losses with and without the constraint, on pairs of CIFAR-10 that are easy, and on pairs that overlap.

    OMP_NUM_THREADS=1 python benchmarks/league.py train DATASET_DIR OUTPUT_DIR [--settings 2/3-1:19 ...]
    python benchmarks/league.py table OUTPUT_DIR TABLE.csv
    python benchmarks/league.py draw TABLE.csv FIGURE.png
    OMP_NUM_THREADS=1 python benchmarks/league.py screen DATASET_DIR OUTPUT_DIR [--strengths 3,3 10,10 ...]

`train` keeps the logits of each member on all 2000 test images of the two classes and does not train again what is
there; several processes may share the work. Network, batches, optimizer, number of steps and the choice of the state
by the member's own validation AUC are those of bundles/cifar10/train.json, in a loop of its own. A draw is the seed
that the images of its members are drawn with. `table` writes the figures of the ensembles, the mean over the draws, and
the change by the constraint with a 95 % interval: test images and draws are resampled together, pairs stay pairs.

Which pairs: the constraint's values were chosen on training images of 2/3 and 0/1 that no member draws
(docs/results/league.md); 3/5, 4/7, 2/6 and 1/9 had no part in the choice. In settings with noise some training labels
are wrong, those of validation and test are not. `screen` is how: it reads no test image, and
prints the figures for the first draw and each strength, mu and the bound of the multipliers.
"""

import argparse
import contextlib
import copy
import csv
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from prostate_alm.data.cifar10 import ImageSet, read_classes
from prostate_alm.data.cifar10_draws import draw_member
from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.splits import member_seed
from prostate_alm.data.tensors import TensorLoader, mirror_and_shift
from prostate_alm.dtype import fastest_dtype
from prostate_alm.method.bootstrap import draw_rows, percentile_interval
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import make_loss
from prostate_alm.method.metrics import auc, fpr_at_tpr
from prostate_alm.training.networks import CascadeNet

DRAWS, MEMBERS, EPOCHS = range(3), range(5), 100


class Setting(NamedTuple):
    """Two classes of CIFAR-10, and how the training images are drawn of them."""

    majority: int
    minority: int
    ratio: int
    noise_percent: int = 0
    """Of the number of positives in training: so many negatives are labelled as positives, too."""

    def __str__(self) -> str:
        noise = f"-noise{self.noise_percent}" if self.noise_percent else ""
        return f"{self.majority}/{self.minority}-1:{self.ratio}{noise}"


HARD = [Setting(*pair, ratio) for pair, ratio in product([(2, 3), (4, 7), (3, 5)], [9, 19])]
EASY = [Setting(0, 1, 9), Setting(0, 1, 19), Setting(1, 9, 19)]
BALANCED = [Setting(*pair, 2) for pair in ((2, 6), (0, 1), (4, 7), (3, 5))]
NOISY = [Setting(*pair, 9, noise) for pair, noise in product([(0, 1), (4, 7)], [5, 20])]
SETTINGS = {str(one): one for one in [*HARD, *BALANCED, *EASY, *NOISY]}
LOSSES = ("bce", "mbauc", "s_ml", "a_ml", "s_fl", "a_fl", "w_bce", "cb_bce", "ldam")
METHODS = tuple(loss + suffix for loss in LOSSES for suffix in ("", "+alm"))
COLUMNS = ("auc", "fpr_at_tpr98", "fpr_at_tpr95", "fpr_at_tpr90")
RESAMPLES = 1000
SCREENED, UNSEEN = ("2/3-1:19", "0/1-1:19"), 1000

Logits = NDArray[np.float32]
Judge = Callable[[Any, "Entry"], list[dict[str, Any]]]
"""The two splits of the files, and who plays -> the images that the member is judged on."""


@dataclass(frozen=True)
class Entry:
    """One member of the league: where it plays, with what, and which draw and member it is."""

    setting: str
    method: str
    draw: int
    member: int

    def file(self, folder: Path) -> Path:
        return folder / f"{self.setting}-{self.method}-{self.draw}-{self.member}.npz".replace("/", "_").replace(
            ":", "_"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("train")
    trains.add_argument("dataset_dir", type=Path)
    trains.add_argument("output_dir", type=Path)
    trains.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="PAIR-RATIO")
    trains.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:4], metavar="LOSS")
    trains.add_argument("--draws", nargs="+", type=int, default=list(DRAWS))
    screens = commands.add_parser("screen")
    screens.add_argument("dataset_dir", type=Path)
    screens.add_argument("output_dir", type=Path)
    screens.add_argument("--settings", nargs="+", choices=SETTINGS, default=SCREENED, metavar="PAIR-RATIO")
    screens.add_argument("--losses", nargs="+", choices=LOSSES, default=("bce", "mbauc"))
    screens.add_argument("--strengths", nargs="+", default=["1,1", "1,3", "3,3", "10,10"], metavar="MU,BOUND")
    prints = commands.add_parser("table")
    prints.add_argument("output_dir", type=Path)
    prints.add_argument("csv_file", type=Path)
    draws = commands.add_parser("draw")
    draws.add_argument("csv_file", type=Path)
    draws.add_argument("png_file", type=Path)
    options = parser.parse_args()
    if options.command == "draw":
        draw_effects(options.csv_file, options.png_file)
        return
    if options.command == "table":
        write_table(options.output_dir, options.csv_file)
        return
    torch.set_num_threads(1)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    if options.command == "screen":
        methods = [
            loss + suffix for loss in options.losses for suffix in ("", *(f"+{one}" for one in options.strengths))
        ]
        screen(options.settings, methods, options.dataset_dir, options.output_dir)
        return
    for draw, setting, member, method in product(options.draws, options.settings, MEMBERS, options.methods):
        play(Entry(setting, method, draw, member), options.dataset_dir, options.output_dir)


def plain_gradients(network: nn.Module, loss: ConstrainedLoss, batch: Any) -> None:
    """Leave the gradients of the loss in the network."""
    loss(outputs(network, batch["image"]), batch["label"], batch["sample_id"]).backward()


class Recipe(NamedTuple):
    """How a member is trained, but for its loss."""

    gradients: Callable[[nn.Module, ConstrainedLoss, Any], None] = plain_gradients
    weight_decay: float = 1e-4


AS_IT_IS = Recipe()


def screen(
    settings: Sequence[str], methods: Sequence[str], dataset_dir: Path, folder: Path, *, recipe: Recipe = AS_IT_IS
) -> None:
    """Train on the first draw, judge on training images that no member draws, and print the ensembles' figures."""
    for setting, method in product(settings, methods):
        for member in MEMBERS:
            play(Entry(setting, method, 0, member), dataset_dir, folder, judge=unseen_images, recipe=recipe)
        for labels, logits in ensembles(folder, setting, method)[:1]:
            print(f"{setting:9} {method:14}", *(f"{value:6.1f}" for value in figures(labels, logits)), flush=True)


def play(
    entry: Entry, dataset_dir: Path, folder: Path, *, judge: Judge | None = None, recipe: Recipe = AS_IT_IS
) -> None:
    """Train a member and keep its logits, unless they are there or another process is at it."""
    file = entry.file(folder)
    with claimed(file) as is_mine:
        if is_mine and not file.exists():
            labels, logits = train(entry, dataset_dir, judge or test_images, recipe)
            partial = file.with_suffix(".partial.npz")
            np.savez(partial, labels=labels, logits=logits)
            partial.replace(file)


@contextlib.contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Hold a lock file beside a result; one that a killed process left behind has to be deleted by hand."""
    lock = file.with_suffix(".lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        yield False
        return
    try:
        yield True
    finally:
        lock.unlink()


def test_images(data: Any, entry: Entry) -> list[dict[str, Any]]:
    return samples(data.test, np.arange(len(data.test.classes)), positive=SETTINGS[entry.setting].minority)


def unseen_images(data: Any, entry: Entry) -> list[dict[str, Any]]:
    """Return training images that no member draws at any ratio: draws are nested, 1:2 holds those of rarer ratios."""
    majority, minority, *_ = SETTINGS[entry.setting]
    given = {"majority": majority, "minority": minority, "ratio": 2, "seed": entry.draw}
    drawn = np.concatenate(
        [rows for member in range(10) for rows in draw_member(data.train.classes, **given, member=member)]
    )
    free = np.setdiff1d(np.arange(len(data.train.classes)), drawn)
    chosen = [free[data.train.classes[free] == value][:UNSEEN] for value in (majority, minority)]
    return samples(data.train, np.concatenate(chosen), positive=minority)


def train(entry: Entry, dataset_dir: Path, judge: Judge, recipe: Recipe = AS_IT_IS) -> tuple[NDArray[np.int64], Logits]:
    """Return labels and logits of the images that judge."""
    majority, minority, ratio, noise_percent = SETTINGS[entry.setting]
    data = read_classes(dataset_dir, (majority, minority))
    drawn = draw_member(
        data.train.classes, majority=majority, minority=minority, ratio=ratio, seed=entry.draw, member=entry.member
    )
    training, validation = (samples(data.train, rows, positive=minority) for rows in drawn)
    test = TensorLoader(judge(data, entry))
    seed = member_seed(entry.draw, entry.member, 0, 0)
    mislabel(training, percent=noise_percent, seed=seed)
    torch.manual_seed(seed)
    network = CascadeNet(2, [3], features=[16, 32, 64, 128], pooling=[[2, 2]] * 4)
    loss = loss_of(entry.method, training, ratio=ratio)
    fit(network, loss, training, TensorLoader(validation), recipe=recipe, seed=seed)
    return scored(network, test)


def samples(images: ImageSet, rows: NDArray[np.int64], *, positive: int) -> list[dict[str, Any]]:
    return [
        {
            "image": torch.from_numpy(images.images[row]),
            "label": int(images.classes[row] == positive),
            "sample_id": str(row),
        }
        for row in rows
    ]


def mislabel(training: list[dict[str, Any]], *, percent: int, seed: int) -> None:
    """Label negatives as positives, so many as are `percent` of the positives, rounded up."""
    negatives = [sample for sample in training if not sample["label"]]
    positives = len(training) - len(negatives)
    for row in np.random.default_rng(seed).permutation(len(negatives))[: math.ceil(positives * percent / 100)]:
        negatives[row]["label"] = 1


def loss_of(method: str, training: list[dict[str, Any]], *, ratio: float) -> ConstrainedLoss:
    """Return a loss, alone, with the constraint ("+alm"), or with one of another strength ("+MU,BOUND")."""
    name, constrained, strength = method.partition("+")
    labels = [sample["label"] for sample in training]
    counts = {"class_counts": (labels.count(0), labels.count(1))}
    parameters = {"w_bce": {"weight": ratio / 3}, "cb_bce": counts, "ldam": counts}.get(name, {})
    base = make_loss(name, **parameters)
    if not constrained:
        return ConstrainedLoss(base)
    given = (
        {} if strength == "alm" else dict(zip(("mu", "multiplier_max"), map(float, strength.split(",")), strict=True))
    )
    return ConstrainedLoss(base, AugmentedLagrangian([sample["sample_id"] for sample in training], **given))


def fit(
    network: nn.Module,
    loss: ConstrainedLoss,
    training: list[dict[str, Any]],
    validation: TensorLoader,
    *,
    recipe: Recipe,
    seed: int,
) -> None:
    """Train for EPOCHS and leave the network in the state with the greatest validation AUC, the first of equals."""
    batches = StratifiedBatchSampler([sample["label"] for sample in training], batch_size=64, seed=seed)
    loader = TensorLoader(training, batches, augment=mirror_and_shift)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.002, weight_decay=recipe.weight_decay)
    best, state = -1.0, copy.deepcopy(network.state_dict())
    for epoch in range(EPOCHS):
        loader.set_seed(member_seed(seed, 0, 1, epoch))
        network.train()
        for batch in loader:
            optimizer.zero_grad()
            recipe.gradients(network, loss, batch)
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if loss.term is not None:
                loss.term.update_multipliers()
        reached = auc(*scored(network, validation))
        if loss.term is not None:
            loss.term.observe_validation(reached)
        if reached > best:
            best, state = reached, copy.deepcopy(network.state_dict())
    network.load_state_dict(state)


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    """Return logits (B,), computed in bfloat16 where the processor has it, as the bundle does."""
    dtype = fastest_dtype(images.device)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits: Tensor = network(images)
    return logits.float().flatten()


def scored(network: nn.Module, loader: TensorLoader) -> tuple[NDArray[np.int64], Logits]:
    network.eval()
    with torch.no_grad():
        batches = [(batch["label"], outputs(network, batch["image"])) for batch in loader]
    labels, logits = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    return labels, logits


# --- the table ----------------------------------------------------------------------------------------------------


def write_table(folder: Path, csv_file: Path) -> None:
    """Write a row for each setting and loss that is complete, with and without the constraint, and print it."""
    rows = []
    for setting, loss in product(SETTINGS, LOSSES):
        pair = [ensembles(folder, setting, method) for method in (loss, f"{loss}+alm")]
        draws = min(len(one) for one in pair)
        if draws:
            rows += table_rows(setting, loss, [one[:draws] for one in pair])
    with csv_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print("  ".join(f"{value:>9}" for value in row.values()))


def draw_effects(csv_file: Path, png_file: Path) -> None:
    """Draw the change of the FPR at 95 % TPR, with its interval, over how hard the setting is for the loss alone."""
    with csv_file.open(newline="", encoding="utf-8") as file:
        rows = {(row["setting"], row["loss"], row["figure"]): row for row in csv.DictReader(file)}
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    for loss, style in (("bce", "tab:blue"), ("mbauc", "tab:orange")):
        for (setting, own, column), row in rows.items():
            if own == loss and column == "fpr_at_tpr95":
                area, change = float(rows[setting, loss, "auc"]["without"]), float(row["change"])
                ends = [[change - float(row["low"])], [float(row["high"]) - change]]
                axes.errorbar(area, change, yerr=ends, fmt="o", color=style, capsize=3)
                axes.annotate(setting, (area, change), (5, 4), textcoords="offset points", fontsize=8)
        axes.plot([], [], "o", color=style, label=loss.upper())
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(xlabel="AUC of the loss alone, %", ylabel="change of FPR at 95 % TPR, points")
    axes.legend(loc="lower left")
    figure.savefig(png_file, dpi=100)


def ensembles(folder: Path, setting: str, method: str) -> list[tuple[NDArray[np.int64], Logits]]:
    """Return labels and mean logits of each draw, from 0, whose members are all there."""
    found = []
    for draw in DRAWS:
        files = [Entry(setting, method, draw, member).file(folder) for member in MEMBERS]
        if not all(file.exists() for file in files):
            break
        members = [np.load(file) for file in files]
        found.append((members[0]["labels"], np.mean([member["logits"] for member in members], axis=0)))
    return found


def table_rows(setting: str, loss: str, pair: list[list[tuple[NDArray[np.int64], Logits]]]) -> list[dict[str, Any]]:
    """Return a row for each figure: without, with, change, and the interval of the change, in percent."""
    without, with_ = (np.array([figures(*draw) for draw in one]) for one in pair)  # (draws, columns)
    low, high = intervals(pair)
    return [
        {
            "setting": setting,
            "loss": loss,
            "draws": len(without),
            "figure": column,
            "without": f"{without[:, place].mean():.1f}",
            "with": f"{with_[:, place].mean():.1f}",
            "change": f"{(with_ - without)[:, place].mean():+.1f}",
            "low": f"{low[place]:+.1f}",
            "high": f"{high[place]:+.1f}",
        }
        for place, column in enumerate(COLUMNS)
    ]


def figures(labels: NDArray[np.int64], logits: Logits) -> list[float]:
    rates = [fpr_at_tpr(labels, logits, tpr) for tpr in (0.98, 0.95, 0.90)]
    return [100 * value for value in (auc(labels, logits), *rates)]


def intervals(pair: list[list[tuple[NDArray[np.int64], Logits]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the 2.5 % and 97.5 % quantiles of the mean change over resampled draws and test images."""
    random = np.random.default_rng(0)
    labels = pair[0][0][0]
    classes = [np.flatnonzero(labels == value) for value in (0, 1)]
    changes = []
    for _ in range(RESAMPLES):
        rows = draw_rows(random, classes)
        draws = random.integers(len(pair[0]), size=len(pair[0]))
        without, with_ = (
            np.mean([figures(one[draw][0][rows], one[draw][1][rows]) for draw in draws], axis=0) for one in pair
        )
        changes.append(with_ - without)
    return percentile_interval(np.array(changes).T)


if __name__ == "__main__":
    main()
