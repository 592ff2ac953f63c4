"""From the command line: a study becomes an answer, a bad one a refusal, and nothing else happens."""

import csv
import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import torch
from pandas import read_csv
from pydicom.dataset import Dataset

from prostate_alm.cli import main
from prostate_alm.delivery.answers import SCHEMA_FILE, answer_schema, answer_to_json, write_sheet
from prostate_alm.delivery.archive import Job, answer_archive
from prostate_alm.delivery.predict import network_input, predict_folder
from prostate_alm.delivery.prediction import NOTICE, Prediction, Refused
from prostate_alm.imaging.volume import load_study
from prostate_alm.parallel import map_with_ray

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
IDENTIFIERS = re.compile(r"phantom|2\.25\.|1\.2\.826", re.IGNORECASE)


@pytest.fixture(scope="module")
def images(phantom_study: Path) -> dict[str, list[Path]]:
    """Return the files of a study that matter, by what they are: T2, diffusion, ADC map, localizer."""
    folders = {path.name: sorted(path.iterdir()) for path in sorted(phantom_study.iterdir())}
    by_role: dict[str, list[Path]] = {}
    for files in folders.values():
        header = pydicom.dcmread(files[0], stop_before_pixels=True)
        words = f"{header.SeriesDescription} {header.ImageType}".lower()
        axial = abs(header.ImageOrientationPatient[0]) > 0.9 and abs(header.ImageOrientationPatient[4]) > 0.9
        roles = (("adc", "adc" in words), ("localizer", "localizer" in words), ("computed", "calc" in words))
        role = next((name for name, is_it in roles if is_it), "diffusion" if "diff" in words else "t2")
        if role != "t2" or axial:
            by_role.setdefault(role, []).extend(files)
    return by_role


Edit = Callable[[Dataset], None]


def _set(**elements: object) -> Edit:
    def edit(image: Dataset) -> None:
        for keyword, value in elements.items():
            setattr(image, keyword, value)

    return edit


TRAPS: dict[str, tuple[str, ...] | tuple[str, tuple[str, ...], str, Edit]] = {
    # what is sent, what of it is altered, and how
    "no_t2": ("diffusion",),
    "no_t2: localizers only": ("localizer",),
    "no_diffusion": ("t2",),
    "no_diffusion: ADC only": ("t2", "adc"),
    "no_diffusion: mosaics only": ("t2", "diffusion", _set(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])),
    "no_diffusion: directions only": (
        "t2", "diffusion",
        _set(DiffusionDirectionality="DIRECTIONAL", ImageType=["ORIGINAL", "PRIMARY", "DIFFUSION"]),
    ),
    "other_body_part: brain": ("diffusion", "t2", _set(BodyPartExamined="BRAIN")),
    "other_body_part: knee": ("diffusion", "t2", _set(BodyPartExamined="KNEE")),
    "not_mr": ("t2", _set(Modality="CT")),
    "several_frames_of_reference": ("diffusion", "t2", _set(FrameOfReferenceUID="2.25.1")),
    "several_patients": ("t2", "diffusion", _set(PatientID="another")),
    "several_studies": ("t2", "diffusion", _set(StudyInstanceUID="2.25.1")),
}  # fmt: skip


def _send(images: dict[str, list[Path]], trap: tuple[object, ...], folder: Path) -> Path:
    """Write the series of a trap; the last one is altered where there is an edit."""
    *roles, edit = trap if callable(trap[-1]) else (*trap, None)
    folder.mkdir()
    for role in roles:
        for number, path in enumerate(images[str(role)]):
            target = folder / f"{role}-{number}"
            if edit is None or role != roles[-1]:
                target.symlink_to(path)
                continue
            image = pydicom.dcmread(path)
            edit(image)
            image.save_as(target)
    return folder


