"""Draw docs/images/toy_example.png, Fig. 1 of the paper with the numbers of all three constraints.

Run from the repository root: python docs/toy_example.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from prostate_alm.method.constraint import Per, ranking_violation

ORDER = "NNPNNPPNPP"  # ascending output, equal spacing, margin 0
SWAPS = {"green": (2, 3), "red": (6, 7)}
COLOURS = {"green": "#2e8b57", "red": "#c0392b"}
BOXES = {"green": (0.4, 0.8), "red": (0.0, 0.4)}  # lower left corner in ROC space, side 1/5
PICTURE = Path(__file__).parent / "images" / "toy_example.png"


def squared_violation(order: str, per: Per) -> float:
    place = [torch.tensor([float(i) for i, kind in enumerate(order) if kind == wanted]) for wanted in "PN"]
    return ranking_violation(*place, margin=0.0, per=per).square().sum().item()


def swapped(order: str, left: int, right: int) -> str:
    kinds = list(order)
    kinds[left], kinds[right] = kinds[right], kinds[left]
    return "".join(kinds)


def draw_order(axes: Axes) -> None:
    for kind, marker, colour, name in (("P", "o", "#e08a00", "positive"), ("N", "^", "#2c6fbb", "negative")):
        places = [i for i, own in enumerate(ORDER) if own == kind]
        axes.scatter(places, [0] * len(places), marker=marker, s=130, color=colour, label=name, zorder=2)
    axes.axhline(0, color="0.7", zorder=1)
    for name, (left, right) in SWAPS.items():
        arrow = {"arrowstyle": "<->", "color": COLOURS[name], "lw": 2, "connectionstyle": "arc3,rad=-0.6"}
        axes.annotate("", xy=(right, 0.012), xytext=(left, 0.012), arrowprops=arrow)
    axes.set(
        yticks=[], ylim=(-0.05, 0.1), xlabel="output of the network, in steps of Δ", title="Two swaps of neighbours"
    )
    axes.legend(loc="upper left", ncols=2, frameon=False)
    axes.spines[["left", "right", "top"]].set_visible(False)


def draw_roc(axes: Axes) -> None:
    steps = [(0.0, 0.0)]
    for kind in reversed(ORDER):
        fpr, tpr = steps[-1]
        steps.append((fpr, tpr + 0.2) if kind == "P" else (fpr + 0.2, tpr))
    fpr, tpr = zip(*steps, strict=True)
    axes.plot(fpr, tpr, color="black")
    axes.fill_between(fpr, tpr, color="0.88", step=None)
    for name, corner in BOXES.items():
        axes.add_patch(Rectangle(corner, 0.2, 0.2, color=COLOURS[name], alpha=0.8))
    axes.set(
        xlim=(0, 1.01), ylim=(0, 1.01), xlabel="FPR", ylabel="TPR", aspect="equal", title="Same gain of AUC (1/25)"
    )


def draw_decrease(axes: Axes) -> None:
    kinds: list[Per] = ["positive", "negative", "pair"]
    for shift, (name, places) in zip((-0.2, 0.2), SWAPS.items(), strict=True):
        gains = [squared_violation(ORDER, per) - squared_violation(swapped(ORDER, *places), per) for per in kinds]
        bars = axes.bar([i + shift for i in range(3)], gains, width=0.38, color=COLOURS[name])
        axes.bar_label(bars, fmt="%.0f")
    axes.set_xticks(range(3), ["per positive\n(the paper)", "per negative", "per pair"])
    axes.set(ylim=(0, 44), ylabel="decrease of Σ q² / Δ²", title="What each constraint prefers")
    axes.spines[["right", "top"]].set_visible(False)


def main() -> None:
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=[1.5, 1, 1.2], layout="constrained")
    draw_order(panels[0])
    draw_roc(panels[1])
    draw_decrease(panels[2])
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": ""})


if __name__ == "__main__":
    main()
