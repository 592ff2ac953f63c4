"""A report to look at: one HTML file that needs nothing else, of an answered or a refused study."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.prediction import Prediction, Refused, UsedSeries
from prostate_alm.delivery.report import panels
from prostate_alm.delivery.report.candidates import CandidateRow, candidate_rows
from prostate_alm.delivery.report.saliency import saliency
from prostate_alm.delivery.report.viewer import viewer_json
from prostate_alm.delivery.report.views import Views, study_views
from prostate_alm.delivery.report.words import Words, english, report_head
from prostate_alm.whole_files import write_bytes_atomically

if TYPE_CHECKING:
    from prostate_alm.delivery.package.opened import PackedModel
    from prostate_alm.delivery.predict import StudyResult

_STYLE: dict[Any, Any] = {"svg.hashsalt": "prostate-alm", "font.size": 10.0}  # the same answer gives the same bytes
_WIDTH_IN = 10.5
_DOTS_PER_INCH = 120
_NUMBERS = re.compile(r"\d[\d.,]*")


@dataclass(frozen=True, slots=True)
class ReportFigure:
    """A picture of the report with what it shows for who does not see it."""

    kind: str
    source: str
    width: int
    height: int
    title: str
    caption: str
    description: str


@dataclass(frozen=True, slots=True)
class Shown:
    """The pictures of a report, none of a refused study: still ones, and the slices for the viewer as JSON.

    `slices` is empty for a study that is too large; `views` says how many slices there are.
    """

    figures: tuple[ReportFigure, ...] = ()
    slices: str = ""
    views: Views | None = None


def write_report(result: StudyResult, model: PackedModel, output: Path, words: Words | None = None) -> None:
    """Write the report of a study as one HTML file: no other file, nothing from the network.

    It names no patient unless the answer holds an identity. The file appears whole; an earlier report under this name
    is replaced, as it belongs to an earlier answer. The same result and model give the same bytes.

    Args:
        result: of `predict_folder`.
        model: that answered.
        output: the file.
        words: language and label; English without a label when None.

    Raises:
        OSError: the file cannot be written.
    """
    write_bytes_atomically(output, report_file(result, model, words))


def report_file(result: StudyResult, model: PackedModel, words: Words | None = None) -> bytes:
    """Return the content of the report's file; see `write_report`."""
    return render_report(result, model, words).encode("utf-8", errors="replace")  # lone surrogates of a broken header


def render_report(result: StudyResult, model: PackedModel, words: Words | None = None) -> str:
    """Return the report as text; see `write_report`."""
    words = words or english()
    answer = result.answer
    style = _environment().from_string(_resource("report.css")).render(notice=_css_text(words("notice")))
    shown = _shown(result, model, words)
    script = _resource("viewer.js") if shown.slices else ""
    return report_head(words) + _environment().from_string(_resource("report.html.j2")).render(
        answer=answer,
        candidates=_candidates(answer, shown.views, words),
        card=model.card,
        cautions=() if isinstance(answer, Refused) else answer.warnings,
        shown=shown,
        policy=_policy(style, script),
        refused=isinstance(answer, Refused),
        rows=folded(answer.series),
        script=Markup(script),
        style=Markup(style),  # as it is, or the policy's checksum forbids it
        words=words,
    )


def _candidates(answer: Prediction | Refused, views: Views | None, words: Words) -> list[CandidateRow]:
    return [] if isinstance(answer, Refused) else candidate_rows(answer.lesions or (), views, words)


