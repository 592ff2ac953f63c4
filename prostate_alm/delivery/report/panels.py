"""The panels of a report, composed on a figure or a part of one: slices with saliency, what the model saw, charts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.prediction import Prediction
from prostate_alm.delivery.report import figures
from prostate_alm.delivery.report.views import Views
from prostate_alm.delivery.report.words import Words

Canvas = Figure | SubFigure

PanelImage = tuple[str, NDArray[np.float32], tuple[float, float]]

_TITLE = "medium"
_SPACE_IN, _GAP_IN, _SCALE_IN, _TITLE_IN = 0.05, 0.2, 0.12, 0.28


@dataclass(frozen=True, slots=True)
class Layout:
    """Slices in rows and columns at fixed places, as no layout engine is as fast or as tight.

    `height_by_width` is that of a slice. After each `gap_after` columns there is a gap; 0 for none.
    """

    rows: int
    columns: int
    height_by_width: float
    left_in: float = 0.05
    bottom_in: float = 0.05
    top_in: float = _TITLE_IN
    gap_after: int = 0

    def height_in(self, width_in: float) -> float:
        """Return how high a figure of a width must be."""
        return self.top_in + self.bottom_in + self.rows * (self._cell_in(width_in) * self.height_by_width + _SPACE_IN)

    def axes(self, figure: Canvas, row: int, column: int) -> Axes:
        """Add the axes of a slice; row 0 is at the top."""
        cell, height = self._cell_in(_width_in(figure)), _height_in(figure)
        bottom = height - self.top_in - (row + 1) * (cell * self.height_by_width + _SPACE_IN) + _SPACE_IN
        return _axes(figure, self._left_in(column, cell), bottom, cell, cell * self.height_by_width)

    def axes_below(self, figure: Canvas, first: int, last: int) -> Axes:
        """Add axes for the colour scale of some columns."""
        cell, height = self._cell_in(_width_in(figure)), _height_in(figure)
        left, right = self._left_in(first, cell), self._left_in(last, cell) + cell
        rows = self.top_in + self.rows * (cell * self.height_by_width + _SPACE_IN)
        return _axes(figure, left + 0.3, height - rows - _SCALE_IN - 0.03, right - left - 0.6, _SCALE_IN)

    def _left_in(self, column: int, cell_in: float) -> float:
        gaps = column // self.gap_after if self.gap_after else 0
        return self.left_in + column * (cell_in + _SPACE_IN) + gaps * _GAP_IN

    def _cell_in(self, width_in: float) -> float:
        gaps = (self.columns - 1) // self.gap_after if self.gap_after else 0
        return (width_in - self.left_in - gaps * _GAP_IN) / self.columns - _SPACE_IN


@dataclass(frozen=True, eq=False, slots=True)
class PathView:
    """One path of the network: its name, the image that its saliency is drawn on, and the saliency, (X, Y, Z) each."""

    name: str
    image_name: str
    image: NDArray[np.float32]
    saliency: NDArray[np.float32]


def path_views(views: Views, card: ModelCard, words: Words) -> list[PathView]:
    """Return each path with the last of its channels: T2, or the highest b-value."""
    names = ["T2", *words.b_names(card.grid.b_values_s_per_mm2, views.b_values_computed)]
    images = [views.t2, *views.diffusion]
    channels = card.network.path_channels
    found = []
    for width, end, saliency in zip(channels, accumulate(channels), views.saliency, strict=True):
        name = words("path.diffusion" if end > width else "path.both" if end > 1 else "path.t2")
        found.append(PathView(name, names[end - 1], images[end - 1], saliency))
    return found


def compose_slices(figure: Canvas, views: Views, card: ModelCard, words: Words) -> None:
    """Draw the chosen slices, a row each: every path's image without and with its saliency, then its colour scale."""
    paths = path_views(views, card, words)
    layout = slices_layout(views, card)
    total = float(np.abs(views.saliency).sum())
    for number, path in enumerate(paths):
        plain, overlaid = ([layout.axes(figure, row, 2 * number + k) for row in range(layout.rows)] for k in (0, 1))
        plain[0].set_title(path.image_name, fontsize=_TITLE)
        overlaid[0].set_title(words("saliency.plain"), fontsize=_TITLE)
        _draw_path(plain, overlaid, path, views)
        _draw_scale(layout.axes_below(figure, 2 * number, 2 * number + 1), path, words, total=total)
        for axes, index in zip(plain if number == 0 else [], views.slices, strict=False):
            note = f"\n{words('saliency.greatest')}" if index == views.peak else ""
            axes.set_ylabel(f"{words.slice_label(views, index)}{note}", fontsize="small")


