"""The command that answers studies: what it replaces, whom it names, and what is wrong use."""

import json
import shutil

import pydicom
from command_line import predict
from pandas import read_csv


def test_other_answers_are_not_replaced_unless_asked(phantom_study, packed_file, tmp_path, capsys):
    output, study = tmp_path / "out", tmp_path / "study"
    shutil.copytree(phantom_study, study)
    ask = (study, "--model", packed_file, "--output", output)
    assert predict(capsys, *ask)[0] == 0
    (path,) = output.glob("*.json")
    first = path.read_bytes()
    code, out, err = predict(capsys, *ask, "--target-tpr", "0.9")
    assert (code, out) == (2, "")
    assert "output must hold answers of the same model and options only, got 1 others" in err
    (study / "note.txt").write_text("new")
    code, out, err = predict(capsys, *ask)
    assert code == 1
    assert "the study was answered before with other files" in err
    assert path.read_bytes() == first
    assert predict(capsys, *ask, "--overwrite", "--target-tpr", "0.9")[0] == 0
    assert json.loads(path.read_bytes())["operating_point"]["target_tpr"] == 0.9


def test_identifiers_appear_only_on_request(phantom_study, packed_file, tmp_path, capsys):
    code, out, _ = predict(capsys, phantom_study, "--model", packed_file, "--output", tmp_path / "out", "--identify")
    assert code == 0
    assert str(phantom_study) in out
    (path,) = (tmp_path / "out").glob("*.json")
    identity = json.loads(path.read_bytes())["identity"]
    header = pydicom.dcmread(next(phantom_study.rglob("*.dcm")))
    assert identity["patient_id"] == header.PatientID
    assert identity["study_instance_uid"] == header.StudyInstanceUID
    (row,) = read_csv(tmp_path / "out" / "answers.csv", dtype=str).to_dict("records")
    assert {name: row[name] for name in identity if identity[name]} == {k: v for k, v in identity.items() if v}


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
        code, out, err = predict(capsys, *arguments)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ") and err.count("\n") == 1  # noqa: PT018
    assert not (tmp_path / "out").exists()