@pytest.mark.parametrize("case", TRAPS)
def test_each_trap_is_refused_with_its_code(images, packed_model, tmp_path, case):
    result = predict_folder(_send(images, TRAPS[case], tmp_path / "study"), packed_model)
    assert isinstance(result.answer, Refused)
    assert result.answer.code == case.split(":")[0]
    assert result.volumes is None and result.image is None  # noqa: PT018
    assert not any(one.used for one in result.answer.series)
    assert not IDENTIFIERS.search(answer_to_json(result.answer))


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # of this process, which makes them
def test_words_typed_at_the_scanner_are_in_a_refusal_only_where_asked_for(images, packed_model, tmp_path):
    typed = _set(Modality="DOE^JANE", SeriesDescription="Jane Doe")
    folder = _send(images, ("t2", typed), tmp_path / "study")
    refused = predict_folder(folder, packed_model).answer
    assert (refused.code, refused.series[0].description) == ("not_mr", "")
    assert "doe" not in answer_to_json(refused).lower()
    assert "got no term of DICOM." in refused.reason
    assert predict_folder(folder, packed_model, identify=True).answer.series[0].description == "Jane Doe"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # of this process, which makes them
def test_invalid_uids_do_not_reach_the_terminal(images, packed_file, tmp_path):
    def edit(image: Dataset) -> None:
        image["StudyInstanceUID"]._value = "1.2.03.SECRET"

    folder = _send(images, ("t2", "diffusion", edit), tmp_path / "study")
    for path in folder.iterdir():  # all of one study
        image = pydicom.dcmread(path)
        edit(image)
        path.unlink()
        image.save_as(path)
    command = ["predict", str(folder), "--model", str(packed_file), "--output", str(tmp_path / "out"), "--sr"]
    done = subprocess.run([sys.executable, "-m", "prostate_alm.cli", *command], capture_output=True, text=True)
    assert done.returncode == 0
    assert "SECRET" not in done.stdout + done.stderr


def test_one_b_value_a_gap_and_a_cut_file_are_refused(images, packed_model, tmp_path):
    folder = _send(images, ("t2", "diffusion"), tmp_path / "study")
    assert predict_folder(folder, packed_model).answer.status == "answered"
    (folder / "t2-9").unlink()
    assert predict_folder(folder, packed_model).answer.code == "missing_slice"
    (folder / "t2-9").write_bytes(images["t2"][9].read_bytes()[:-100])
    assert predict_folder(folder, packed_model).answer.code == "truncated"
    shutil.rmtree(folder)
    _send({"t2": images["t2"], "diffusion": images["diffusion"][:20]}, ("t2", "diffusion"), folder)
    assert predict_folder(folder, packed_model).answer.code == "one_b_value"


def test_pixels_that_are_no_numbers_and_faults_of_the_program_are_refusals(images, packed_model, tmp_path, monkeypatch):
    folder = _send(images, ("diffusion", "t2", _set(RescaleSlope="1e39", RescaleIntercept=0)), tmp_path / "study")
    assert predict_folder(folder, packed_model).answer.code == "no_finite_signal"

    def fault(*_: object, **__: object) -> None:
        raise RuntimeError(f"in {folder}")

    monkeypatch.setattr("prostate_alm.delivery.predict.explain_study", fault)
    answer = predict_folder(folder, packed_model).answer
    assert answer.code == "unexpected_error"
    assert str(folder) not in answer_to_json(answer)


def test_the_logit_is_the_mean_of_the_members_and_the_decision_is_the_thresholds(phantom_study, packed_model):
    result = predict_folder(phantom_study, packed_model)
    answer = result.answer
    assert isinstance(answer, Prediction)
    image = network_input(load_study(phantom_study), packed_model.card.grid)
    torch.testing.assert_close(result.image, image, rtol=0, atol=0)
    with torch.inference_mode():
        expected = packed_model.network(image[None])
    assert answer.logit == pytest.approx(float(expected), abs=1e-6)
    assert answer.logit_std == pytest.approx(np.std(answer.member_logits, ddof=1))
    calibration = packed_model.card.calibration
    odds = np.exp(calibration.slope * answer.logit + calibration.intercept)
    assert answer.probability == pytest.approx(odds / (1 + odds))
    for point in packed_model.card.operating_points:
        chosen = predict_folder(phantom_study, packed_model, target_tpr=point.target_tpr).answer
        assert chosen.decision == ("positive" if chosen.logit >= point.threshold else "negative")
    uid = pydicom.dcmread(next(phantom_study.rglob("*.dcm"))).StudyInstanceUID
    assert answer.study == hashlib.sha256(uid.encode()).hexdigest()[:16]
    assert [one.series_number for one in answer.series if one.used] == sorted(
        one.number for one in result.volumes.selection.used
    )


