"""The league: losses with and without the constraint, on pairs of CIFAR-10 that are easy, and on pairs that overlap.

    OMP_NUM_THREADS=1 python benchmarks/league.py train DATASET_DIR OUTPUT_DIR [--settings 2/3-1:19 ...]
    python benchmarks/league.py table OUTPUT_DIR TABLE.csv
    python benchmarks/league.py draw TABLE.csv FIGURE.png
    OMP_NUM_THREADS=1 python benchmarks/league.py screen DATASET_DIR OUTPUT_DIR [--strengths 3,3,0.1 ...]

`train` keeps the logits of each member on all 2000 test images of the two classes and does not train again what is
there; several processes may share the work. Network, batches, optimizer, number of steps and the mean of the weights
that is tested are those of bundles/cifar10/train.json, in a loop of its own. A draw is the seed
that the images of its members are drawn with. `table` writes the figures of the ensembles, the mean over the draws, and
the change by the constraint with a 95 % interval: test images and draws are resampled together, pairs stay pairs.

Which pairs: the constraint's values were chosen on training images of 2/3 and 0/1 that no member draws
(docs/results/league.md); 3/5, 4/7, 2/6 and 1/9 had no part in the choice. In settings with noise some training labels
are wrong, those of validation and test are not. `screen` is how: it reads no test image, and prints what
base_recipes.py prints for the first draw and each strength: mu, the bound of the multipliers, their relaxation, and the
margin (1 where it is not given).
"""

import argparse
import csv
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from league_training import (
    COLUMNS,
    DRAWS,
    EASY,
    HARD,
    MEMBERS,
    SETTINGS,
    Entry,
    Logits,
    ensembles,
    figures,
    play,
    screen,
)
from matplotlib.figure import Figure
from numpy.typing import NDArray

from prostate_alm.method.bootstrap import draw_rows, percentile_interval

PAPERS = ("bce", "s_ml", "a_ml", "s_fl", "a_fl", "w_bce", "cb_bce", "msfe")
"""The eight losses of the paper that the constraint is added to."""
LOSSES = (*PAPERS, "mbauc", "ldam")
DEFAULT_METHODS = ("bce", "bce+alm", "mbauc", "mbauc+alm")
CONSTRAINTS = {"": "+alm", ", hard": "+3,3,0"}
"""What the table adds to the name of a loss, and how the league names the method: as recommended, and not relaxed."""
METHODS = tuple(loss + suffix for loss in LOSSES for suffix in ("", *CONSTRAINTS.values()))
GROUPS = {"pairs that overlap": HARD, "easy pairs": EASY}
RESAMPLES = 1000
SCREENED = ("2/3-1:19", "0/1-1:19")

