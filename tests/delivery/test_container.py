"""The container's own command by each of its contracts, on files: mercure, grand-challenge, /in and /out.

What mercure and grand-challenge put into folders is written here as their own code does: names, task.json, inputs.json.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pydicom
import pytest

from prostate_alm.cli import main
from prostate_alm.delivery.answers import answer_from_json
from prostate_alm.delivery.prediction import Prediction
from prostate_alm.shipped import shipped_bundle

DOCKERFILE = Path(__file__).parents[2] / "docker" / "Dockerfile"
MODEL = shipped_bundle("prostate") / "demo.zip"
PATIENT = "SECRET^NAME"
VARIABLES = ("MERCURE_IN_DIR", "MERCURE_OUT_DIR", "PROSTATE_ALM_MODEL", "PROSTATE_ALM_SETTINGS", "PROSTATE_ALM_TRUST")


def command_of_the_image() -> list[str]:
    """Return what the image runs where `docker run` names no command: CMD of its first ENTRYPOINT."""
    entry, command = re.findall(r"^(?:ENTRYPOINT|CMD) (\[.+\])$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)[:2]
    assert json.loads(entry) == ["prostate-alm"]
    return list(json.loads(command))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def run(root: Path) -> int:
    return main([*command_of_the_image(), "--root", str(root)])


def made(root: Path, *folders: str) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    return root


def with_model(root: Path, folder: str = "model") -> Path:
    made(root, folder)
    shutil.copy(MODEL, root / folder / "prostate.zip")
    return root


def as_mercure(study: Path, folder: Path, settings: dict[str, Any]) -> Path:
    """Write a study as mercure hands it to a module: series#object.dcm, a .tags file each, the task."""
    made(folder, "in", "out")
    for image in sorted(study.rglob("*.dcm")):
        header = pydicom.dcmread(image, stop_before_pixels=True)
        name = f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}"
        shutil.copy(image, folder / "in" / f"{name}.dcm")
        (folder / "in" / f"{name}.tags").write_text(json.dumps({"PatientName": PATIENT}))
    task = {
        "id": "5e6c",
        "info": {"action": "process", "uid_type": "study", "mrn": PATIENT, "acc": "A1"},
        "process": {"module_name": "prostate-alm", "settings": settings, "retain_input_images": False},
    }
    (folder / "in" / "task.json").write_text(json.dumps(task))
    return folder


def as_grand_challenge(study: Path, root: Path) -> Path:
    """Write a study as grand-challenge does: a folder of <object>.dcm for each socket, and inputs.json."""
    made(root, "output")
    sockets = []
    for series in sorted(path for path in study.iterdir() if path.is_dir()):
        target = made(root, f"input/images/{series.name}") / "input/images" / series.name
        for image in series.glob("*.dcm"):
            shutil.copy(image, target / f"{pydicom.dcmread(image, stop_before_pixels=True).SOPInstanceUID}.dcm")
        sockets.append({"socket": {"relative_path": f"images/{series.name}", "is_dicom_image_kind": True}})
    (root / "input" / "inputs.json").write_text(json.dumps(sockets))
    return with_model(root, "opt/ml/model")


def mercure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("MERCURE_IN_DIR", str(folder / "in"))
    monkeypatch.setenv("MERCURE_OUT_DIR", str(folder / "out"))
    monkeypatch.setenv("PROSTATE_ALM_MODEL", str(MODEL))
    return main(command_of_the_image())


