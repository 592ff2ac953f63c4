"""The report as one image, landscape, for a viewer of DICOM images: what a secondary capture holds."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from prostate_alm.delivery.prediction import Prediction, Refused
from prostate_alm.delivery.report import panels, words
from prostate_alm.delivery.report.figures import NEGATIVE, POSITIVE
from prostate_alm.delivery.report.saliency import saliency
from prostate_alm.delivery.report.views import study_views

if TYPE_CHECKING:
    from prostate_alm.delivery.package.opened import PackedModel
    from prostate_alm.delivery.predict import StudyResult

WIDTH, HEIGHT = 1600, 1131
"""Pixels of the page: A4, landscape."""

_DOTS_PER_INCH = 100
_STYLE: dict[Any, Any] = {"font.size": 11.0, "text.parse_math": False}  # a $ in a header is no formula
_LARGE, _SMALL = 26, 10.5
_LINE = 74  # characters of the right column
_LINE_HEIGHT = 0.0178  # share of the page
_COLUMN = 0.605
_SLICES, _INPUTS = (0.01, 0.045, 0.59, 0.72), (0.01, 0.735, 0.59, 0.95)
_CHARTS = (0.6, 0.47, 0.99, 0.955)
_BOX = {"boxstyle": "square,pad=0.4", "facecolor": "0.95", "edgecolor": "black", "linewidth": 1.5}
_WARNING_BOX = {"boxstyle": "square,pad=0.5", "facecolor": "#fff6ed", "edgecolor": POSITIVE, "linewidth": 2}
_LAST_LATIN = 0x024F  # of the font's letters; others would be drawn as boxes


def draw_page(result: StudyResult, model: PackedModel) -> NDArray[np.uint8]:
    """Draw what a reader must see of an answer, or of a refusal, on one page without identifiers.

    Args:
        result: of `predict_folder`; an identity in it is not drawn.
        model: that answered.

    Returns:
        (1131, 1600, 3), RGB. The same result and model give the same pixels.
    """
    with matplotlib.rc_context(_STYLE):
        canvas = FigureCanvasAgg(compose_page(result, model))
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def compose_page(result: StudyResult, model: PackedModel) -> Figure:
    """Return the page before it becomes pixels."""
    figure = Figure(figsize=(WIDTH / _DOTS_PER_INCH, HEIGHT / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH)
    _draw_frame(figure, result.answer)
    if isinstance(result.answer, Refused):
        _draw_refusal(figure, result.answer)
    else:
        _draw_answer(figure, result, result.answer, model)
    return figure


def _draw_frame(figure: Figure, answer: Prediction | Refused) -> None:
    """Write the notice, the title, and which model answered which study."""
    figure.text(0.5, 0.975, answer.notice, ha="center", va="center", fontsize=15, fontweight="bold", bbox=_BOX)
    figure.text(0.02, 0.975, "Prostate MRI report", va="center", fontsize=17, fontweight="bold")
    figure.text(0.98, 0.975, f"study {answer.study or 'unknown'}", ha="right", va="center", fontsize=_SMALL)
    software = ", ".join(f"{name} {version}" for name, version in sorted(answer.software.items()))
    lines = (
        f"Model {answer.model.name} {answer.model.version}, {words.count(answer.model.members, 'member')}, trained on "
        f"{answer.model.trained_on}. SHA-256 {answer.model.sha256}",
        f"Software {software}",
    )
    figure.text(0.02, 0.012, _plain("\n".join(lines)), va="bottom", fontsize=8.5, color="0.25", linespacing=1.4)


def _draw_refusal(figure: Figure, answer: Refused) -> None:
    figure.text(0.06, 0.86, "✕ REFUSED: no answer", va="top", fontsize=_LARGE, fontweight="bold")
    figure.text(0.06, 0.79, answer.code, va="top", fontsize=15, family="monospace")
    figure.text(0.06, 0.74, _wrapped(answer.reason, 110), va="top", fontsize=15, linespacing=1.5)


def _draw_answer(figure: Figure, result: StudyResult, answer: Prediction, model: PackedModel) -> None:
    if result.volumes is None or result.image is None:
        raise ValueError("result must hold volumes and image, got none in draw_page. Take that of predict_folder.")
    views = study_views(result.volumes, model.card.grid, saliency=saliency(model, result.image))
    panels.compose_slices(_part(figure, _SLICES), views, model.card)
    panels.compose_inputs(_part(figure, _INPUTS), views, answer)
    panels.compose_charts_narrow(_part(figure, _CHARTS), model.card, answer)
    figure.text(0.035, 0.304, _wrapped(f"{words.SALIENCY} {words.FIELD}", 138), va="top", fontsize=9, linespacing=1.3)
    _write_result(figure, answer, model)


def _part(figure: Figure, place: tuple[float, float, float, float]) -> SubFigure:
    """Add a part of the page: its left, top, right and bottom edge as shares of the page from the upper left."""
    left, top, right, bottom = place
    widths, heights = (left, right - left, 1 - right), (top, bottom - top, 1 - bottom)
    return figure.add_subfigure(figure.add_gridspec(3, 3, width_ratios=widths, height_ratios=heights)[1, 1])


def _write_result(figure: Figure, answer: Prediction, model: PackedModel) -> None:
    """Write probability, decision, operating point and warnings, from the top of the right column down."""
    colour = POSITIVE if answer.decision == "positive" else NEGATIVE
    bold: dict[str, Any] = {"fontweight": "bold", "va": "top"}
    figure.text(_COLUMN, 0.945, words.percent(answer.probability), fontsize=_LARGE, **bold)
    figure.text(_COLUMN + 0.14, 0.945, words.decision(answer), fontsize=_LARGE, color=colour, **bold)
    figure.text(_COLUMN, 0.905, "probability of the\ncritical class", va="top", fontsize=_SMALL)
    figure.text(
        _COLUMN + 0.14, 0.905, _wrapped(words.decision_reason(answer, model.card), 48), va="top", fontsize=_SMALL
    )
    point = answer.operating_point
    lines = [words.operating_point(point), words.calibration(model.card)]
    if answer.decision == "negative":
        lines.insert(1, words.missed(point))
    if answer.classes is not None:
        lines.insert(0, words.classes(answer.classes))
    text = "\n".join(_wrapped(line, _LINE) for line in [*lines, words.agreement(answer)])
    figure.text(_COLUMN, 0.858, text, va="top", fontsize=_SMALL, linespacing=1.35)
    _write_cautions(figure, answer, top=0.84 - _LINE_HEIGHT * (text.count("\n") + 1))


def _write_cautions(figure: Figure, answer: Prediction, *, top: float) -> None:
    """Write as many warnings as there is room for, and how many there are besides."""
    found = [textwrap.wrap(f"– {_plain(one.message)}", _LINE - 4) for one in answer.warnings]
    if not found:
        return
    room = int((top - (1 - _CHARTS[1])) / _LINE_HEIGHT) - 2
    lines = ["⚠ Reasons to distrust this answer"]
    for number, wrapped in enumerate(found):
        if len(lines) + len(wrapped) > room - (number < len(found) - 1):
            lines.append(f"– and {len(found) - number} more: see the report")
            break
        lines += wrapped
    text = "\n".join(lines)
    figure.text(_COLUMN + 0.006, top, text, va="top", fontsize=_SMALL, linespacing=1.35, bbox=_WARNING_BOX)


def _plain(text: str) -> str:
    r"""Return text whose characters the font has: hostile or foreign ones become question marks.

    >>> _plain("T2 tra\x07 日本")
    'T2 tra? ??'
    """
    return "".join(one if one == "\n" or (one.isprintable() and ord(one) <= _LAST_LATIN) else "?" for one in text)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(_plain(text), width))