Draws = list[tuple[NDArray[np.int64], Logits]]
"""Labels and logits of an ensemble in each draw of the data."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    trains = commands.add_parser("train")
    trains.add_argument("dataset_dir", type=Path)
    trains.add_argument("output_dir", type=Path)
    trains.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="PAIR-RATIO")
    trains.add_argument("--methods", nargs="+", choices=METHODS, default=DEFAULT_METHODS, metavar="LOSS")
    trains.add_argument("--draws", nargs="+", type=int, default=list(DRAWS))
    screens = commands.add_parser("screen")
    screens.add_argument("dataset_dir", type=Path)
    screens.add_argument("output_dir", type=Path)
    screens.add_argument("--settings", nargs="+", choices=SETTINGS, default=SCREENED, metavar="PAIR-RATIO")
    screens.add_argument("--losses", nargs="+", choices=LOSSES, default=("bce", "mbauc"))
    screens.add_argument(
        "--strengths", nargs="+", default=["3,3,0", "3,3,0.1", "3,3,0.5"], metavar="MU,BOUND,RELAXATION,MARGIN"
    )
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
    if options.command == "screen":
        methods = [
            loss + suffix for loss in options.losses for suffix in ("", *(f"+{one}" for one in options.strengths))
        ]
        screen(options.settings, methods, options.dataset_dir, options.output_dir)
        return
    for draw, setting, member, method in product(options.draws, options.settings, MEMBERS, options.methods):
        play(Entry(setting, method, draw, member), options.dataset_dir, options.output_dir)


def write_table(folder: Path, csv_file: Path) -> None:
    """Write what the constraint changes for each setting and loss that is complete, and in the mean over several."""
    effects = {}
    for setting, loss, (words, suffix) in product(SETTINGS, LOSSES, CONSTRAINTS.items()):
        if effect := compare_complete(folder, setting, loss, loss + suffix):
            effects[setting, loss + words] = effect
    rows = [row for (setting, loss), effect in effects.items() for row in table_rows(setting, loss, [effect])]
    for setting in SETTINGS:
        papers = [effects[setting, loss] for loss in PAPERS if (setting, loss) in effects]
        if len(papers) > 1:
            rows += table_rows(setting, f"mean of {len(papers)}", papers)
    for (name, group), loss in product(GROUPS.items(), LOSSES):
        found = [effects[str(setting), loss] for setting in group if (str(setting), loss) in effects]
        if len(found) > 1:
            rows += table_rows(f"{name}, mean of {len(found)}", loss, found)
    write_rows(rows, csv_file)


def write_rows(rows: Sequence[dict[str, Any]], csv_file: Path) -> None:
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
            if own == loss and column == "fpr_at_tpr95" and setting in SETTINGS and "noise" not in setting:
                area, change = float(rows[setting, loss, "auc"]["without"]), float(row["change"])
                ends = [[change - float(row["low"])], [float(row["high"]) - change]]
                axes.errorbar(area, change, yerr=ends, fmt="o", color=style, capsize=3)
                axes.annotate(setting, (area, change), (5, 4), textcoords="offset points", fontsize=8)
        axes.plot([], [], "o", color=style, label=loss.upper())
    axes.axhline(0, color="gray", linewidth=0.8)
    axes.set(xlabel="AUC of the loss alone, %", ylabel="change of FPR at 95 % TPR, points")
    axes.legend(loc="lower left")
    figure.savefig(png_file, dpi=100)


class Effect(NamedTuple):
    """Figures of two ensembles, the mean over their draws, and the change between them in each resample."""

    draws: int
    without: NDArray[np.float64]
    with_: NDArray[np.float64]
    changes: NDArray[np.float64]
    """(RESAMPLES, columns)"""


def compare_complete(folder: Path, setting: str, *methods: str) -> Effect | None:
    """Compare two methods over the draws of which all members of both are there; None where there is none."""
    pair = [ensembles(folder, setting, method) for method in methods]
    draws = min(len(one) for one in pair)
    return compare(setting, [one[:draws] for one in pair]) if draws else None


def compare(setting: str, pair: list[Draws]) -> Effect:
    """Compare two ensembles over their draws; a setting's resamples are the same for all that play there."""
    random = np.random.default_rng(list(SETTINGS).index(setting))
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
    return Effect(
        len(pair[0]), *(np.mean([figures(*draw) for draw in one], axis=0) for one in pair), changes=np.array(changes)
    )


def table_rows(setting: str, loss: str, effects: Sequence[Effect]) -> list[dict[str, Any]]:
    """Return a row for each figure, in percent: without, with, change and its 95 % interval, the mean over effects."""
    without, with_ = (np.mean([getattr(one, side) for one in effects], axis=0) for side in ("without", "with_"))
    low, high = percentile_interval(np.mean([one.changes for one in effects], axis=0).T)
    return [
        {
            "setting": setting,
            "loss": loss,
            "draws": min(one.draws for one in effects),
            "figure": column,
            "without": f"{without[place]:.1f}",
            "with": f"{with_[place]:.1f}",
            "change": f"{(with_ - without)[place]:+.1f}",
            "low": f"{low[place]:+.1f}",
            "high": f"{high[place]:+.1f}",
        }
        for place, column in enumerate(COLUMNS)
    ]


if __name__ == "__main__":
    main()
