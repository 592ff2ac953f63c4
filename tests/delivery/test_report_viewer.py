"""The slices in a report's page: packed as they were measured, named as the archive names them, and shown."""

import base64
import dataclasses
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import report_pages
from numpy.typing import NDArray

from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import StudyResult, predict_folder
from prostate_alm.delivery.prediction import UsedSeries
from prostate_alm.delivery.report.html import folded, render_report
from prostate_alm.delivery.report.panels import shown_images
from prostate_alm.delivery.report.series import in_um2_per_s
from prostate_alm.delivery.report.viewer import STEPS
from prostate_alm.delivery.report.views import Views, study_views
from prostate_alm.delivery.report.words import english

DRIVER = """
(async () => {
  const frame = () => new Promise((done) => setTimeout(done, 30));
  const name = () => document.getElementById("viewer-name")?.textContent; // this script comes before it
  while (!name()) await frame(); // until it was drawn once
  const canvases = [...document.querySelectorAll("#viewer-panels canvas")];
  const told = {};
  const text = (name) => [...document.querySelectorAll(`#viewer-panels ${name}`)].map((one) => one.textContent);
  const send = (kind, make, target, values) => target.dispatchEvent(new make(kind, { bubbles: true, ...values }));
  const key = async (name) => { send("keydown", KeyboardEvent, document.getElementById("viewer-panels"), { key: name });
    await frame(); };
  const point = async (x, y, rest = {}) => {
    const box = canvases[0].getBoundingClientRect();
    send("pointermove", PointerEvent, canvases[0], { clientX: box.left + (x + 0.5) / SIZE_X * box.width,
      clientY: box.top + (y + 0.5) / SIZE_Y * box.height, ...rest });
    await frame();
    return text("output");
  };
  const brightness = () => canvases.map((one) => {
    const bytes = one.getContext("2d").getImageData(0, 0, one.width, one.height).data;
    return bytes.reduce((sum, value) => sum + value, 0) / bytes.length;
  });
  told.start = [name(), text("span"), brightness()];
  await key("o");
  told.plain = brightness();
  await key("End");
  told.first = [name(), await point(20, 30)];
  send("wheel", WheelEvent, canvases[1], { deltaY: -100, cancelable: true });
  await frame();
  told.second = [name(), await point(50, 41)];
  told.before = brightness();
  await point(50, 41, { buttons: 1, movementY: -60, movementX: 0 });
  told.dragged = brightness();
  await key("r");
  told.reset = [name(), brightness()];
  document.getElementById("viewer-zoom").value = 4;
  send("input", Event, document.getElementById("viewer-zoom"), {});
  await frame();
  told.zoomed = brightness();
  told.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  try { await fetch("http://127.0.0.1:9/x"); told.network = "open"; } catch { told.network = "refused"; }
  tell(told);
})();
"""


@pytest.fixture(scope="module")
def result(packed_model: PackedModel, phantom_study: Path) -> StudyResult:
    return predict_folder(phantom_study, packed_model)


@pytest.fixture(scope="module")
def page(result: StudyResult, packed_model: PackedModel) -> str:
    return render_report(result, packed_model)


@pytest.fixture(scope="module")
def views(result: StudyResult, packed_model: PackedModel) -> Views:
    assert result.volumes is not None
    saliency = np.zeros((2, *packed_model.card.grid.image_size))
    return study_views(result.volumes, packed_model.card.grid, saliency=saliency)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page, re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def unpacked(layer: dict[str, Any], size: list[int]) -> NDArray[np.float64]:
    """Return the voxels (X, Y, Z) that a layer stands for, undone step by step."""
    raw = zlib.decompress(base64.b64decode(layer["data"]))
    count = len(raw) // 2
    stored, before = [], 0
    for index in range(count):
        before = 0 if index % size[0] == 0 else before
        before = (before + raw[index] + 256 * raw[count + index]) % 65536
        stored.append(before)
    return layer["low"] + layer["step"] * np.reshape(stored, (size[2], size[1], size[0])).transpose(2, 1, 0)


def test_stored_voxels_are_those_of_the_study_to_half_a_step(page: str, result: StudyResult, views: Views) -> None:
    data, shown = data_of(page), shown_images(views, result.answer, english())  # type: ignore[arg-type]
    assert [one["name"] for one in data["layers"]] == [
        "T2",
        "b 100",
        "b 600",
        "b 1000",
        "ADC, fitted",
        "ADC of the scanner",
    ]
    for layer, (_, voxels, _) in zip(data["layers"], shown, strict=True):
        assert np.abs(unpacked(layer, data["size"]) - voxels).max() <= 0.501 * np.ptp(voxels) / STEPS


