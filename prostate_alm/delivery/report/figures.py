"""The figures of a report, drawn on axes that the HTML file and the page share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.transforms import offset_copy
from numpy.typing import NDArray

from prostate_alm.delivery.card import ModelCard, StoredOperatingPoint
from prostate_alm.delivery.prediction import Prediction
from prostate_alm.delivery.report.candidates import draw_outlines, outline_of
from prostate_alm.delivery.report.views import Views
from prostate_alm.delivery.report.words import Words
from prostate_alm.method.metrics import auc, roc_points

# Colours of Okabe and Ito, which the colour-blind tell apart; signs and line styles say the same.
RAISES, LOWERS = (0.90, 0.62, 0.0), (0.34, 0.71, 0.91)
POSITIVE, NEGATIVE, STUDY, THRESHOLD = "#b34700", "#0072b2", "black", "0.25"
SALIENCY_FLOOR = 0.1  # of the greatest value; below, the image is left alone
SALIENCY_OPACITY = 0.65
ADC_WINDOW_UM2_PER_S = (0.0, 2500.0)
SCALE_BAR_MM = 20
OVERVIEW_COLUMNS, OVERVIEW_SLICES = 10, 20
_LETTERS = {"left": ("R", 0.0, 0.5), "right": ("L", 1.0, 0.5), "top": ("A", 0.5, 1.0), "bottom": ("P", 0.5, 0.0)}
_INSET = 0.03
_Number = TypeVar("_Number", bound=np.generic)
_BAR_OUTLINE = withStroke(linewidth=3.6, foreground="black")
_OUTLINE: list[AbstractPathEffect] = [
    withStroke(linewidth=2.2, foreground="black")
]  # white marks, legible on white fat


def draw_slice(
    axes: Axes,
    voxels: NDArray[np.floating],
    views: Views,
    *,
    index: int,
    window: tuple[float, float],
    is_outlined: bool = True,
) -> None:
    """Draw an axial slice as a radiologist expects it: patient's right on the left, anterior at the top, true shape.

    Args:
        axes: where to draw.
        voxels: (X, Y, Z) of `views`.
        views: the study.
        index: of the slice.
        window: signal that is black and white.
        is_outlined: draw the outlines of candidates, where there are any.
    """
    width, height = voxels.shape[:2]
    axes.imshow(
        voxels[:, :, index].T,
        cmap="gray",
        vmin=window[0],
        vmax=window[1],
        aspect=views.spacing_mm[1] / views.spacing_mm[0],
        interpolation="bilinear",
    )
    axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    _draw_field(axes, views)
    _draw_letters(axes)
    _draw_scale_bar(axes, views, width=width)
    if is_outlined:
        draw_outlines(axes, views, index)


def draw_saliency(axes: Axes, saliency: NDArray[np.floating], *, index: int, greatest: float) -> None:
    """Lay the saliency of one path over a slice: colour and opacity for the eye, contours for those without colour.

    Args:
        axes: with the slice drawn.
        saliency: (X, Y, Z).
        index: of the slice.
        greatest: absolute value of full colour; where it is 0, nothing is drawn.
    """
    if greatest <= 0:
        return
    share = saliency[:, :, index].T / greatest
    axes.imshow(saliency_colours(share), aspect=axes.get_aspect(), interpolation="nearest")
    for sign, style in ((1, "solid"), (-1, "dashed")):
        if (sign * share).max() > 0.5:
            half = axes.contour(sign * share, levels=[0.5], colors="white", linewidths=1.3, linestyles=style)
            half.set_path_effects(_OUTLINE)


def draw_overview(
    axes: Axes,
    image: NDArray[np.floating],
    views: Views,
    *,
    saliency: NDArray[np.floating] | None = None,
    window: tuple[float, float] | None = None,
) -> None:
    """Draw every slice of an image small, from cranial to caudal, each with its number.

    Args:
        axes: where to draw.
        image: (X, Y, Z) of `views`.
        views: the study.
        saliency: (X, Y, Z), laid over it.
        window: values that are black and white; the middle of the slices' windows, if not given.
    """
    indices = overview_slices(image.shape[2])
    width, height = image.shape[:2]
    # of the middle, neither a full bladder nor a bright rectum darkens all the others
    middle = np.median([signal_window(image, views, slices=[index]) for index in indices], axis=0)
    low, high = window or (float(middle[0]), float(middle[1]))
    aspect = views.spacing_mm[1] / views.spacing_mm[0]
    axes.imshow(_mosaic(image, indices), cmap="gray", vmin=low, vmax=high, aspect=aspect)
    greatest = 0.0 if saliency is None else float(np.abs(saliency).max())
    if saliency is not None and greatest > 0:
        axes.imshow(saliency_colours(_mosaic(saliency, indices) / greatest), aspect=aspect, interpolation="nearest")
    if views.labels is not None:
        outline_of(axes, _mosaic(views.labels, indices).T > 0, width=0.8)
    for number, index in enumerate(indices):
        row, column = divmod(number, OVERVIEW_COLUMNS)
        place = ((column + 0.04) * width, (row + 0.05) * height)
        label = str(views.first_slice + index)
        axes.text(*place, label, color="white", va="top", fontsize="x-small", path_effects=_OUTLINE)
    axes.set_axis_off()


def overview_slices(count: int) -> list[int]:
    """Return the slices of an overview, from cranial to caudal: all, or every second, third ... of a thin stack.

    >>> len(overview_slices(20)), overview_slices(41)[:3]
    (20, [40, 37, 34])
    """
    return list(range(count - 1, -1, -math.ceil(count / OVERVIEW_SLICES)))


def _mosaic(volume: NDArray[_Number], indices: Sequence[int]) -> NDArray[_Number]:
    """Return slices side by side, (rows of tiles * Y, columns * X); 0 where the last row is not full."""
    width, height = volume.shape[:2]
    rows = math.ceil(len(indices) / OVERVIEW_COLUMNS)
    tiles = np.zeros((rows * OVERVIEW_COLUMNS, height, width), volume.dtype)
    tiles[: len(indices)] = volume[:, :, list(indices)].transpose(2, 1, 0)
    grid = tiles.reshape(rows, OVERVIEW_COLUMNS, height, width).transpose(0, 2, 1, 3)
    return grid.reshape(rows * height, OVERVIEW_COLUMNS * width)


def saliency_colours(share: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return colours (..., 4) of shares of the greatest saliency, -1 to 1: opacity grows with the share.

    >>> saliency_colours(np.array([0.0, 1.0, -1.0])).round(2).tolist()
    [[0.9, 0.62, 0.0, 0.0], [0.9, 0.62, 0.0, 0.65], [0.34, 0.71, 0.91, 0.65]]
    """
    colours = np.empty((*share.shape, 4))
    colours[..., :3] = np.where(share[..., None] < 0, LOWERS, RAISES)
    amount = np.clip((np.abs(share) - SALIENCY_FLOOR) / (1 - SALIENCY_FLOOR), 0, 1)
    colours[..., 3] = SALIENCY_OPACITY * np.sqrt(amount)
    return colours