@pytest.fixture(scope="module")
def predicted(phantom_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the JSON that `predict` writes of the study."""
    folder = tmp_path_factory.mktemp("predicted")
    assert main(["predict", str(phantom_study), "--model", str(MODEL), "--output", str(folder)]) == 0
    (answer,) = folder.glob("*.json")
    return answer


@pytest.fixture
def small_study(phantom_study: Path, tmp_path: Path) -> Path:
    """Return a study of one series, which mercure gives to a rule of series; it is refused at once."""
    series = next(path for path in sorted(phantom_study.iterdir()) if path.is_dir())
    shutil.copytree(series, tmp_path / "small" / series.name)
    return tmp_path / "small"


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    output = capsys.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    assert PATIENT not in line
    return line


def test_a_module_of_mercure_returns_the_answer_its_result_and_dicom_of_the_study(
    phantom_study: Path,
    predicted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert mercure(as_mercure(phantom_study, tmp_path, {}), monkeypatch) == 0
    out = tmp_path / "out"
    assert (out / predicted.name).read_bytes() == predicted.read_bytes()
    assert PATIENT not in capsys.readouterr().out

    answer = answer_from_json(predicted.read_bytes())
    assert isinstance(answer, Prediction)
    result = json.loads((out / "result.json").read_text())
    assert (result["status"], result["decision"]) == ("answered", answer.decision)
    assert (result["probability"], result["study"]) == (answer.probability, answer.study)
    assert result["warnings"][0] == "synthetic_model"
    notification = result["__mercure_notification"]
    assert notification["requested"] is (answer.decision == "positive")
    assert f"probability {answer.probability:.3f}" in notification["text"]
    assert notification["text"].endswith("Research use only, not for diagnosis.")

    image = pydicom.dcmread(next(phantom_study.rglob("*.dcm")), stop_before_pixels=True)
    sent = [pydicom.dcmread(path) for path in sorted(out.glob("*.dcm"))]  # what mercure's dispatcher sends
    assert [one.Modality for one in sent] == ["OT", "SR"]
    assert {one.StudyInstanceUID for one in sent} == {image.StudyInstanceUID}
    for text in ("result.json", predicted.name, "answers.csv"):
        assert not any(str(image[name].value) in (out / text).read_text() for name in ("PatientID", "StudyInstanceUID"))


def test_an_algorithm_of_grand_challenge_writes_the_answer_as_its_result(
    phantom_study: Path, predicted: Path, tmp_path: Path
) -> None:
    assert run(as_grand_challenge(phantom_study, tmp_path)) == 0
    assert (tmp_path / "output" / "results.json").read_bytes() == predicted.read_bytes()
    assert list((tmp_path / "output").glob("*.dcm")) == []


def test_folders_are_answered_as_predict_does_with_the_files_that_the_settings_ask_for(
    phantom_study: Path, predicted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROSTATE_ALM_SETTINGS", '{"beside": ["sr"]}')
    with_model(made(tmp_path, "in", "out"))
    shutil.copytree(phantom_study, tmp_path / "in" / "one")
    assert run(tmp_path) == 0
    assert (tmp_path / "out" / predicted.name).read_bytes() == predicted.read_bytes()
    names = {"answers.csv", "answers.parquet", predicted.name, f"{predicted.stem}.sr.dcm"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.slow
def test_language_and_label_of_the_settings_are_those_of_the_report(
    phantom_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"beside": ["report"], "language": "de", "label": "A-17", "target_tpr": 1.0}
    assert mercure(as_mercure(phantom_study, tmp_path, settings), monkeypatch) == 0
    page = next((tmp_path / "out").glob("*.html")).read_text(encoding="utf-8")
    assert 'lang="de"' in page
    assert "A-17" in page
    assert json.loads((tmp_path / "out" / "result.json").read_text())["target_tpr"] == 1.0


def test_a_refused_study_is_a_result_for_platforms_and_exit_code_1_for_people(
    small_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = with_model(made(tmp_path / "plain", "in", "out"))
    shutil.copytree(small_study, root / "in", dirs_exist_ok=True)
    assert run(root) == 1

    root = as_grand_challenge(small_study, tmp_path / "challenge")
    assert run(root) == 0
    code = json.loads((root / "output" / "results.json").read_text())["code"]

    assert mercure(as_mercure(small_study, tmp_path / "mercure", {"beside": []}), monkeypatch) == 0
    result = json.loads((tmp_path / "mercure" / "out" / "result.json").read_text())
    assert (result["status"], result["code"]) == ("refused", code)
    assert result["__mercure_notification"]["requested"] is True
    assert f"refused ({code})" in result["__mercure_notification"]["text"]
    assert list((tmp_path / "mercure" / "out").glob("*.dcm")) == []


def test_a_fault_of_the_program_is_no_result_for_a_platform(
    small_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("prostate_alm.delivery.predict.explain_study", fault)
    assert mercure(as_mercure(small_study, tmp_path, {"beside": []}), monkeypatch) == 1
    assert "unexpected_error" in (tmp_path / "out" / "answers.csv").read_text()
    assert not (tmp_path / "out" / "result.json").exists()


def test_no_image_at_all_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mercure(as_mercure(tmp_path / "nothing", tmp_path, {}), monkeypatch) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["code"] == "no_dicom"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (None, "input must hold task.json"),
        (f"{PATIENT}", "settings must be JSON"),
        (f'"{PATIENT}"', "must hold an object process.settings"),
        (f'{{"process": [{{"settings": "{PATIENT}"}}]}}', "must hold an object process.settings"),
        (f'{{"process": {{"settings": ["{PATIENT}"]}}}}', "must hold an object process.settings"),
        ('{"process": {"settings": {"tpr": 0.95}}}', "got tpr (Extra inputs are not permitted)"),
        ('{"process": {"settings": {"target_tpr": "high"}}}', "got target_tpr (Input should be a valid number)"),
        ('{"process": {"settings": {"beside": ["pdf"]}}}', "got beside.0 (Input should be 'sr'"),
        ('{"process": {"settings": {"target_tpr": 0.123}}}', "0.123"),
        ('{"process": {"settings": {"language": "xx"}}}', "xx"),
    ],
)
def test_settings_that_are_none_are_one_line_and_exit_code_2(
    task: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, "in", "out")
    if task is not None:
        (tmp_path / "in" / "task.json").write_text(task)
    assert mercure(tmp_path, monkeypatch) == 2
    assert message in the_error(capsys)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_task_without_settings_has_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "in", "out")
    (tmp_path / "in" / "task.json").write_text('{"process": {"module_name": "prostate-alm", "settings": null}}')
    assert mercure(tmp_path, monkeypatch) == 0


def test_converted_images_of_grand_challenge_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_model(made(tmp_path, "output", "input/images/transverse-t2-prostate-mri"), "opt/ml/model")
    (tmp_path / "input/images/transverse-t2-prostate-mri/8b12.mha").write_bytes(b"ObjectType = Image\n")
    assert run(tmp_path) == 2
    assert "images must be DICOM, got .mha" in the_error(capsys)
    assert list((tmp_path / "output").iterdir()) == []


@pytest.mark.parametrize(
    ("folders", "variables", "message"),
    [
        ((), {}, "got none"),
        (("in", "input", "out", "output"), {}, "got both"),
        (("in",), {}, "output must be an existing folder"),
        (("in", "out"), {}, "prostate.zip"),
        (("in", "out"), {"MERCURE_IN_DIR": "in"}, "must both be set, got one"),
        (("in", "out"), {"MERCURE_IN_DIR": "in", "MERCURE_OUT_DIR": "nowhere"}, "output must be an existing folder"),
        (("in", "out"), {"PROSTATE_ALM_SETTINGS": "tpr=1"}, "settings must be JSON"),
        (("in", "out"), {"PROSTATE_ALM_SETTINGS": "[1]"}, "settings must be of"),
    ],
)
def test_missing_folders_variables_and_models_are_one_line_and_exit_code_2(
    folders: tuple[str, ...],
    variables: dict[str, str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(made(tmp_path, *folders))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run(tmp_path) == 2
    assert message in the_error(capsys)
