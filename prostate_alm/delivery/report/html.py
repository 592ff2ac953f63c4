"""A report to look at: one HTML file that needs nothing else, of an answered or a refused study."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from prostate_alm.delivery.prediction import Prediction, Refused
from prostate_alm.delivery.report import panels, words
from prostate_alm.delivery.report.saliency import saliency
from prostate_alm.delivery.report.views import Views, study_views
from prostate_alm.whole_files import write_bytes_atomically

if TYPE_CHECKING:
    from prostate_alm.delivery.package.opened import PackedModel
    from prostate_alm.delivery.predict import StudyResult

_STYLE: dict[Any, Any] = {"svg.hashsalt": "prostate-alm", "font.size": 10.0}  # the same answer gives the same bytes
_WIDTH_IN = 10.5
_DOTS_PER_INCH = 120


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


def write_report(result: StudyResult, model: PackedModel, output: Path) -> None:
    """Write the report of a study as one HTML file: no script, no other file, nothing from the network.

    It names no patient unless the answer holds an identity. The file appears whole; an earlier report under this name
    is replaced, as it belongs to an earlier answer. The same result and model give the same bytes.

    Args:
        result: of `predict_folder`.
        model: that answered.
        output: the file.

    Raises:
        OSError: the file cannot be written.
    """
    write_bytes_atomically(output, report_file(result, model))


def report_file(result: StudyResult, model: PackedModel) -> bytes:
    """Return the content of the report's file; see `write_report`."""
    return render_report(result, model).encode("utf-8", errors="replace")  # lone surrogates of a broken header


def render_report(result: StudyResult, model: PackedModel) -> str:
    """Return the report as text; see `write_report`."""
    answer = result.answer
    style = _resource("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_resource("report.html.j2")).render(
        answer=answer,
        card=model.card,
        cautions=() if isinstance(answer, Refused) else answer.warnings,
        figures=_figures(result, model),
        members=words.count(answer.model.members, "member"),
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        refused=isinstance(answer, Refused),
        style=Markup(style),  # as it is, or the policy's checksum forbids it
        title="Prostate MRI report",
        words=words,
    )


def _figures(result: StudyResult, model: PackedModel) -> list[ReportFigure]:
    answer = result.answer
    if not isinstance(answer, Prediction) or result.volumes is None or result.image is None:
        return []
    views = study_views(result.volumes, model.card.grid, saliency=saliency(model, result.image))
    with matplotlib.rc_context(_STYLE):
        return [_slices(views, model), _inputs(views, answer), _overview(views, model), _charts(model, answer)]


def _slices(views: Views, model: PackedModel) -> ReportFigure:
    height = panels.slices_layout(views, model.card).height_in(_WIDTH_IN)
    return ReportFigure(
        "slices",
        *_png((_WIDTH_IN, height), lambda figure: panels.compose_slices(figure, views, model.card)),
        title="Where the members looked.",
        caption=f"{words.SALIENCY} {words.FIELD}",
        description=words.describe_slices(views, [path.name for path in panels.path_views(views, model.card)]),
    )


def _inputs(views: Views, answer: Prediction) -> ReportFigure:
    height = panels.inputs_layout(views).height_in(_WIDTH_IN)
    number = views.first_slice + views.peak
    return ReportFigure(
        "inputs",
        *_png((_WIDTH_IN, height), lambda figure: panels.compose_inputs(figure, views, answer)),
        title="What the model was given.",
        caption=f"Slice {number}; diffusion is interpolated onto the T2 grid. The ADC map is fitted for the reader, "
        "0 to 2500 µm²/s; the model does not see it.",
        description=f"Axial slice {number}: T2, diffusion at each b-value, and a fitted ADC map.",
    )


def _overview(views: Views, model: PackedModel) -> ReportFigure:
    height = panels.overview_height_in(views, model.card, width_in=_WIDTH_IN)
    return ReportFigure(
        "overview",
        *_png((_WIDTH_IN, height), lambda figure: panels.compose_overview(figure, views, model.card)),
        title="All slices.",
        caption="From the head to the feet; numbers count from the feet. Colours as above.",
        description=f"Slices {views.first_slice + views.t2.shape[2] - 1} to {views.first_slice} of every path, small, "
        "with saliency.",
    )


def _charts(model: PackedModel, answer: Prediction) -> ReportFigure:
    return ReportFigure(
        "charts",
        *_svg((_WIDTH_IN, 4.8), lambda figure: panels.compose_charts(figure, model.card, answer)),
        title="What the answer rests on.",
        caption="Above: each mark is a study of the validation cohort, scored by the members that had not trained on "
        f"it, on a scale of log odds. Below: {words.agreement(answer)} Right: what each threshold would do.",
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


def _resource(name: str) -> str:
    return (resources.files("prostate_alm.delivery.report") / name).read_text(encoding="utf-8")