def saliency_on_grey(share: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return those colours as they look on the grey of an image."""
    colours = saliency_colours(share)
    mixed: NDArray[np.float64] = colours[..., 3:] * colours[..., :3] + (1 - colours[..., 3:]) * 0.35
    return mixed


def signal_window(
    voxels: NDArray[np.floating], views: Views, *, slices: Sequence[int] | None = None
) -> tuple[float, float]:
    """Return the range of signal within the model's field in some slices (those shown), without the outermost."""
    (x0, x1), (y0, y1) = views.field
    across, down = slice(max(0, round(x0)), max(1, round(x1))), slice(max(0, round(y0)), max(1, round(y1)))
    inside = voxels[across, down][:, :, list(views.slices if slices is None else slices)]
    low, high = np.percentile(inside, (0.5, 99.8))
    return float(low), float(max(high, low + 1e-6))


def draw_cohort(axes: Axes, card: ModelCard, answer: Prediction, *, words: Words) -> None:
    """Draw the answer among the validation studies of each class, each a mark, on an axis of log odds."""
    labels, odds = np.array(card.validation.labels), log_odds(card, np.array(card.validation.logits))
    rows = (("positive", 1, POSITIVE, "^"), ("negative", 0, NEGATIVE, "v"))
    for place, (_, label, colour, shape) in enumerate(rows):
        own = np.sort(odds[labels == label])
        heights = place + _spread(len(own))
        axes.plot(own, heights, shape, color=colour, markersize=5, alpha=0.55, markeredgewidth=0)
        if len(own):
            axes.plot([np.median(own)] * 2, [place - 0.38, place + 0.38], color=colour, linewidth=2.5)
    names = [f"{words(f'chart.{name}')}\nn = {int((labels == label).sum())}" for name, label, *_ in rows]
    axes.set_yticks([0, 1], names)
    axes.set_ylim(1.6, -1.05)
    threshold = float(log_odds(card, np.array(answer.operating_point.threshold)))
    study = float(log_odds(card, np.array(answer.logit)))
    axes.axvline(threshold, color=THRESHOLD, linestyle="--", linewidth=1.4)
    axes.axvline(study, color=STUDY, linewidth=2.2)
    _probability_ticks(axes, np.concatenate([odds, [threshold, study]]), words)
    _name_lines(axes, study, threshold, words)
    axes.set_xlabel(words("chart.cohort_axis"))
    _plain_frame(axes)


def draw_roc(axes: Axes, card: ModelCard, answer: Prediction, *, words: Words) -> None:
    """Draw the ROC curve of the validation cohort and the operating point with its intervals."""
    labels, logits = card.validation.labels, card.validation.logits
    fpr, tpr = roc_points(labels, logits)
    point = answer.operating_point
    area = auc(labels, logits)
    axes.plot([0, 1], [0, 1], color="0.8", linewidth=1, linestyle=":")
    axes.plot(fpr, tpr, color=NEGATIVE, linewidth=2, drawstyle="steps-post")
    axes.errorbar(
        point.fpr,
        point.tpr,
        xerr=[[max(0.0, point.fpr - point.fpr_low)], [max(0.0, point.fpr_high - point.fpr)]],
        yerr=[[max(0.0, point.tpr - point.tpr_low)], [max(0.0, point.tpr_high - point.tpr)]],
        fmt="D",
        color=POSITIVE,
        markersize=7,
        capsize=4,
        linewidth=1.6,
    )
    shares = np.linspace(0, 1, 6)
    ticks = [f"{100 * share:.0f}" for share in shares]
    axes.set_xticks(shares, ticks)
    axes.set_yticks(shares, ticks)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(xlabel=words("chart.roc_x"), ylabel=words("chart.roc_y"))
    marks = [
        Line2D([], [], color=NEGATIVE, linewidth=2, label=words("chart.auc", auc=words.number(area, ".3f"))),
        Line2D([], [], color=POSITIVE, marker="D", markersize=7, label=words("chart.point")),
    ]
    _legend_below(axes, marks, columns=1)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    _plain_frame(axes)


def draw_members(axes: Axes, card: ModelCard, answer: Prediction, *, words: Words, legend_columns: int) -> None:
    """Draw the logit of each member, their mean, and the threshold with its interval."""
    logits = np.sort(answer.member_logits)
    axes.plot(logits, _spread(len(logits)), "o", color=NEGATIVE, markersize=7, alpha=0.75, markeredgewidth=0)
    axes.plot(answer.logit, 0, "D", color=STUDY, markersize=10, markerfacecolor="none", markeredgewidth=2)
    point = answer.operating_point
    stored = card.operating_point(point.target_tpr)
    ends = (stored.threshold_low, stored.threshold_high)
    _fit(axes, [*logits, point.threshold, *(end for end in ends if end is not None)])
    low, high = (edge if end is None else end for end, edge in zip(ends, axes.get_xlim(), strict=True))
    axes.axvspan(low, high, color="0.88", linewidth=0, zorder=0)
    axes.axvline(point.threshold, color=THRESHOLD, linestyle="--", linewidth=1.4)
    axes.set(yticks=[], ylim=(-0.75, 0.75), xlabel=words("chart.score"))
    marks = [
        Line2D([], [], linestyle="none", marker="o", color=NEGATIVE, markersize=7, label=words("chart.network")),
        Line2D(
            [],
            [],
            linestyle="none",
            marker="D",
            color=STUDY,
            markerfacecolor="none",
            markersize=8,
            label=words("chart.mean"),
        ),
        Line2D([], [], color=THRESHOLD, linestyle="--", label=words("chart.threshold")),
        Patch(color="0.88", label=_interval_name(stored, words)),
    ]
    _legend_below(axes, marks, columns=legend_columns)
    _plain_frame(axes)


def log_odds(card: ModelCard, logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the log odds of the calibrated probability."""
    return card.calibration.slope * logits.astype(np.float64) + card.calibration.intercept


def _spread(number: int) -> NDArray[np.float64]:
    """Return heights within ±0.3 that keep neighbours apart: the fractional parts of multiples of the golden ratio."""
    shares = np.arange(1, number + 1, dtype=np.float64) * 0.6180339887 % 1
    return np.asarray(0.6 * shares - 0.3, dtype=np.float64)


def _legend_below(axes: Axes, marks: Sequence[Artist], *, columns: int) -> None:
    """Put a legend below the label of the axis, where it hides nothing."""
    place = offset_copy(axes.transAxes, fig=axes.get_figure(root=True), y=-0.46, units="inches")
    axes.legend(
        handles=marks,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=place,
        ncols=columns,
        frameon=False,
        fontsize="small",
        borderpad=0,
    )


def _interval_name(point: StoredOperatingPoint, words: Words) -> str:
    """Return the name of the threshold's interval, and on which sides too few positives bound it."""
    is_open = (point.threshold_low is None, point.threshold_high is None)
    side = {(True, False): "open_below", (False, True): "open_above", (True, True): "open_both"}.get(is_open)
    return ", ".join([words("chart.interval"), *([words(f"chart.{side}")] if side else [])])


def _fit(axes: Axes, values: Sequence[float] | NDArray[np.floating]) -> None:
    """Let an axis hold values and a little more."""
    low, high = float(min(values)), float(max(values))
    pad = max(0.06 * (high - low), 0.2)
    axes.set_xlim(low - pad, high + pad)


def _probability_ticks(axes: Axes, odds: NDArray[np.floating], words: Words) -> None:
    """Name round probabilities on an axis of log odds."""
    _fit(axes, odds)
    low, high = axes.get_xlim()
    shares = np.array([0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999])
    if high - low < 4:
        shares = np.array([0.02, 0.05, *np.arange(0.1, 1.0, 0.1), 0.95, 0.98])
    places = np.log(shares / (1 - shares))
    inside = (places > low) & (places < high)
    axes.set_xticks(places[inside], [words.percent(share) for share in shares[inside]])


def _name_lines(axes: Axes, study: float, threshold: float, words: Words) -> None:
    """Name the lines of this study and of the threshold, one above the other, away from each other where there is room.

    Both lines together never hide a name unless they stand at one end of the axis.
    """
    low, high = axes.get_xlim()
    for place, other, name, height, weight in (
        (study, threshold, words("chart.study"), -0.84, "bold"),
        (threshold, study, words("chart.threshold"), -0.54, "normal"),
    ):
        share = (place - low) / (high - low)
        is_left = share > 0.85 or (place <= other and share > 0.15)
        text = f"{name} " if is_left else f" {name}"
        side = "right" if is_left else "left"
        axes.text(place, height, text, ha=side, va="center", fontsize="small", fontweight=weight)


def _draw_field(axes: Axes, views: Views) -> None:
    (x0, x1), (y0, y1) = views.field
    axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", linewidth=0.8, linestyle=(0, (1, 2)))
    axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="black", linewidth=0.8, linestyle=(1.5, (1, 2)))


def _draw_letters(axes: Axes) -> None:
    for letter, x, y in _LETTERS.values():
        axes.text(
            x + _INSET * (1 - 2 * x) if x != 0.5 else x,
            y + _INSET * (1 - 2 * y) if y != 0.5 else y,
            letter,
            color="white",
            transform=axes.transAxes,
            ha={0.0: "left", 0.5: "center", 1.0: "right"}[x],
            va={0.0: "bottom", 0.5: "center", 1.0: "top"}[y],
            fontsize="small",
            fontweight="bold",
            path_effects=_OUTLINE,
        )


def _draw_scale_bar(axes: Axes, views: Views, *, width: int) -> None:
    """Draw 20 mm at the lower right."""
    length = SCALE_BAR_MM / views.spacing_mm[0]
    transform = axes.get_xaxis_transform()
    end = width - 0.5 - 0.04 * width
    axes.plot(
        [end - length, end],
        [0.035, 0.035],
        color="white",
        linewidth=2,
        transform=transform,
        path_effects=[_BAR_OUTLINE],
    )
    axes.text(
        end,
        0.055,
        f"{SCALE_BAR_MM} mm",
        color="white",
        ha="right",
        va="bottom",
        fontsize="x-small",
        transform=transform,
        path_effects=_OUTLINE,
    )


def _plain_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