CANDIDATES_DRAWN = 4
"""So many have a row of pictures; all are in the table and on the overview."""


def compose_candidates(figure: Canvas, views: Views, answer: Prediction, words: Words) -> None:
    """Draw the slice of each of the surest candidates, a row each: T2 alone, then T2, highest b and ADC outlined."""
    layout = candidates_layout(views)
    for row, place in enumerate(views.peaks[:CANDIDATES_DRAWN]):
        for column, (title, image, window) in enumerate(_beside_candidates(views, answer, words)):
            axes = layout.axes(figure, row, column)
            figures.draw_slice(axes, image, views, index=place[2], window=window, is_outlined=column > 0)
            if row == 0:
                axes.set_title(title, fontsize=_TITLE)
            if column == 0:
                label = f"{words('lesions.candidate', n=row + 1)}\n{words.slice_label(views, place[2])}"
                axes.set_ylabel(label, fontsize="small")


def candidates_layout(views: Views) -> Layout:
    """Return the layout of `compose_candidates`."""
    rows = min(len(views.peaks), CANDIDATES_DRAWN)
    return Layout(rows, 3 + (views.adc_um2_per_s is not None), _height_by_width(views), left_in=0.56)


def _beside_candidates(views: Views, answer: Prediction, words: Words) -> list[PanelImage]:
    """Return T2 twice, the highest b-value and the fitted ADC."""
    t2, *others = shown_images(views, answer, words)
    diffusion = others[len(views.diffusion) - 1]
    adc = others[len(views.diffusion) : len(views.diffusion) + (views.adc_um2_per_s is not None)]
    outlined = (words("lesions.outlined", image=t2[0]), *t2[1:])
    return [t2, outlined, diffusion, *adc]


def compose_overview(figure: Canvas, views: Views, card: ModelCard, words: Words) -> None:
    """Draw all slices of every path with their saliency, so that none outside the chosen ones goes unseen, and ADC."""
    adc = views.adc_um2_per_s
    paths = path_views(views, card, words)
    height = overview_height_in(views, card, width_in=_width_in(figure)) / (len(paths) + (adc is not None))
    for number in range(len(paths) + (adc is not None)):
        bottom = _height_in(figure) - (number + 1) * height
        axes = _axes(figure, 0.05, bottom + _SPACE_IN, _width_in(figure) - 0.1, height - _TITLE_IN - _SPACE_IN)
        if number < len(paths):
            path = paths[number]
            figures.draw_overview(axes, path.image, views, saliency=path.saliency)
            title = words("saliency.with", image=path.image_name)
        elif adc is not None:
            figures.draw_overview(axes, adc, views, window=figures.ADC_WINDOW_UM2_PER_S)
            title = words("adc.fitted")
        axes.set_title(title, fontsize=_TITLE, loc="left")


def overview_height_in(views: Views, card: ModelCard, *, width_in: float) -> float:
    """Return how high a figure of `compose_overview` must be."""
    rows = math.ceil(len(figures.overview_slices(views.t2.shape[2])) / figures.OVERVIEW_COLUMNS)
    tile_in = (width_in - 0.1) / figures.OVERVIEW_COLUMNS * _height_by_width(views)
    images = len(card.network.path_channels) + (views.adc_um2_per_s is not None)
    return images * (rows * tile_in + _TITLE_IN + _SPACE_IN)


def compose_inputs(figure: Canvas, views: Views, answer: Prediction, words: Words) -> None:
    """Draw all that the model saw at the slice of greatest saliency, and the ADC that it did not see."""
    layout = inputs_layout(views)
    for column, (title, image, window) in enumerate(shown_images(views, answer, words)):
        axes = layout.axes(figure, 0, column)
        figures.draw_slice(axes, image, views, index=views.peak, window=window)
        axes.set_title(title, fontsize="small" if layout.columns > 5 else _TITLE)


def shown_images(views: Views, answer: Prediction, words: Words) -> list[PanelImage]:
    """Return name, voxels (X, Y, Z) and window of T2, each b-value, the fitted ADC and the scanner's own."""
    found = [("T2", views.t2, figures.signal_window(views.t2, views))]
    names = words.b_names(answer.b_values_s_per_mm2, answer.b_values_computed)
    found += [(name, one, figures.signal_window(one, views)) for name, one in zip(names, views.diffusion, strict=True)]
    if views.adc_um2_per_s is not None:
        found.append((words("adc.fitted"), views.adc_um2_per_s, figures.ADC_WINDOW_UM2_PER_S))
    if views.scanner_adc is not None:
        found.append((words("adc.scanner"), views.scanner_adc.adc_um2_per_s, figures.ADC_WINDOW_UM2_PER_S))
    return found


