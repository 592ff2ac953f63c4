"""Draw docs/images/effect.png: false positives of BCE without and with the constraint, from the table of the league.

Run from the repository root: python docs/effect_figure.py
"""

import csv
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
TABLE, PICTURE = HERE / "results" / "league" / "league.csv", HERE / "images" / "effect.png"
NAMES = {"0/1": "airplane, car", "2/3": "bird, cat", "4/7": "deer, horse", "3/5": "cat, dog", "2/6": "bird, frog"}


def main() -> None:
    with TABLE.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if (row["loss"], row["figure"]) == ("bce", "fpr_at_tpr95")]
    rows = [row for row in rows if "/" in row["setting"] and "noise" not in row["setting"]]
    rows.sort(key=lambda row: float(row["without"]))
    figure = Figure(figsize=(7.2, 3.1), layout="constrained")
    axes = figure.subplots()
    for height, row in enumerate(reversed(rows)):
        without, with_ = float(row["without"]), float(row["with"])
        arrow = {"arrowstyle": "-|>", "color": "0.35", "lw": 1.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate("", (with_, height), (without, height), arrowprops=arrow)
        axes.plot(without, height, "o", color="0.6", ms=8)
        axes.plot(with_, height, "o", color="tab:blue", ms=8)
        interval = f"{row['change']} [{row['low']}, {row['high']}]"
        axes.text(max(without, with_) + 1.5, height, interval, va="center", fontsize=8, color="0.3")
    axes.plot([], [], "o", color="0.6", label="BCE")
    axes.plot([], [], "o", color="tab:blue", label="BCE with the constraint")
    labels = [f"{NAMES[pair]}, {ratio}" for pair, ratio in (row["setting"].split("-") for row in reversed(rows))]
    axes.set(yticks=range(len(rows)), yticklabels=labels, xlim=(0, 122), ylim=(-0.6, len(rows) - 0.4))
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("false positives at 95 % true positive rate, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper right", frameon=False, fontsize=8)
    figure.savefig(PICTURE, dpi=130)


if __name__ == "__main__":
    main()
