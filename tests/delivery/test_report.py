import base64
import dataclasses
import hashlib
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_pages import BROWSER, IDENTITY, outside

from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import StudyResult, predict_folder
from prostate_alm.delivery.prediction import Prediction, QualityWarning, Refused
from prostate_alm.delivery.preprocess import network_input
from prostate_alm.delivery.report import panels as report_panels
from prostate_alm.delivery.report.html import render_report, write_report
from prostate_alm.delivery.report.page import compose_page, draw_page
from prostate_alm.delivery.report.views import Views, study_views
from prostate_alm.delivery.report.words import english
from prostate_alm.imaging.volume import StudyVolumes, Volume

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src="http://evil.example/x.png" onerror="alert(1)">',
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{",
    "</style><style>@import url(http://evil.example)</style>",
    "\x00\x1b[31m\u202etxet",
    "\udcff",
    "前立腺",
)


class Page(HTMLParser):
    """Collects what a browser would load and what a reader would read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.alternatives: list[str] = []
        self.policy = self.style = self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.links += [values[name] or "" for name in ("src", "href", "srcset", "action", "data") if name in values]
        assert not any(name.startswith("on") or name == "style" for name in values), values
        if tag == "img":
            self.alternatives.append(values.get("alt") or "")
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["style"] and not self.style:
            self.style = data
        else:
            self.text += f"{data} "


@pytest.fixture(scope="module")
def result(packed_model: PackedModel, phantom_study: Path) -> StudyResult:
    return predict_folder(phantom_study, packed_model)


@pytest.fixture(scope="module")
def report(result: StudyResult, packed_model: PackedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("report") / "report.html"
    write_report(result, packed_model, output)
    return output


@pytest.fixture(scope="module")
def refused(result: StudyResult) -> StudyResult:
    answer = result.answer
    kept = {name: getattr(answer, name) for name in ("study", "series", "model", "software")}
    return StudyResult(Refused(code="no_t2", reason="a T2 series must be there, got none", **kept), None, None)


def without_images(result: StudyResult, **changes: Any) -> StudyResult:
    """Return a result whose report has no figures, as they take seconds and the text takes none."""
    return StudyResult(result.answer.model_copy(update=changes), None, None)


def views_of(volumes: StudyVolumes, model: PackedModel, saliency: np.ndarray) -> Views:
    return study_views(volumes, model.card.grid, saliency=saliency)


def test_saliency_lies_on_the_anatomy_that_it_belongs_to(result: StudyResult, packed_model: PackedModel) -> None:
    """The network's own T2 input, laid over T2 as if it were saliency, must be T2."""
    assert result.volumes is not None
    image = network_input(result.volumes, packed_model.card.grid).numpy()
    views = views_of(result.volumes, packed_model, image[[0, 3]])
    (x0, x1), (y0, y1) = np.round(views.field).astype(int)
    inside = (slice(x0 + 8, x1 - 8), slice(y0 + 8, y1 - 8), slice(2, -2))  # the blur darkens the saliency's edge
    for seen, shown in zip(views.saliency, (views.t2, views.diffusion[2]), strict=True):
        for axis in range(3):
            moves = range(-4, 5) if axis < 2 else range(-1, 2)
            fits = [np.corrcoef(np.roll(seen, n, axis)[inside].ravel(), shown[inside].ravel())[0, 1] for n in moves]
            assert moves[int(np.argmax(fits))] == 0, (axis, fits)
            assert max(fits) > 0.75


def test_a_study_stored_in_another_order_looks_the_same(result: StudyResult, packed_model: PackedModel) -> None:
    volumes = result.volumes
    assert volumes is not None
    saliency = np.random.default_rng(0).normal(size=(2, *packed_model.card.grid.image_size))

    def turned(volume: Volume) -> Volume:
        last = volume.voxels.shape[1] - 1
        flip = np.array([[0, 1, 0, 0], [-1, 0, 0, last], [0, 0, 1, 0], [0, 0, 0, 1.0]])  # i', j' -> j', last - i'
        return Volume(volume.voxels[:, ::-1].transpose(1, 0, 2), volume.affine_ras_mm @ flip)

    other = dataclasses.replace(volumes, t2=turned(volumes.t2), dwi=tuple(turned(one) for one in volumes.dwi))
    first, second = (views_of(one, packed_model, saliency) for one in (volumes, other))
    np.testing.assert_array_equal(first.t2, second.t2)
    np.testing.assert_allclose(first.saliency, second.saliency, atol=1e-5)
    assert first.slices == second.slices


