"""One critical class among the ten of CIFAR-10-LT, each in turn: three losses with the constraint and without it.

    OMP_NUM_THREADS=1 python benchmarks/cifar10_critical.py train DATASET_DIR OUTPUT_DIR [--members 0 1 2 --draws 0]
    python benchmarks/cifar10_critical.py table OUTPUT_DIR TABLE.csv
    OMP_NUM_THREADS=1 python benchmarks/cifar10_critical.py screen DATASET_DIR
    OMP_NUM_THREADS=1 python benchmarks/cifar10_critical.py overhead

Class k has largest * imbalance^(-k / 9) training images (PROFILE). A member trains STAGES[0] epochs with the loss
alone; from there, with a new optimizer whose rate falls to 0, STAGES[1] epochs with the loss alone (the baseline)
and, for each class, as many with the constraint: the paper's order, and one first stage for eleven second ones.
LDAM's weights are deferred to the second stage. The last state is judged, on all 10 000 test images: no state is
chosen. `train` keeps the logits and does not train again what is there. `table` gives, of the ensembles (the mean of
the members' logits), the error of the other classes at 80, 90 and 95 % TPR of the critical class, the FPR there, and
the balanced accuracy of the arg-max, with 95 % intervals of the change: test images and draws are resampled together,
pairs stay pairs. Of the members those count that every loss and class has; of the draws those that have any. `screen`
prints what several strengths and forms of the constraint change in the same figures, on training images that a member
of the first draw does not see, in the mean over critical classes and members, with the standard error of that mean;
with `--keep DIR` the logits stay there, and what is there is not trained again. A strength is MU,BOUND and words:
`each` (`CriticalClasses`), `rows` (the term is Σ λ_j r_j over the rows of the batch in place of its critical samples:
a critical sample weighs the same however many there are), `own` (the rivals' logits get no gradient from it).
"""

import argparse
import copy
import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prostate_alm.data.cifar10 import Cifar10, ImageSet, read_cifar10
from prostate_alm.data.cifar10_draws import class_sizes, draw_classes
from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.splits import member_seed
from prostate_alm.data.tensors import TensorLoader, mirror_and_shift
from prostate_alm.method.batch import Batch
from prostate_alm.method.bootstrap import draw_rows, percentile_interval
from prostate_alm.method.class_losses import ClassLoss, make_class_loss
from prostate_alm.method.class_metrics import one_against_rest
from prostate_alm.method.critical import CriticalClasses, log_odds
from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.method.metrics import auc, threshold_at_tpr
from prostate_alm.training.networks import CascadeNet

Profile = tuple[int, float]
"""Images of the largest class, and for one of the smallest."""

PROFILE: Profile = (500, 100)
VALIDATION_SHARE = 0.2
STAGES, BATCH_SIZE, RATE = (15, 8), 64, 0.002
CLASSES, LOSSES, LEVELS = range(10), ("ce", "ldam", "la"), (0.8, 0.9, 0.95)
NAMES = (*(f"rest_error_at_tpr{100 * t:.0f}" for t in LEVELS), *(f"fpr_at_tpr{100 * t:.0f}" for t in LEVELS))
COLUMNS = (*NAMES, "balanced_accuracy")
RESAMPLES, UNSEEN = 300, 300