def _policy(style: str, script: str) -> str:
    """Return what the page may do: nothing but show its own pictures, by its own style and script."""
    parts = ["default-src 'none'", "img-src data:", f"style-src '{_checksum(style)}'"]
    parts += [f"script-src '{_checksum(script)}'"] if script else []
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _checksum(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _css_text(text: str) -> Markup:
    """Return a text as CSS may hold it between quotes."""
    escaped = "".join(one if one.isalnum() or one in " .,-" else f"\\{ord(one):x} " for one in text)
    return Markup(escaped)


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """A row of the table of series: one series, or neighbours that are the same but for their numbers."""

    numbers: str
    description: str
    first: UsedSeries
    count: int


def folded(series: Sequence[UsedSeries]) -> list[SeriesRow]:
    """Return the rows of the table of series, the phases of a dynamic one in one row.

    Neighbours are joined that are not used and differ in nothing but numbers within their description.
    """
    rows = []
    for _, group in groupby(enumerate(series), key=lambda pair: _alike(*pair)):
        members = [one for _, one in group]
        ends = [members[0], *members[1:][-1:]]
        numbers = "–".join(str(one.series_number) for one in ends)
        names = list(dict.fromkeys(one.description for one in ends))
        rows.append(SeriesRow(numbers, " … ".join(names), members[0], len(members)))
    return rows


def _alike(place: int, one: UsedSeries) -> tuple[object, ...]:
    """Return what series in one row have in common; `place` alone for one that is used."""
    if one.used:
        return (place,)
    return (one.role, one.b_values_s_per_mm2, _NUMBERS.sub("#", one.reason), _NUMBERS.sub("#", one.description))


def _shown(result: StudyResult, model: PackedModel, words: Words) -> Shown:
    answer = result.answer
    if not isinstance(answer, Prediction) or result.volumes is None or result.image is None:
        return Shown()
    moved = saliency(model, result.image)
    views = study_views(result.volumes, result.grid or model.card.grid, saliency=moved, lesions=result.lesions)
    page = Drawing(views, model.card, answer, words)
    with matplotlib.rc_context(_STYLE):
        candidates = (_lesions(page),) if views.peaks else ()
        figures = (*candidates, _charts(page), _slices(page), _inputs(page), _overview(page))
    return Shown(figures, viewer_json(views, model.card, answer, words), views)


@dataclass(frozen=True)
class Drawing:
    """What the figures of a report are drawn from."""

    views: Views
    card: ModelCard
    answer: Prediction
    words: Words


def _lesions(page: Drawing) -> ReportFigure:
    views, answer, words = page.views, page.answer, page.words
    height = panels.candidates_layout(views).height_in(_WIDTH_IN)
    each = "; ".join(words.candidate(one) for one in (answer.lesions or ())[: panels.CANDIDATES_DRAWN])
    return ReportFigure(
        "lesions",
        *_png((_WIDTH_IN, height), lambda figure: panels.compose_candidates(figure, views, answer, words)),
        title=words("figure.lesions"),
        caption=words("figure.lesions_caption"),
        description=words("figure.lesions_alt", each=each),
    )


def _slices(page: Drawing) -> ReportFigure:
    views, card, words = page.views, page.card, page.words
    height = panels.slices_layout(views, card).height_in(_WIDTH_IN)
    return ReportFigure(
        "slices",
        *_png((_WIDTH_IN, height), lambda figure: panels.compose_slices(figure, views, card, words)),
        title=words("figure.slices"),
        caption=f"{words('saliency.caption')} {words('field.caption')}",
        description=words.describe_slices(views, [path.name for path in panels.path_views(views, card, words)]),
    )


def _inputs(page: Drawing) -> ReportFigure:
    views, words = page.views, page.words
    height = panels.inputs_layout(views).height_in(_WIDTH_IN)
    number = views.first_slice + views.peak
    return ReportFigure(
        "inputs",
        *_png((_WIDTH_IN, height), lambda figure: panels.compose_inputs(figure, views, page.answer, words)),
        title=words("figure.inputs"),
        caption=words("figure.inputs_caption", n=number),
        description=words("figure.inputs_alt", n=number),
    )


def _overview(page: Drawing) -> ReportFigure:
    views, card, words = page.views, page.card, page.words
    height = panels.overview_height_in(views, card, width_in=_WIDTH_IN)
    last, first = views.first_slice + views.t2.shape[2] - 1, views.first_slice
    return ReportFigure(
        "overview",
        *_png((_WIDTH_IN, height), lambda figure: panels.compose_overview(figure, views, card, words)),
        title=words("figure.overview"),
        caption=words("figure.overview_caption"),
        description=words("figure.overview_alt", first=last, last=first),
    )


def _charts(page: Drawing) -> ReportFigure:
    card, answer, words = page.card, page.answer, page.words
    return ReportFigure(
        "charts",
        *_svg((_WIDTH_IN, 4.8), lambda figure: panels.compose_charts(figure, card, answer, words)),
        title=words("figure.charts"),
        caption=words("figure.charts_caption", agreement=words.agreement(answer)),
        description=words.describe_charts(answer),
    )


def _png(size_in: tuple[float, float], draw: Callable[[Figure], None]) -> tuple[str, int, int]:
    return _drawn(size_in, draw, kind="png", mime="image/png")


def _svg(size_in: tuple[float, float], draw: Callable[[Figure], None]) -> tuple[str, int, int]:
    return _drawn(size_in, draw, kind="svg", mime="image/svg+xml")


def _drawn(
    size_in: tuple[float, float], draw: Callable[[Figure], None], *, kind: str, mime: str
) -> tuple[str, int, int]:
    """Return a figure as a data URI, its width and height in CSS pixels."""
    figure = Figure(figsize=size_in)
    draw(figure)
    stream = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    options: dict[str, Any] = {} if kind == "svg" else {"pil_kwargs": {"compress_level": 6}}
    figure.savefig(stream, format=kind, dpi=_DOTS_PER_INCH, metadata=metadata, **options)
    source = f"data:{mime};base64,{base64.b64encode(stream.getvalue()).decode()}"
    return source, round(100 * size_in[0]), round(100 * size_in[1])


def _environment() -> Environment:
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _resource(name: str) -> str:
    return (resources.files("prostate_alm.delivery.report") / name).read_text(encoding="utf-8")
