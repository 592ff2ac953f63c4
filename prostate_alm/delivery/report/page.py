"""The report as one image, landscape, for a viewer of DICOM images: what a secondary capture holds."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.prediction import Prediction, Refused
from prostate_alm.delivery.report import panels
from prostate_alm.delivery.report.figures import NEGATIVE, POSITIVE
from prostate_alm.delivery.report.saliency import saliency
from prostate_alm.delivery.report.views import study_views
from prostate_alm.delivery.report.words import DEFAULT_LANGUAGE, Words, english

if TYPE_CHECKING:
    from prostate_alm.delivery.package.opened import PackedModel
    from prostate_alm.delivery.predict import StudyResult

WIDTH, HEIGHT = 1600, 1131
"""Pixels of the page: A4, landscape."""

_DOTS_PER_INCH = 100
_STYLE: dict[Any, Any] = {"font.size": 11.0, "text.parse_math": False}  # a $ in a header is no formula
_LARGE, _SMALL = 26, 9.5
_LINE = 82  # characters of the right column
_LINE_HEIGHT = 0.0162  # share of the page
_COLUMN = 0.605
_SLICES, _INPUTS = (0.01, 0.045, 0.59, 0.72), (0.01, 0.735, 0.59, 0.95)
_CHARTS = (0.6, 0.515, 0.98, 0.955)
_BOX = {"boxstyle": "square,pad=0.4", "facecolor": "0.95", "edgecolor": "black", "linewidth": 1.5}
_WARNING_BOX = {"boxstyle": "square,pad=0.5", "facecolor": "#fff6ed", "edgecolor": POSITIVE, "linewidth": 2}
_SIGNS = "−–…’“”„"
_LAST_LATIN = 0x024F  # of the font's letters; others would be drawn as boxes


def draw_page(result: StudyResult, model: PackedModel, words: Words | None = None) -> NDArray[np.uint8]:
    """Draw what a reader must see of an answer, or of a refusal, on one page without identifiers.

    Args:
        result: of `predict_folder`; an identity in it is not drawn.
        model: that answered.
        words: language and label; English without a label when None.

    Returns:
        (1131, 1600, 3), RGB. The same result and model give the same pixels.
    """
    with matplotlib.rc_context(_STYLE):
        canvas = FigureCanvasAgg(compose_page(result, model, words or english()))
        canvas.draw()  # type: ignore[no-untyped-call]
        return np.array(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]


def compose_page(result: StudyResult, model: PackedModel, words: Words) -> Figure:
    """Return the page before it becomes pixels."""
    figure = Figure(figsize=(WIDTH / _DOTS_PER_INCH, HEIGHT / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH)
    _draw_frame(figure, result.answer, words)
    if isinstance(result.answer, Refused):
        _draw_refusal(figure, result.answer, words)
    else:
        _draw_answer(figure, result, model, words)
    return figure


def _draw_frame(figure: Figure, answer: Prediction | Refused, words: Words) -> None:
    """Write the notice, the title, and which model answered which study."""
    figure.text(0.5, 0.975, words("notice"), ha="center", va="center", fontsize=15, fontweight="bold", bbox=_BOX)
    figure.text(0.02, 0.975, words("title"), va="center", fontsize=17, fontweight="bold")
    study = f"{words('head.study')} {answer.study or words('unknown')}"
    lines = [study, *([_plain(words.label)] if words.label else [])]
    figure.text(0.98, 0.975, "\n".join(lines), ha="right", va="center", fontsize=_SMALL)
    software = ", ".join(f"{name} {version}" for name, version in sorted(answer.software.items()))
    about = answer.model
    lines = [
        f"{words('head.model')}: {about.name} {about.version}, {words.count('network', about.members)}, "
        f"{words('head.trained_on')} {about.trained_on}. SHA-256 {about.sha256}",
        f"{words('made.software')}: {software}",
    ]
    figure.text(0.02, 0.012, _plain("\n".join(lines)), va="bottom", fontsize=8.5, color="0.25", linespacing=1.4)


def _draw_refusal(figure: Figure, answer: Refused, words: Words) -> None:
    figure.text(0.06, 0.86, f"✕ {words('refused.title')}", va="top", fontsize=_LARGE, fontweight="bold")
    figure.text(0.06, 0.79, answer.code, va="top", fontsize=15, family="monospace")
    figure.text(0.06, 0.74, _wrapped(answer.reason, 110), va="top", fontsize=15, linespacing=1.5)


def _draw_answer(figure: Figure, result: StudyResult, model: PackedModel, words: Words) -> None:
    answer, card = result.answer, model.card
    if not isinstance(answer, Prediction) or result.volumes is None or result.image is None:
        raise ValueError("result must hold volumes and image, got none in draw_page. Take that of predict_folder.")
    views = study_views(
        result.volumes, result.grid or card.grid, saliency=saliency(model, result.image), lesions=result.lesions
    )
    panels.compose_slices(_part(figure, _SLICES), views, card, words)
    panels.compose_inputs(_part(figure, _INPUTS), views, answer, words)
    panels.compose_charts_narrow(_part(figure, _CHARTS), card, answer, words)
    caption = f"{words('saliency.caption')} {words('field.caption')}"
    figure.text(0.035, 0.304, _wrapped(caption, 138), va="top", fontsize=9, linespacing=1.3)
    _write_result(figure, answer, card, words)


def _part(figure: Figure, place: tuple[float, float, float, float]) -> SubFigure:
    """Add a part of the page: its left, top, right and bottom edge as shares of the page from the upper left."""
    left, top, right, bottom = place
    widths, heights = (left, right - left, 1 - right), (top, bottom - top, 1 - bottom)
    return figure.add_subfigure(figure.add_gridspec(3, 3, width_ratios=widths, height_ratios=heights)[1, 1])


def _write_result(figure: Figure, answer: Prediction, card: ModelCard, words: Words) -> None:
    """Write probability, decision, operating point and warnings, from the top of the right column down."""
    colour = POSITIVE if answer.decision == "positive" else NEGATIVE
    bold: dict[str, Any] = {"fontweight": "bold", "va": "top"}
    figure.text(_COLUMN, 0.945, words.percent(answer.probability), fontsize=_LARGE, **bold)
    figure.text(_COLUMN + 0.14, 0.945, words.decision(answer), fontsize=_LARGE, color=colour, **bold)
    probability = _wrapped(words("result.probability"), 22)
    figure.text(_COLUMN, 0.905, probability, va="top", fontsize=_SMALL)
    figure.text(_COLUMN + 0.14, 0.905, _wrapped(words.decision_reason(answer, card), 52), va="top", fontsize=_SMALL)
    point = answer.operating_point
    lines = [
        textwrap.shorten(words.meaning(card), 2 * _LINE, placeholder=" ..."),
        words.operating_point(point),
        words.calibration(card),
    ]
    if answer.decision == "negative":
        lines.insert(2, words.missed(point))
    if answer.classes is not None:
        lines.insert(0, words.classes(answer.classes))
    if answer.lesions is not None:
        lines.insert(0, textwrap.shorten(words.candidates(answer.lesions), 3 * _LINE, placeholder=" ..."))
    text = "\n".join(_wrapped(line, _LINE) for line in [*lines, words.agreement(answer)])
    figure.text(_COLUMN, 0.862, text, va="top", fontsize=_SMALL, linespacing=1.35)
    _write_cautions(figure, answer, words, top=0.846 - _LINE_HEIGHT * (text.count("\n") + 1))


def _write_cautions(figure: Figure, answer: Prediction, words: Words, *, top: float) -> None:
    """Write all warnings: those for which there is no room by their codes."""
    if not answer.warnings:
        return
    room = int((top - (1 - _CHARTS[1])) / _LINE_HEIGHT) - 1
    whole = len(answer.warnings)
    while whole > 0 and len(_cautions(answer, words, whole=whole)) > room:
        whole -= 1
    text = "\n".join(_cautions(answer, words, whole=whole))
    figure.text(_COLUMN + 0.006, top, text, va="top", fontsize=_SMALL, linespacing=1.35, bbox=_WARNING_BOX)


def _cautions(answer: Prediction, words: Words, *, whole: int) -> list[str]:
    """Return the lines of the warnings, the first ones whole, the others as codes."""
    lines = [f"⚠ {words('warnings.title')}"]
    for one in answer.warnings[:whole]:
        told = one.message if words("language") == DEFAULT_LANGUAGE else words.caution(one.code) or one.message
        lines += textwrap.wrap(f"– {_plain(told)}", _LINE - 4)
    rest = list(dict.fromkeys(one.code for one in answer.warnings[whole:]))
    if rest:
        lines += textwrap.wrap(f"– {words('warnings.more', codes=', '.join(rest))}", _LINE - 4)
    return lines


def _plain(text: str) -> str:
    r"""Return text whose characters the font has: hostile or foreign ones become question marks.

    >>> _plain("T2 tra\x07 日本")
    'T2 tra? ??'
    """
    return "".join(
        one if one == "\n" or (one.isprintable() and (ord(one) <= _LAST_LATIN or one in _SIGNS)) else "?"
        for one in text
    )


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(_plain(text), width))