def test_an_operating_point_that_was_not_packed_is_the_callers_fault(phantom_study, packed_model):
    with pytest.raises(ValueError, match="target_tpr must be one that the model was packed with"):
        predict_folder(phantom_study, packed_model, target_tpr=0.123)


def test_names_and_order_of_files_change_no_byte(phantom_study, packed_model, tmp_path):
    files = sorted(path for path in phantom_study.rglob("*") if path.is_file())
    random.Random(0).shuffle(files)
    (tmp_path / "study").mkdir()
    for number, path in enumerate(files):
        shutil.copy(path, tmp_path / "study" / f"{number:05d}")
    expected = answer_to_json(predict_folder(phantom_study, packed_model).answer)
    assert answer_to_json(predict_folder(tmp_path / "study", packed_model).answer) == expected


def _predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def archive(phantom_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of studies: one that is whole, as a folder and zipped with one T2 file less, and an empty one."""
    folder = tmp_path_factory.mktemp("archive") / "Secret^Name"
    (folder / "whole").mkdir(parents=True)
    for series in phantom_study.iterdir():
        (folder / "whole" / series.name).mkdir()
        for path in series.iterdir():
            (folder / "whole" / series.name / path.name).symlink_to(path)
    (folder / "empty").mkdir()
    with zipfile.ZipFile(folder / "text.zip", "w") as packed:
        packed.writestr("readme.txt", "nothing")
    return folder


def test_studies_become_files_that_are_kept(archive, packed_file, tmp_path, capsys):
    output = tmp_path / "out"
    code, out, err = _predict(capsys, archive, "--model", packed_file, "--output", output)
    assert code == 1
    assert err == ""
    assert out.splitlines()[-1] == NOTICE
    assert "1 studies answered, 2 refused" in out
    names = sorted(path.name for path in output.iterdir())
    assert len(names) == 5  # three answers and the table, twice
    schema = json.loads(SCHEMA_FILE.read_text())
    for path in output.glob("*.json"):
        text = path.read_text()
        jsonschema.validate(json.loads(text), schema)
        assert not IDENTIFIERS.search(text)
        assert NOTICE in text
    table = pq.read_table(output / "answers.parquet").to_pylist()
    assert [row["file"] for row in table] == [name for name in names if name.endswith(".json")]
    assert sorted(str(row["code"]) for row in table) == ["None", "no_dicom", "no_dicom"]
    assert "Secret" not in out + str(table)
    sheet = read_csv(output / "answers.csv", keep_default_na=False).to_dict("records")
    assert [row["file"] for row in sheet] == [row["file"] for row in table]
    for one, other in zip(sheet, table, strict=True):
        assert (one["code"] or None, one["reason"] or None) == (other["code"], other["reason"])
        assert one["probability"] == ("" if other["probability"] is None else repr(other["probability"]))
        assert one["warnings"].split() == (other["warnings"] or [])

    before = {path.name: path.stat().st_mtime_ns for path in output.glob("*.json")}
    code, out, _ = _predict(capsys, archive, "--model", packed_file, "--output", output, "--json")
    assert code == 1
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.json")} == before
    assert sorted(one["status"] for one in json.loads(out)) == ["answered", "refused", "refused"]


def test_other_answers_are_not_replaced_unless_asked(phantom_study, packed_file, tmp_path, capsys):
    output, study = tmp_path / "out", tmp_path / "study"
    shutil.copytree(phantom_study, study)
    ask = (study, "--model", packed_file, "--output", output)
    assert _predict(capsys, *ask)[0] == 0
    (path,) = output.glob("*.json")
    first = path.read_bytes()
    code, out, err = _predict(capsys, *ask, "--target-tpr", "0.9")
    assert (code, out) == (2, "")
    assert "output must hold answers of the same model and options only, got 1 others" in err
    (study / "note.txt").write_text("new")
    code, out, err = _predict(capsys, *ask)
    assert code == 1
    assert "the study was answered before with other files" in err
    assert path.read_bytes() == first
    assert _predict(capsys, *ask, "--overwrite", "--target-tpr", "0.9")[0] == 0
    assert json.loads(path.read_bytes())["operating_point"]["target_tpr"] == 0.9


def test_identifiers_appear_only_on_request(phantom_study, packed_file, tmp_path, capsys):
    code, out, _ = _predict(capsys, phantom_study, "--model", packed_file, "--output", tmp_path / "out", "--identify")
    assert code == 0
    assert str(phantom_study) in out
    (path,) = (tmp_path / "out").glob("*.json")
    identity = json.loads(path.read_bytes())["identity"]
    header = pydicom.dcmread(next(phantom_study.rglob("*.dcm")))
    assert identity["patient_id"] == header.PatientID
    assert identity["study_instance_uid"] == header.StudyInstanceUID
    (row,) = read_csv(tmp_path / "out" / "answers.csv", dtype=str).to_dict("records")
    assert {name: row[name] for name in identity if identity[name]} == {k: v for k, v in identity.items() if v}


def test_no_cell_of_the_table_for_people_is_a_formula(phantom_study, packed_model, tmp_path):
    answer = predict_folder(phantom_study, packed_model, identify=True).answer
    hostile = ["=1+cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1"]
    identities = [answer.identity.model_copy(update={"patient_id": text}) for text in hostile]
    sheet = write_sheet(tmp_path, [answer.model_copy(update={"identity": one}) for one in identities])
    cells = [cell for row in csv.reader(io.StringIO(sheet.read_text(), newline="")) for cell in row]
    assert {f"'{text}" for text in hostile} <= set(cells)
    numbers = [cell for cell in cells if cell.startswith(tuple("=+-@"))]
    assert all(float(cell) < 0 for cell in numbers)


def test_wrong_use_ends_with_one_line_and_code_2(phantom_study, packed_file, tmp_path, capsys):
    tampered = bytearray(packed_file.read_bytes())
    tampered[len(tampered) // 2] ^= 1
    (tmp_path / "tampered.zip").write_bytes(tampered)
    output = ("--output", tmp_path / "out")
    cases = (
        (tmp_path / "nowhere", "--model", packed_file, *output),
        (phantom_study, "--model", tmp_path / "tampered.zip", *output),
        (phantom_study, "--model", tmp_path / "absent.zip", *output),
        (phantom_study, "--model", packed_file, *output, "--target-tpr", "0.5"),
        (phantom_study, "--model", packed_file, *output, "--jobs", "0"),
    )
    for arguments in cases:
        code, out, err = _predict(capsys, *arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ") and err.count("\n") == 1  # noqa: PT018
    assert not (tmp_path / "out").exists()


def test_an_interruption_leaves_whole_files_and_the_table(archive, packed_file, packed_model, tmp_path):
    job = Job(packed_file, packed_model.identity.sha256, packed_model.card.default_target_tpr, identify=False)
    sources = (archive / "whole", archive / "empty", archive / "text.zip")
    outcomes = answer_archive(sources, tmp_path / "out", job=job)
    next(outcomes)
    outcomes.close()
    assert len(list((tmp_path / "out").iterdir())) == 3  # its answer and the table, twice
    assert pq.read_table(tmp_path / "out" / "answers.parquet").num_rows == 1


def test_a_zip_that_breaks_off_is_refused_and_not_opened_again(packed_file, packed_model, tmp_path):
    job = Job(packed_file, packed_model.identity.sha256, packed_model.card.default_target_tpr, identify=False)
    source, output = tmp_path / "Secret^Name.zip", tmp_path / "out"
    with zipfile.ZipFile(source, "w") as packed:
        packed.writestr("image.dcm", bytes(1000))
    source.write_bytes(source.read_bytes()[:-40])
    (first,) = answer_archive((source,), output, job=job)
    assert (first.answer.code, first.kept) == ("damaged_archive", False)
    assert "Secret" not in answer_to_json(first.answer)
    (again,) = answer_archive((source,), output, job=job)
    assert (again.answer, again.kept) == (first.answer, True)
    named = replace(job, identify=True)
    (third,) = answer_archive((source,), tmp_path / "named", job=named)
    assert third.answer.identity.path == str(source)


def test_a_study_that_is_given_twice_with_different_files_is_answered_once(
    phantom_study, packed_file, packed_model, tmp_path
):
    job = Job(packed_file, packed_model.identity.sha256, packed_model.card.default_target_tpr, identify=False)
    other = tmp_path / "other"
    shutil.copytree(phantom_study, other)
    (other / "note.txt").write_text("new")
    first, second = answer_archive((phantom_study, other), tmp_path / "out", job=job)
    assert first.conflict is None
    assert second.conflict == "this study was given twice, with different files. Give one of them."
    assert answer_to_json(first.answer) == first.path.read_text()


def test_a_job_is_checked_before_anything_is_written(packed_file, packed_model, tmp_path):
    job = Job(packed_file, packed_model.identity.sha256, packed_model.card.default_target_tpr, identify=False)
    with pytest.raises(ValueError, match=r"executor must be one of \['local', 'ray'\], got 'cloud'"):
        next(answer_archive((), tmp_path / "out", job=job, executor="cloud"))
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        next(answer_archive((), tmp_path / "out", job=job, jobs=0))
    assert not (tmp_path / "out").exists()
    swapped = replace(job, model_sha256="0" * 64)
    with pytest.raises(ValueError, match="model must stay the same while studies are answered, got another file"):
        next(answer_archive((tmp_path,), tmp_path / "out", job=swapped))


def _sources(folder: Path) -> Iterator[Path]:
    for number in range(8):
        path = folder / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("readme.txt", str(number))
        yield path


@pytest.mark.slow
def test_processes_give_the_answers_of_one_process(packed_file, packed_model, tmp_path):
    job = Job(packed_file, packed_model.identity.sha256, packed_model.card.default_target_tpr, identify=False)
    sources = tuple(_sources(tmp_path))
    alone = [one.answer for one in answer_archive(sources, tmp_path / "alone", job=job)]
    assert [one.answer for one in answer_archive(sources, tmp_path / "several", job=job, jobs=2)] == alone


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_ray_cluster_keeps_the_order_and_the_folder(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    assert list(map_with_ray(os.path.abspath, ["c", "a", "b"], jobs=2)) == [str(tmp_path / name) for name in "cab"]


def test_the_published_schema_is_that_of_the_code():
    assert json.loads(SCHEMA_FILE.read_text()) == answer_schema(), "run python -m prostate_alm.delivery.answers"
    jsonschema.Draft202012Validator.check_schema(answer_schema())


def test_the_real_study_is_answered(packed_model):
    study = SHARED / "data" / "prostatex" / "ProstateX-0001"
    if not study.is_dir():
        pytest.skip("the real PROSTATEx study is not beside this checkout")
    answer = predict_folder(study, packed_model).answer
    assert answer.status == "answered"
    assert answer.b_values_acquired_s_per_mm2 == (50.0, 400.0, 800.0)
    assert answer.b_values_computed == (True, True, True)
    codes = {warning.code for warning in answer.warnings}
    assert {"b_values_computed", "b_values_not_in_training"} <= codes
    assert not codes & {"noise_suspected", "motion_suspected", "prostate_outside_diffusion", "t2_smaller_than_crop"}
    assert "ProstateX" not in answer_to_json(answer)