def test_the_slices_shown_are_around_the_greatest_saliency(result: StudyResult, packed_model: PackedModel) -> None:
    assert result.volumes is not None
    size = packed_model.card.grid.image_size
    shown = {}
    for place in (0, size[2] // 2, size[2] - 1):
        saliency = np.zeros((2, *size))
        saliency[1, 20, 20, place] = -1.0
        views = views_of(result.volumes, packed_model, saliency)
        assert len(views.slices) == 3
        assert list(views.slices) == sorted(views.slices, reverse=True)  # cranial first
        assert views.peak in views.slices
        shown[place] = views.peak
    assert shown[0] < shown[size[2] // 2] < shown[size[2] - 1]
    assert views.slices[0] == views.t2.shape[2] - 1


def test_the_total_saliency_survives_smoothing_and_resampling(result: StudyResult, packed_model: PackedModel) -> None:
    assert result.volumes is not None
    saliency = np.zeros((2, *packed_model.card.grid.image_size))
    saliency[0, 20, 18, 10] = 0.7
    views = views_of(result.volumes, packed_model, saliency)
    voxel_cm3 = float(np.prod(views.spacing_mm)) / 1000
    assert views.saliency.sum() * voxel_cm3 == pytest.approx(0.7, rel=0.02)


def test_the_file_needs_nothing_else(report: Path) -> None:
    page = Page(report.read_text(encoding="utf-8"))
    assert len(page.alternatives) == 4
    assert all(len(alternative) > 50 for alternative in page.alternatives)
    assert all(link.startswith("data:image/") for link in page.links)
    assert not {"iframe", "object", "embed", "link", "base", "form"} & set(page.tags)
    assert page.tags.count("script") == 2  # the slices as data, and the viewer
    viewer = report.read_text(encoding="utf-8").rsplit("<script>", 1)[1].split("</script>", 1)[0]
    style, script = (
        f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in (page.style, viewer)
    )
    assert page.policy == (
        f"default-src 'none'; img-src data:; style-src {style}; script-src {script}; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"@import|url\(", page.style)


def test_an_answer_is_told_in_words(result: StudyResult, packed_model: PackedModel) -> None:
    answer = result.answer
    assert isinstance(answer, Prediction)
    point = answer.operating_point.model_copy(
        update={"tpr": 0.95, "tpr_low": 0.861, "tpr_high": 0.99, "fpr": 0.4, "positives": 60, "negatives": 140}
    )
    changes = {"operating_point": point, "probability": 0.3712, "decision": "negative"}
    warning = QualityWarning(code="b_values_computed", message="b 1000 comes from a fit")
    page = Page(render_report(without_images(result, **changes, warnings=(warning,)), packed_model))
    text = " ".join(page.text.split())
    for words in (
        "Research use only, not for diagnosis.",
        "37 % probability that the study is positive",
        "▽ NEGATIVE",
        "95 % of the positive studies of the validation cohort were found (95 % interval 86 to 99 %)",
        "and 40 % of the negative ones were called positive",
        "there were 60 positive studies and 140 negative studies",
        "of 60 positive studies of the validation cohort, 3 had a score below the threshold",
        "b 1000 comes from a fit b_values_computed",
        answer.model.sha256,
    ):
        assert words in text, words


def test_a_refusal_says_why_and_which_series_there_were(refused: StudyResult, packed_model: PackedModel) -> None:
    page = Page(render_report(refused, packed_model))
    assert "Refused" in page.text
    assert "no_t2" in page.text
    assert "a T2 series must be there, got none" in page.text
    assert "img" not in page.tags
    assert page.tags.count("tr") == 1 + len(refused.answer.series)
    assert "probability" not in page.text


def test_hostile_text_is_text(
    result: StudyResult, refused: StudyResult, packed_model: PackedModel, tmp_path: Path
) -> None:
    series = tuple(
        one.model_copy(update={"description": text, "reason": text})
        for one, text in zip(result.answer.series * len(HOSTILE), HOSTILE, strict=False)
    )
    for case in (
        without_images(result, series=series, warnings=(QualityWarning(code="odd", message="".join(HOSTILE)),)),
        without_images(refused, series=series, reason="".join(HOSTILE)),
    ):
        write_report(case, packed_model, tmp_path / "report.html")
        page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert page.links == []
        assert "script" not in page.tags
        assert page.tags.count("style") == 1
        for text in (*HOSTILE[:5], HOSTILE[7]):
            assert page.text.count(text) >= 3
    assert np.ptp(draw_page(without_images(refused, reason="".join(HOSTILE)), packed_model)) == 255


def test_nobody_is_named_unless_asked(
    report: Path, result: StudyResult, refused: StudyResult, packed_model: PackedModel, phantom_study: Path
) -> None:
    assert not re.search(r"PHANTOM|2\.25\.\d+", report.read_text(encoding="utf-8"))
    assert str(phantom_study) not in report.read_text(encoding="utf-8")
    values = (IDENTITY.path, IDENTITY.patient_id, IDENTITY.study_instance_uid, IDENTITY.accession_number)
    for case in (result, refused):
        named = Page(render_report(without_images(case, identity=IDENTITY), packed_model)).text
        assert all(value in named for value in values)
    drawn = " ".join(all_text(compose_page(without_images(refused, identity=IDENTITY), packed_model, english())))
    assert not any(value in drawn for value in values)


def all_text(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_the_page_is_an_image_that_holds_the_essentials(result: StudyResult, packed_model: PackedModel) -> None:
    answer = result.answer
    assert isinstance(answer, Prediction)
    many = tuple(
        QualityWarning(code=f"code_{number}", message=f"warning {number} " + "of many words " * 12)
        for number in range(9)
    )
    named = dataclasses.replace(result, answer=answer.model_copy(update={"warnings": many, "identity": IDENTITY}))
    figure = compose_page(named, packed_model, english())
    text = " ".join(" ".join(all_text(figure)).split())
    for words in (answer.notice, answer.study, answer.model.sha256, "validation cohort"):
        assert words in text
    assert all(one.code in text or one.message in text for one in many)  # none is lost where there is no room
    assert IDENTITY.patient_id not in text
    assert outside(figure) == []
    pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    assert pixels.shape == (1131, 1600, 4)


def test_a_refusal_is_a_page_too(refused: StudyResult, packed_model: PackedModel) -> None:
    long = without_images(refused, reason="a gap of 6.00 mm between images 4 and 5 in series 7, b 400. " * 9)
    pixels = draw_page(long, packed_model)
    assert (pixels.shape, pixels.dtype) == ((1131, 1600, 3), np.uint8)
    assert outside(compose_page(long, packed_model, english())) == []


@pytest.mark.parametrize("logit", [-40.0, 0.1, 40.0])
def test_charts_hold_the_most_extreme_answer(result: StudyResult, packed_model: PackedModel, logit: float) -> None:
    assert isinstance(result.answer, Prediction)
    answer = result.answer.model_copy(update={"logit": logit, "member_logits": (logit - 3, logit, logit + 3)})
    figure = Figure(figsize=(10.5, 4.8))
    report_panels.compose_charts(figure, packed_model.card, answer, english())
    assert outside(figure) == []


def test_the_same_answer_gives_the_same_bytes(result: StudyResult, packed_model: PackedModel, report: Path) -> None:
    assert render_report(result, packed_model) == report.read_text(encoding="utf-8")


def test_a_report_appears_whole_and_in_the_place_of_its_forerunner(
    refused: StudyResult, packed_model: PackedModel, tmp_path: Path
) -> None:
    output = tmp_path / "report.html"
    output.write_text("old")
    write_report(refused, packed_model, output)
    assert output.read_text(encoding="utf-8") == render_report(refused, packed_model)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def console(browser: str, page: Path, folder: Path) -> list[str]:
    """Open a page in the browser and return what its console says; a refused request is said there."""
    flags = [
        "--headless=new", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
        "--window-size=1130,2600", f"--screenshot={folder / 'page.png'}",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")
    done = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]


def test_a_browser_shows_it_without_complaint(report: Path, tmp_path: Path) -> None:
    browser = BROWSER
    if browser is None:
        pytest.skip("no Chromium")
    assert console(browser, report, tmp_path) == []
    assert (tmp_path / "page.png").stat().st_size > 100_000  # a blank page has a few thousand bytes
    text = report.read_text(encoding="utf-8").replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">')
    (tmp_path / "asks.html").write_text(text, encoding="utf-8")
    assert "violates" in "".join(
        console(browser, tmp_path / "asks.html", tmp_path)
    )  # so the silence above says something