def compose_charts(figure: Canvas, card: ModelCard, answer: Prediction, words: Words) -> None:
    """Draw the study among the validation cohort, the members' logits below, and the ROC curve beside both."""
    halves = figure.add_gridspec(1, 2, width_ratios=(1.5, 1), wspace=0.14, **_edges(figure))
    left = halves[0].subgridspec(2, 1, height_ratios=(1.5, 1), hspace=0.62)
    _draw_charts([figure.add_subplot(part) for part in (left[0], left[1], halves[1])], card, answer, words)


def compose_charts_narrow(figure: Canvas, card: ModelCard, answer: Prediction, words: Words) -> None:
    """Draw the same where there is less room: the cohort above, members and ROC curve below."""
    rows = figure.add_gridspec(2, 1, height_ratios=(1, 1.6), hspace=0.55, **_edges(figure, bottom_in=1.14))
    below = rows[1].subgridspec(1, 2, width_ratios=(1, 1), wspace=0.3)
    _draw_charts(
        [figure.add_subplot(part) for part in (rows[0], below[0], below[1])], card, answer, words, legend_columns=1
    )


def _draw_charts(
    places: list[Axes], card: ModelCard, answer: Prediction, words: Words, *, legend_columns: int = 4
) -> None:
    cohort, members, roc = places
    figures.draw_cohort(cohort, card, answer, words=words)
    figures.draw_members(members, card, answer, words=words, legend_columns=legend_columns)
    figures.draw_roc(roc, card, answer, words=words)
    for axes, title in zip(places, ("cohort", "networks", "roc"), strict=True):
        axes.set_title(words(f"chart.{title}"), fontsize=_TITLE, loc="left")


def _edges(figure: Canvas, *, bottom_in: float = 0.88) -> dict[str, float]:
    """Return the margins of charts: room for the names of the classes, titles and axis labels."""
    width, height = _width_in(figure), _height_in(figure)
    return {"left": 0.85 / width, "right": 1 - 0.12 / width, "top": 1 - 0.3 / height, "bottom": bottom_in / height}


def slices_layout(views: Views, card: ModelCard) -> Layout:
    """Return the layout of `compose_slices`."""
    columns = 2 * len(card.network.path_channels)
    return Layout(len(views.slices), columns, _height_by_width(views), left_in=0.56, bottom_in=0.62, gap_after=2)


def inputs_layout(views: Views) -> Layout:
    """Return the layout of `compose_inputs`."""
    columns = 1 + len(views.diffusion) + sum(one is not None for one in (views.adc_um2_per_s, views.scanner_adc))
    return Layout(1, columns, _height_by_width(views))


def _height_by_width(views: Views) -> float:
    width_mm, height_mm = (n * mm for n, mm in zip(views.t2.shape[:2], views.spacing_mm[:2], strict=True))
    return float(height_mm / width_mm)


def _draw_path(plain: list[Axes], overlaid: list[Axes], path: PathView, views: Views) -> None:
    window = figures.signal_window(path.image, views)
    greatest = float(np.abs(path.saliency).max())
    for left, right, index in zip(plain, overlaid, views.slices, strict=True):
        for axes in (left, right):
            figures.draw_slice(axes, path.image, views, index=index, window=window)
        figures.draw_saliency(right, path.saliency, index=index, greatest=greatest)


def _draw_scale(axes: Axes, path: PathView, words: Words, *, total: float) -> None:
    greatest = float(np.abs(path.saliency).max())
    share = float(np.abs(path.saliency).sum()) / total if total > 0 else 0.0
    end = greatest or 1.0
    colours = figures.saliency_on_grey(np.linspace(-1, 1, 256)[None])
    axes.imshow(colours, extent=(-end, end, 0, 1), aspect="auto")
    ends = (-greatest, 0.0, greatest) if greatest > 0 else ()
    axes.set_yticks([])
    axes.set_xticks(ends, [words.number(end, "+.2g") if end else "0" for end in ends], fontsize="small")
    label = words("saliency.scale", path=path.name, share=words.percent(share))
    axes.set_xlabel(label, fontsize="small", labelpad=1)


def _axes(figure: Canvas, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place in inches."""
    across, up = _width_in(figure), _height_in(figure)
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _width_in(figure: Canvas) -> float:
    return float(figure.bbox.width / figure.dpi)


def _height_in(figure: Canvas) -> float:
    return float(figure.bbox.height / figure.dpi)
