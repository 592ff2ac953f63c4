"""Candidates of lesions in the report: their list, their outlines, and the way from the one to the other."""

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_pages

from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import StudyResult, predict_folder
from prostate_alm.delivery.report.html import render_report
from prostate_alm.delivery.report.views import study_views
from prostate_alm.delivery.report.words import read_words


@pytest.fixture(scope="module")
def result(packed_model: PackedModel, phantom_study: Path) -> StudyResult:
    return report_pages.with_lesions(predict_folder(phantom_study, packed_model))


@pytest.fixture(scope="module")
def page(result: StudyResult, packed_model: PackedModel) -> str:
    return render_report(result, packed_model)


def rows_of(page: str) -> list[list[str]]:
    section = page.split('<section class="lesions"')[1].split("</section>")[0]
    rows = re.findall(r"<tr>(<td>.*?)</tr>", section)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall("<td>(.*?)</td>", row)] for row in rows]


def test_the_list_has_place_volume_and_part_of_the_gland(page: str, result: StudyResult) -> None:
    rows = rows_of(page)
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[5] for row in rows] == ["left, base", "right, mid-gland", "both sides, apex", "not known"]
    assert {row[4] for row in rows} == {"0.03 ml"}  # 25 mm³
    x, y, z = result.answer.lesions[0].position_mm
    told = dict(part.split() for part in rows[0][2].removesuffix(" mm").split(", "))
    expected = {"L" if x >= 0 else "R": x, "P" if y >= 0 else "A": y, "H" if z >= 0 else "F": z}
    assert {key: float(value) for key, value in told.items()} == {k: round(abs(v), 1) for k, v in expected.items()}
    assert "96 % of 120 lesions of the validation cohort (95 % interval 90 to 99 %), with 0.31 false" in page


@pytest.mark.parametrize(
    ("language", "part", "none"),
    [("de", "rechts, Mitte", "Kein Kandidat erreicht die Schwelle"), ("fr", "droite, milieu", "Aucun candidat")],
)
def test_it_speaks_the_language_of_the_reader(
    result: StudyResult, packed_model: PackedModel, language: str, part: str, none: str
) -> None:
    unseen = replace(result, volumes=None, image=None, lesions=None)
    page = render_report(unseen, packed_model, read_words(language))
    assert rows_of(page)[1][5] == part
    assert rows_of(page)[1][3] == "–"  # no slice without images
    empty = replace(unseen, answer=result.answer.model_copy(update={"lesions": ()}))
    assert none in render_report(empty, packed_model, read_words(language))


def test_the_viewer_has_the_labels_of_the_study_and_begins_at_the_surest(page: str, result: StudyResult) -> None:
    data = json.loads(re.search(r'id="viewer-data">(.*?)</script>', page)[1])
    assert result.volumes is not None
    grid_saliency = np.zeros((2, 40, 40, 20), np.float32)
    views = study_views(result.volumes, _grid(result), saliency=grid_saliency, lesions=result.lesions)
    stored = np.frombuffer(zlib.decompress(base64.b64decode(data["labels"])), np.uint8).reshape(data["size"][::-1])
    np.testing.assert_array_equal(stored.T, views.labels)
    assert np.bincount(stored.ravel()).tolist()[1:] == [25] * 4
    assert [int(views.labels[place]) for place in views.peaks] == [1, 2, 3, 4]
    assert data["start"] == views.peaks[0][2]


def _grid(result: StudyResult) -> object:
    from prostate_alm.delivery.card import GridSpec

    b_values = result.answer.b_values_s_per_mm2
    sizes = {"normalised_size": (46, 46, 22), "image_size": (40, 40, 20)}
    return GridSpec(spacing_mm=(2.0, 2.0, 3.0), b_values_s_per_mm2=b_values, **sizes)


def test_a_report_without_candidates_has_neither_list_nor_labels(
    result: StudyResult, packed_model: PackedModel
) -> None:
    answer = result.answer.model_copy(update={"lesions": None, "lesion_point": None, "schema_version": "1.0"})
    page = render_report(StudyResult(answer, result.volumes, result.image), packed_model)
    assert '<section class="lesions"' not in page
    assert 'id="viewer-outlines"' not in page
    assert "C: candidates" not in page


DRIVER = """
(async () => {
  const frame = () => new Promise((done) => setTimeout(done, 30));
  const name = () => document.getElementById("viewer-name")?.textContent;
  while (!name()) await frame();
  const yellow = () => {
    const one = document.querySelector("#viewer-panels canvas");
    const bytes = one.getContext("2d").getImageData(0, 0, one.width, one.height).data;
    let count = 0;
    for (let i = 0; i < bytes.length; i += 4) {
      if (bytes[i] === 240 && bytes[i + 1] === 227 && bytes[i + 2] === 66) count++;
    }
    return count;
  };
  const key = async (which) => { document.getElementById("viewer-panels").dispatchEvent(
    new KeyboardEvent("keydown", { key: which, bubbles: true })); await frame(); };
  const told = { start: [name(), yellow()] };
  await key("c");
  told.hidden = yellow();
  await key("End");
  told.away = name();
  const buttons = [...document.querySelectorAll(".goto")];
  told.shown = [];
  for (const one of buttons) { one.click(); await frame(); told.shown.push([one.textContent, name(), yellow() > 0]); }
  tell(told);
})();
"""


def test_a_click_in_the_list_shows_the_slice_and_its_outline(page: str, tmp_path: Path) -> None:
    if report_pages.BROWSER is None:
        pytest.skip("no Chromium")
    told = report_pages.told(page, DRIVER, tmp_path)
    assert told["start"][0].startswith(f"slice {told['shown'][0][0]} of ")
    assert told["start"][1] > 0
    assert told["hidden"] == 0
    assert told["away"].startswith("slice 1 of ")
    assert [name.split()[1] for _, name, _ in told["shown"]] == [number for number, *_ in told["shown"]]
    assert all(is_outlined for *_, is_outlined in told["shown"])