Logits = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("train")
    trains.add_argument("dataset_dir", type=Path)
    trains.add_argument("output_dir", type=Path)
    trains.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    trains.add_argument("--members", nargs="+", type=int, default=range(5))
    trains.add_argument("--draws", nargs="+", type=int, default=range(3))
    trains.add_argument("--strength", default="3,3", metavar="MU,BOUND[,WORD...]")
    prints = commands.add_parser("table")
    prints.add_argument("output_dir", type=Path)
    prints.add_argument("csv_file", type=Path)
    prints.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    screens = commands.add_parser("screen")
    screens.add_argument("dataset_dir", type=Path)
    screens.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    screens.add_argument(
        "--strengths", nargs="+", default=["0.1,0.1", "0.3,0.3", "1,1", "3,3"], metavar="MU,BOUND[,WORD...]"
    )
    screens.add_argument("--members", nargs="+", type=int, default=[0])
    screens.add_argument("--unseen", type=int, default=300, metavar="N", help="images of each class")
    screens.add_argument("--keep", type=Path, metavar="DIR")
    for one in (trains, screens):
        one.add_argument("--profile", nargs=2, type=int, default=PROFILE, metavar=("LARGEST", "IMBALANCE"))
        one.add_argument("--stages", nargs=2, type=int, default=STAGES, metavar="EPOCHS")
    screens.add_argument("--critical", nargs="+", type=int, default=list(CLASSES))
    commands.add_parser("overhead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "overhead":
        print_overhead()
    elif options.command == "table":
        write_table(options.output_dir, options.csv_file, losses=options.losses)
    elif options.command == "screen":
        how = {"stages": tuple(options.stages), "profile": tuple(options.profile)}
        screen(read_cifar10(options.dataset_dir), options, how)
    else:
        options.output_dir.mkdir(parents=True, exist_ok=True)
        data = read_cifar10(options.dataset_dir)
        np.save(options.output_dir / "labels.npy", data.test.classes)
        how = {"stages": tuple(options.stages), "profile": tuple(options.profile)}
        for draw, member, loss in product(options.draws, options.members, options.losses):
            constraint = strength_of(options.strength)
            play(data, loss, constraint, draw=draw, member=member, folder=options.output_dir, **how)


@dataclass
class Started:
    """A member after its first stage, and what the second one needs."""

    network: nn.Module
    base: ClassLoss
    loader: TensorLoader
    validation: TensorLoader
    ids: list[str]
    seed: int
    drawn: NDArray[np.int64]
    state: dict[str, Any]
    stages: tuple[int, int]

    def second(self, critical: int | None, **constraint: Any) -> nn.Module:
        """Return the network after a second stage with the constraint of a class, or without one."""
        self.network.load_state_dict(self.state)
        self.base.weighs = True
        term = None if critical is None else Variant(self.ids, critical, **constraint)
        epochs = range(self.stages[0], sum(self.stages))
        fit(self.network, ConstrainedLoss(self.base, term), self.loader, self.validation, seed=self.seed, epochs=epochs)
        return self.network


class Variant(CriticalClasses):
    """The constraint of one class, also in the forms that were tried."""

    def __init__(self, ids: list[str], critical: int, *, words: Sequence[str] = (), **constraint: Any) -> None:
        against = "each" if "each" in words else "rest"
        super().__init__(ids, [critical], classes=10, against=against, **constraint)
        self.own, self.rows = "own" in words, "rows" in words

    def of_batch(self, batch: Batch) -> Tensor:
        (c,) = self.critical
        kept = torch.arange(self.classes) == c
        logits = torch.where(kept, batch.logits, batch.logits.detach()) if self.own else batch.logits
        value = super().of_batch(replace(batch, logits=logits))
        return value * batch.labels.count(c) / len(batch.labels) if self.rows else value


def start(
    data: Cifar10, loss: str, *, draw: int, member: int, stages: tuple[int, int] = STAGES, profile: Profile = PROFILE
) -> Started:
    sizes = class_sizes(*profile)
    kept = [max(1, round(VALIDATION_SHARE * size)) for size in sizes]
    drawn = draw_classes(data.train.classes, train=sizes, validation=kept, seed=draw, member=member)
    training, validation = (samples(data.train, rows) for rows in drawn)
    seed = member_seed(draw, member, 0, 0)
    torch.manual_seed(seed)
    network = CascadeNet(2, [3], features=[16, 32, 64, 128], pooling=[[2, 2]] * 4, outputs=10)
    loader = TensorLoader(training, batches_of(training, seed), augment=mirror_and_shift)
    base = make_class_loss(loss, classes=10, **({} if loss == "ce" else {"class_counts": sizes}))
    base.weighs = False
    own = TensorLoader(validation)
    fit(network, ConstrainedLoss(base), loader, own, seed=seed, epochs=range(stages[0]), falls=False)
    ids, state = [sample["sample_id"] for sample in training], copy.deepcopy(network.state_dict())
    return Started(network, base, loader, own, ids, seed, np.concatenate(drawn), state, stages)


def strength_of(text: str) -> dict[str, Any]:
    mu, bound, *words = text.split(",")
    if unknown := set(words) - {"each", "own", "rows"}:
        raise SystemExit(f"words of a strength must be each, own or rows, got {unknown} in {text}")
    return {"mu": float(mu), "multiplier_max": float(bound), "words": words}


def play(
    data: Cifar10, loss: str, constraint: dict[str, Any], *, draw: int, member: int, folder: Path, **how: Any
) -> None:
    """Train the baseline and each critical class of one member from one first stage; keep the logits of the test."""
    files = {c: file_of(folder, loss, c, draw=draw, member=member) for c in (None, *CLASSES)}
    if all(file.exists() for file in files.values()):
        return
    begun = time.monotonic()
    test = TensorLoader(samples(data.test, np.arange(len(data.test.classes))))
    started = start(data, loss, draw=draw, member=member, **how)
    for critical, file in files.items():
        if not file.exists():
            keep(file, scored(started.second(critical, **constraint), test)[1])
    print(f"{loss} draw {draw} member {member}: {time.monotonic() - begun:.0f} s", flush=True)


def screen(data: Cifar10, options: argparse.Namespace, how: dict[str, Any]) -> None:
    """Print what strengths of the constraint change, in the mean over classes and members."""
    for loss in options.losses:
        without, with_ = [], {strength: [] for strength in options.strengths}
        for member in options.members:
            unseen, logits_of = screened(data, loss, member, options, how)
            labels = data.train.classes[unseen]
            before, after = logits_of(None, ""), {c: {s: logits_of(c, s) for s in with_} for c in options.critical}
            for c in options.critical:
                without.append(figures(labels, reduce(labels, before, c), c))
                for strength, own in after[c].items():
                    with_[strength].append(figures(labels, reduce(labels, own, c), c))
        print(f"{loss:5} without        ", *(f"{value:14.2f}" for value in np.mean(without, axis=0)), flush=True)
        for strength, own in with_.items():
            change = np.array(own) - np.array(without)
            error = change.std(axis=0, ddof=1) / math.sqrt(len(change))
            cells = (f"{value:+7.2f} ±{e:5.2f}" for value, e in zip(change.mean(axis=0), error, strict=True))
            print(f"{loss:5} {strength:15}", *cells, flush=True)


def screened(
    data: Cifar10, loss: str, member: int, options: argparse.Namespace, how: dict[str, Any]
) -> tuple[NDArray[np.int64], Callable[[int | None, str], Logits]]:
    """Return which training images a member does not see, and a function that gives the logits of a second stage."""
    started: list[Started] = []
    sizes = class_sizes(*how["profile"])
    kept = [max(1, round(VALIDATION_SHARE * size)) for size in sizes]
    drawn = np.concatenate(draw_classes(data.train.classes, train=sizes, validation=kept, seed=0, member=member))
    free = np.setdiff1d(np.arange(len(data.train.classes)), drawn)
    unseen = np.concatenate([free[data.train.classes[free] == c][: options.unseen] for c in CLASSES])

    def logits_of(critical: int | None, strength: str) -> Logits:
        parts = [loss, *how["profile"], *how["stages"], options.unseen, member, critical, strength]
        file = options.keep and options.keep / ("-".join(map(str, parts)) + ".npy")
        if file and file.exists():
            return np.load(file)
        if not started:
            started.append(start(data, loss, draw=0, member=member, **how))
        constraint = {} if critical is None else strength_of(strength)
        found = scored(started[0].second(critical, **constraint), TensorLoader(samples(data.train, unseen)))[1]
        if file:
            keep(file, found)
        return found

    return unseen, logits_of


def keep(file: Path, logits: Logits) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npy")
    np.save(partial, logits)
    partial.replace(file)


def file_of(folder: Path, loss: str, critical: int | None, *, draw: int, member: int) -> Path:
    return folder / f"{loss}-{'baseline' if critical is None else critical}-{draw}-{member}.npy"


def samples(images: ImageSet, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    return [
        {"image": torch.from_numpy(images.images[row]), "label": int(images.classes[row]), "sample_id": str(row)}
        for row in rows
    ]


def batches_of(training: list[dict[str, Any]], seed: int) -> StratifiedBatchSampler:
    return StratifiedBatchSampler([sample["label"] for sample in training], batch_size=BATCH_SIZE, seed=seed)


def fit(
    network: nn.Module,
    loss: ConstrainedLoss,
    loader: TensorLoader,
    validation: TensorLoader,
    *,
    seed: int,
    epochs: range,
    falls: bool = True,
) -> None:
    """Train; the rate falls to 0 along a cosine unless it stays, μ follows the validation AUC of the class."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    steps = len(loader) * len(epochs)
    fall = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2 if falls else 1.0
    )
    for epoch in epochs:
        loader.set_seed(member_seed(seed, 0, 1, epoch))
        network.train()
        for batch in loader:
            optimizer.zero_grad()
            loss(network(batch["image"]), batch["label"], batch["sample_id"]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            fall.step()
            if loss.term is not None:
                loss.term.update_multipliers()
        if isinstance(loss.term, CriticalClasses):
            labels, logits = scored(network, validation)
            for (c, rivals), term in zip(loss.term.rivals.items(), loss.term.terms.values(), strict=True):
                term.observe_validation(auc(labels == c, log_odds(torch.from_numpy(logits), c, rivals=rivals)))


def scored(network: nn.Module, loader: TensorLoader) -> tuple[NDArray[np.int64], Logits]:
    network.eval()
    with torch.no_grad():
        batches = [(batch["label"], network(batch["image"])) for batch in loader]
    labels, logits = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
    return labels, logits


# --- the table ----------------------------------------------------------------------------------------------------


def write_table(folder: Path, csv_file: Path, *, losses: Sequence[str]) -> None:
    """Write a row for each loss, critical class and figure, and their means, and print those."""
    labels = np.load(folder / "labels.npy")
    rows = []
    for loss in losses:
        pairs = {c: list(ensembles(folder, loss, c, losses=losses)) for c in CLASSES}
        if all(pairs.values()):
            members = len(members_of(folder, 0, losses=losses))
            rows += [{"members": members} | row for row in table_rows(labels, loss, pairs)]
    with csv_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        if row["critical"] == "mean":
            print("  ".join(f"{value:>22}" if key == "figure" else f"{value:>7}" for key, value in row.items()))


def ensembles(folder: Path, loss: str, critical: int, *, losses: Sequence[str]) -> Iterator[tuple[Logits, Logits]]:
    """Yield the mean logits of the baseline and of the constraint of each draw, over the members that all have."""
    for draw in range(3):
        members = members_of(folder, draw, losses=losses)
        if members:
            yield tuple(  # type: ignore[misc]  # of two
                np.mean([np.load(file_of(folder, loss, c, draw=draw, member=m)) for m in members], axis=0)
                for c in (None, critical)
            )


def members_of(folder: Path, draw: int, *, losses: Sequence[str]) -> list[int]:
    """Return the members of a draw that every loss and class has."""
    wanted = list(product(losses, (None, *CLASSES)))
    return [m for m in range(5) if all(file_of(folder, one, c, draw=draw, member=m).exists() for one, c in wanted)]


def table_rows(
    labels: NDArray[np.int64], loss: str, pairs: dict[int, list[tuple[Logits, Logits]]]
) -> list[dict[str, Any]]:
    """Return a row for each class and figure: without, with, change, and the interval of the change, in percent."""
    reduced = {c: [[reduce(labels, logits, c) for logits in pair] for pair in own] for c, own in pairs.items()}
    found = changes(reduced, labels, None)  # (classes, 2, columns)
    random = np.random.default_rng(0)
    drawn = np.array([changes(reduced, labels, random) for _ in range(RESAMPLES)])  # (resamples, classes, 2, columns)
    changed = np.moveaxis(drawn[:, :, 1] - drawn[:, :, 0], 0, -1)  # (classes, columns, resamples)
    (low, high), (low_mean, high_mean) = percentile_interval(changed), percentile_interval(changed.mean(axis=0))
    draws = len(pairs[0])
    rows = [
        row_of(loss, str(c), draws, column, found[c, :, i], (low[c, i], high[c, i]))
        for c, (i, column) in product(CLASSES, enumerate(COLUMNS))
    ]
    mean = found.mean(axis=0)
    return rows + [
        row_of(loss, "mean", draws, column, mean[:, i], (low_mean[i], high_mean[i])) for i, column in enumerate(COLUMNS)
    ]


def row_of(
    loss: str, critical: str, draws: int, figure: str, pair: NDArray[np.float64], bounds: tuple[float, float]
) -> dict[str, Any]:
    return {
        "loss": loss,
        "critical": critical,
        "draws": draws,
        "figure": figure,
        "without": f"{pair[0]:.1f}",
        "with": f"{pair[1]:.1f}",
        "change": f"{pair[1] - pair[0]:+.2f}",
        "low": f"{bounds[0]:+.2f}",
        "high": f"{bounds[1]:+.2f}",
    }


def reduce(labels: NDArray[np.int64], logits: Logits, critical: int) -> NDArray[np.float64]:
    """Return all that the figures need, (n, 3): critical score, right among the rest, right by the arg-max."""
    _, columns = one_against_rest(labels, logits, critical=critical)
    return np.column_stack([columns, logits.argmax(axis=1) == labels])


def changes(
    reduced: dict[int, list[list[NDArray[np.float64]]]], labels: NDArray[np.int64], random: np.random.Generator | None
) -> NDArray[np.float64]:
    """Return the figures without and with the constraint, the mean over the draws, (classes, 2, columns)."""
    rows, picked = np.arange(len(labels)), np.arange(len(reduced[0]))
    if random is not None:
        rows = draw_rows(random, [np.flatnonzero(labels == c) for c in CLASSES])
        picked = random.integers(len(picked), size=len(picked))
    return np.array(
        [
            np.mean([[figures(labels[rows], one[rows], c) for one in reduced[c][d]] for d in picked], axis=0)
            for c in CLASSES
        ]
    )


def figures(labels: NDArray[np.int64], columns: NDArray[np.float64], critical: int) -> list[float]:
    truth = labels == critical
    scores, right = columns[~truth, 0], columns[~truth, 1] > 0
    called = [scores >= threshold_at_tpr(truth, columns[:, 0], tpr) for tpr in LEVELS]
    recalls = np.bincount(labels, columns[:, 2]) / np.bincount(labels)
    values = (*((one | ~right).mean() for one in called), *(one.mean() for one in called), recalls.mean())
    return [100 * float(value) for value in values]


# --- the cost -----------------------------------------------------------------------------------------------------


def print_overhead(steps: int = 200) -> None:
    """Print the median time of a training step, and by how much the constraint lengthens what follows the logits."""
    labels = torch.arange(BATCH_SIZE) % 10
    ids, images = [str(i) for i in range(BATCH_SIZE)], torch.randn(BATCH_SIZE, 3, 32, 32)
    network = CascadeNet(2, [3], features=[16, 32, 64, 128], pooling=[[2, 2]] * 4, outputs=10)
    base = make_class_loss("ce", classes=10)
    both = ConstrainedLoss(base), ConstrainedLoss(base, CriticalClasses(ids, [3], classes=10))
    whole = median_time(lambda: step(network(images), both[0], labels, ids), steps // 4)
    logits = network(images).detach().requires_grad_()
    without, with_ = (median_time(lambda loss=loss: step(logits, loss, labels, ids), steps) for loss in both)
    share = 100 * (with_ - without) / whole
    print(f"step {1000 * whole:.1f} ms, the constraint {1000 * (with_ - without):.2f} ms: {share:.1f} %")


def median_time(action: Callable[[], None], times: int) -> float:
    found = []
    for _ in range(times):
        begun = time.process_time()
        action()
        found.append(time.process_time() - begun)
    return float(np.median(found))


def step(logits: Tensor, loss: ConstrainedLoss, labels: Tensor, ids: list[str]) -> None:
    loss(logits, labels, ids).backward()
    if loss.term is not None:
        loss.term.update_multipliers()


if __name__ == "__main__":
    main()