def test_each_slice_bears_the_number_and_location_of_its_own_image(
    page: str, views: Views, phantom_study: Path
) -> None:
    """The header of each T2 file says where it lies: the numbers in the page are found by that alone."""
    headers = [
        pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(phantom_study.rglob("*")) if path.is_file()
    ]
    t2 = sorted(
        (one for one in headers if one.SeriesDescription == "t2_tse_tra"), key=lambda one: one.ImagePositionPatient[2]
    )
    expected = [
        f"series {one.SeriesNumber}, image {one.InstanceNumber}, {one.SliceLocation:.1f} mm".replace("-", "−")
        for one in t2
    ]
    part = slice(views.first_slice - 1, views.first_slice - 1 + views.t2.shape[2])
    assert data_of(page)["layers"][0]["images"] == expected[part]
    for text in data_of(page)["layers"][2]["images"]:
        number = int(re.search(r"image (\d+)", text)[1])  # type: ignore[index]
        (header,) = (one for one in headers if one.SeriesNumber == 4 and one.InstanceNumber == number)
        assert "600" in re.findall(r"\b600\b", str(header)), header  # wherever the vendor writes it


def test_a_computed_b_value_is_called_so_wherever_it_stands(
    result: StudyResult, packed_model: PackedModel, phantom_study: Path
) -> None:
    assert result.volumes is not None
    computed = (False, False, True)
    volumes = dataclasses.replace(result.volumes, b_values_computed=computed)
    answer = result.answer.model_copy(update={"b_values_computed": computed})
    page = render_report(StudyResult(answer, volumes, result.image), packed_model)
    layer = data_of(page)["layers"][3]
    assert (layer["name"], layer["images"]) == ("b 1000, computed", [])
    assert layer["source"] == "computed from b 100, 600, 1000"
    assert "b 1000, computed" in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e-6])
def test_the_scanners_own_map_is_shown_in_the_unit_of_the_fitted_one(views: Views, unit: float) -> None:
    """Vendors store µm²/s, 10⁻³ or 1 mm²/s; the phantom's own map holds the true ADC of each place."""
    assert views.scanner_adc is not None
    assert views.adc_um2_per_s is not None
    own, fitted = views.scanner_adc.adc_um2_per_s, views.adc_um2_per_s
    inside = (own > 0) & (fitted > 0)
    assert np.median(own[inside] / fitted[inside]) == pytest.approx(1, abs=0.1)
    scaled = in_um2_per_s(own * np.float32(unit), fitted)
    assert scaled is not None
    np.testing.assert_allclose(scaled, own, rtol=1e-5)
    assert in_um2_per_s(np.where(inside, np.exp(-own / 1000), 0), fitted) is None  # an exponential map is no ADC


def test_a_map_that_cannot_be_read_is_left_out_and_the_report_stays(
    phantom_study: Path, packed_model: PackedModel, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    shutil.copytree(phantom_study, study)
    result = predict_folder(study, packed_model)
    shutil.rmtree(study)
    assert [one["name"] for one in data_of(render_report(result, packed_model))["layers"]][-1] == "ADC, fitted"


def test_the_phases_of_a_dynamic_series_share_a_row() -> None:
    """98 series, 80 of them phases that differ in number and time only: 3 + 1 + 15 rows."""

    def series(number: int, description: str, reason: str = "a gradient echo", *, used: bool = False) -> UsedSeries:
        return UsedSeries(
            series_number=number, description=description, role="other", used=used, b_values_s_per_mm2=(), reason=reason
        )

    first = [series(number, "t2_tse_tra", used=True) for number in range(3)]
    phases = [series(number, f"dyn_vibe_TTC={6.3 * number:.1f}s") for number in range(3, 83)]
    others = [series(number, name) for number, name in zip(range(83, 98), "abcdefghijklmno", strict=True)]
    rows = folded([*first, *phases, *others])
    assert len(rows) == 3 + 1 + 15
    assert (rows[3].numbers, rows[3].count) == ("3–82", 80)
    assert rows[3].description == "dyn_vibe_TTC=18.9s … dyn_vibe_TTC=516.6s"
    assert sum(row.count for row in rows) == 98


def test_a_browser_scrolls_windows_and_zooms_what_was_measured(
    page: str, result: StudyResult, packed_model: PackedModel, views: Views, tmp_path: Path
) -> None:
    if report_pages.BROWSER is None:
        pytest.skip("no Chromium")
    script = DRIVER.replace("SIZE_X", str(views.t2.shape[0])).replace("SIZE_Y", str(views.t2.shape[1]))
    told = report_pages.told(page, script, tmp_path)
    shown = shown_images(views, result.answer, english())  # type: ignore[arg-type]
    start = data_of(page)["start"]
    assert told["start"][0] == f"slice {views.first_slice + start} of {views.slices_in_series}"
    assert told["start"][1][0].startswith("series 3, image ")
    assert told["plain"] != told["start"][2]  # the overlay was on
    for (name, values), number, (x, y) in ((told["first"], 0, (20, 30)), (told["second"], 1, (50, 41))):
        assert name == f"slice {views.first_slice + number} of {views.slices_in_series}"
        for text, (_, voxels, _) in zip(values, shown, strict=True):
            read = float(text.removesuffix("µm²/s"))
            assert read == pytest.approx(float(voxels[x, y, number]), abs=0.51 + float(np.ptp(voxels)) / STEPS)
    assert told["dragged"][0] > told["before"][0] + 5
    assert told["dragged"][1:] == told["before"][1:]
    assert told["zoomed"][0] != told["reset"][1][0]
    assert told["wide"] <= 0
    assert told["network"] == "refused"
