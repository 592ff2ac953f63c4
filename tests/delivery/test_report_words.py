"""Languages of the report: catalogues that say the same, a site's own texts, and pages that have room for them."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import report_pages

from prostate_alm.cli import main
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import StudyResult, predict_folder
from prostate_alm.delivery.prediction import Prediction, QualityWarning, Refused
from prostate_alm.delivery.report.html import render_report
from prostate_alm.delivery.report.page import compose_page
from prostate_alm.delivery.report.words import LanguageError, Words, languages, placeholders, read_words

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def result(packed_model: PackedModel, phantom_study: Path) -> StudyResult:
    return predict_folder(phantom_study, packed_model)


def refused(result: StudyResult) -> StudyResult:
    kept = {name: getattr(result.answer, name) for name in ("study", "model", "software")}
    return StudyResult(Refused(code="no_t2", reason="a T2 series must be there", series=(), **kept), None, None)


@pytest.mark.parametrize("language", languages())
def test_catalogues_have_the_same_keys_and_placeholders(language: str) -> None:
    english, other = read_words("en").texts, read_words(language).texts
    assert list(other) == list(english)  # in the same order, so that two files can be read side by side
    assert {key: placeholders(text) for key, text in other.items()} == {
        key: placeholders(text) for key, text in english.items()
    }
    assert other["language"] == language


def test_each_warning_of_the_documents_has_its_words() -> None:
    tables = [(DOCS / name).read_text(encoding="utf-8").split("## Warnings")[1] for name in ("predict.md", "dicom.md")]
    codes = {code for table in tables for code in re.findall(r"^\| `(\w+)` \|", table.split("\n## ")[0], re.MULTILINE)}
    assert len(codes) > 20
    assert {key.removeprefix("caution.") for key in read_words("en").texts if key.startswith("caution.")} == codes


@pytest.mark.slow
def test_each_text_is_asked_for_by_a_report(result: StudyResult, packed_model: PackedModel) -> None:
    """A text that nobody reads would be translated for nothing."""
    asked: set[str] = set()

    class Noting(dict[str, str]):
        def __getitem__(self, key: str) -> str:
            asked.add(key)
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    words = Words(Noting(read_words("en").texts), label="first reading")
    answer = result.answer
    assert isinstance(answer, Prediction)
    warnings = tuple(
        QualityWarning(code=key.removeprefix("caution."), message="m")
        for key in words.texts
        if key.startswith("caution")
    )
    named = answer.model_copy(update={"decision": "negative", "warnings": warnings, "identity": report_pages.IDENTITY})
    seen = report_pages.with_lesions(result)
    unseen = replace(seen, answer=seen.answer.model_copy(update={"lesions": ()}), lesions=None)
    for case in (result, StudyResult(named, None, None), refused(result), seen, unseen):
        render_report(case, packed_model, words)
    compose_page(StudyResult(named, result.volumes, result.image), packed_model, words)
    seldom = {"image.frame", "image.frame_short", "b.computed", "b.fit", "viewer.too_large", "result.means"}
    seldom |= {f"chart.open_{side}" for side in ("below", "above", "both")} | {
        "warnings.none",
        "path.both",
        "unknown",
        "classes",
    }
    seldom |= {key for key in words.texts if key.startswith("count.") or key.startswith("decision.")}
    assert set(words.texts) - asked - seldom == set()


def test_numbers_are_written_as_the_language_writes_them() -> None:
    german = read_words("de")
    assert (german.percent(0.034), german.number(-1.5, ".2f")) == ("3,4 %", "−1,50")
    assert read_words("en").number(-1.5, ".2f") == "−1.50"


@pytest.mark.parametrize("language", ["de", *(pytest.param(one, marks=pytest.mark.slow) for one in ("en", "fr"))])
def test_no_text_leaves_the_page_of_the_capture(result: StudyResult, packed_model: PackedModel, language: str) -> None:
    assert isinstance(result.answer, Prediction)
    many = tuple(
        QualityWarning(code=key.removeprefix("caution."), message="of many words " * 9)
        for key in read_words("en").texts
        if key.startswith("caution.")
    )
    answer = result.answer.model_copy(update={"warnings": many, "decision": "negative"})
    figure = compose_page(StudyResult(answer, result.volumes, result.image), packed_model, read_words(language))
    assert report_pages.outside(figure) == []
    seen = report_pages.with_lesions(StudyResult(answer, result.volumes, result.image))
    assert report_pages.outside(compose_page(seen, packed_model, read_words(language))) == []


@pytest.mark.parametrize(("language", "width"), [("en", 1130), ("de", 1130), ("fr", 1130), ("de", 500)])
def test_no_text_is_wider_than_the_window(
    result: StudyResult, packed_model: PackedModel, language: str, width: int, tmp_path: Path
) -> None:
    if report_pages.BROWSER is None:
        pytest.skip("no Chromium")
    page = render_report(StudyResult(result.answer, None, None), packed_model, read_words(language, label="x" * 60))
    script = "onload = () => { const root = document.documentElement; tell({wide: root.scrollWidth - root.clientWidth,"
    script += " small: Math.min(...[...document.querySelectorAll('p, dd, td, li')].map("
    script += "(one) => parseFloat(getComputedStyle(one).fontSize)))}); };"
    told = report_pages.told(page, script, tmp_path, width=width)
    assert told["wide"] <= 0
    assert told["small"] >= 11  # pixels


def test_a_site_adds_texts_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / "site.json"
    own.write_text(json.dumps({"extends": "fr", "title": "IRM, Hôpital du Lac", "slice": "n° {n}/{of}"}))
    words = read_words(str(own))
    assert (words("title"), words("slice", n=1, of=2)) == ("IRM, Hôpital du Lac", "n° 1/2")
    assert words("head.study") == "Examen"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"titel": "x"}', "keys must be those of a language that comes along, got 'titel'"),
        ('{"slice": "slice {n}"}', "slice must be a text with the placeholders"),
        ('{"slice": "{n.__class__} {of}"}', "slice must be a text with the placeholders"),
        ('{"slice": "{n} {of} {"}', "slice must be a text with the placeholders"),
        ('{"slice": 3}', "slice must be a text with the placeholders"),
        ('{"extends": "xx"}', "extends must be a language, got xx"),
        ("[]", "texts must be one JSON object"),
        ("{", "texts must be JSON"),
    ],
)
def test_a_file_that_no_report_could_use_is_refused_in_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "site.json").write_text(content)
    with pytest.raises(LanguageError, match=re.escape(message)) as caught:
        read_words(str(tmp_path / "site.json"))
    assert "\n" not in str(caught.value)


def test_the_command_line_takes_language_and_label(
    packed_file: Path, phantom_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another label is another report: it is neither kept in silence nor written over without being told."""
    out = tmp_path / "out"
    arguments = ["predict", str(phantom_study), "--model", str(packed_file), "--output", str(out), "--report"]
    assert main([*arguments, "--language", "de", "--label", "erste Lesung"]) == 0
    (page,) = out.glob("*.html")
    assert "<title>Bericht zur MRT der Prostata: erste Lesung</title>" in page.read_text(encoding="utf-8")
    first = page.read_bytes()
    assert main([*arguments, "--language", "de", "--label", "zweite"]) == 1
    assert "was not written" in capsys.readouterr().err
    assert page.read_bytes() == first
    for wrong in (["--language", "xx"], ["--label", "x" * 61], ["--label", "a\nb"]):
        assert main([*arguments, *wrong]) == 2
