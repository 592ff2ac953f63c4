"""Many studies: answers become files that are kept, interruptions leave whole ones, several processes answer as one."""

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
from command_line import predict
from pandas import read_csv

from prostate_alm.delivery.answers import SCHEMA_FILE, answer_to_json
from prostate_alm.delivery.archive import Job, answer_archive
from prostate_alm.delivery.prediction import NOTICE

IDENTIFIERS = re.compile(r"phantom|2\.25\.|1\.2\.826", re.IGNORECASE)


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
    code, out, err = predict(capsys, archive, "--model", packed_file, "--output", output)
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
    code, out, _ = predict(capsys, archive, "--model", packed_file, "--output", output, "--json")
    assert code == 1
    assert {path.name: path.stat().st_mtime_ns for path in output.glob("*.json")} == before
    assert sorted(one["status"] for one in json.loads(out)) == ["answered", "refused", "refused"]


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
