"""The demo: from nothing to two answers and their reports, with the model that comes along."""

import json
from pathlib import Path

import pytest

from prostate_alm.cli import main
from prostate_alm.delivery.package.opened import open_package
from prostate_alm.shipped import shipped_bundle

MODEL = shipped_bundle("prostate") / "demo.zip"


def test_the_lesion_is_found_the_other_study_is_negative_and_both_say_what_they_are_worth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("PHANTOM-0001, with a lesion: positive, probability ")
    assert second.startswith("PHANTOM-0002, without a lesion: negative, probability ")
    assert last.endswith("Research use only, not for diagnosis.")
    answers = tmp_path / "demo" / "answers"
    for line in (first, second):
        page = Path(line.rsplit(": ", 1)[1])
        assert page.parent == answers
        assert "trained on synthetic images" in page.read_text()
        assert "equivocal lesion" in page.read_text()  # what positive means
    for path in answers.glob("*.json"):
        assert json.loads(path.read_text())["warnings"][0]["code"] == "synthetic_model"


@pytest.mark.slow
def test_a_second_call_answers_nothing_anew(tmp_path: Path) -> None:
    assert main(["demo", "--output", str(tmp_path)]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "answers").glob("*.json")}
    assert main(["demo", "--output", str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "answers").glob("*.json")} == before


def test_the_model_that_comes_along_is_small_and_marked_as_synthetic() -> None:
    assert MODEL.stat().st_size < 500_000
    model = open_package(MODEL)
    assert model.card.data_is_synthetic
    assert (model.card.name, model.identity.members) == ("demo", 3)
    assert model.card.label_definition.startswith("1 = ")  # what the report says that positive means
