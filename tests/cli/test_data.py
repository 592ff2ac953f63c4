"""The commands about studies and manifests as a user meets them: exit codes, one-line errors, JSON, interruptions."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command_line import PROGRAM, the_error

from prostate_alm.cli import main


def build(*arguments: str, labels: str = "labels.csv") -> int:
    return main(["manifest", "build", "dicom", "--labels", labels, "--output", "c.json", *arguments])


def test_build_lists_the_refused_and_exits_1(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert build("--source", "test", "--licence", "none") == 1
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == "4 studies: c.json"
    assert output.out.splitlines()[1].startswith("refused EMPTY (no_dicom): study must hold DICOM images")
    assert output.err == ""
    assert json.loads(Path("c.json").read_text())["provenance"]["source"] == "test"


def test_build_of_good_studies_exits_0_and_counts_the_unlabelled(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("--json", labels="good.csv") == 0
    assert json.loads(capsys.readouterr().out) == {"manifest": "c.json", "studies": 4, "refused": [], "unlabelled": 1}
    assert build("--overwrite", labels="good.csv") == 0
    assert capsys.readouterr().out == "4 studies: c.json\n1 folders have no label and were left out\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["manifest", "build", "dicom", "--labels", "absent.csv", "--output", "n.json"], "readable CSV file"),
        (["manifest", "build", "absent", "--labels", "labels.csv", "--output", "n.json"], "must be a folder"),
        (["manifest", "build", "dicom", "--labels", "labels.csv", "--output", "labels.csv"], "must end in .json"),
        (["manifest", "check", "absent.json"], "must be a readable file"),
        (["manifest", "check", "labels.csv"], "must be JSON"),
        (["study", "explain", "absent"], "must be an existing folder"),
        (["study", "explain", "labels.csv"], "must be a folder of DICOM files"),
        (["study", "explain", "dicom/EMPTY"], "no_dicom: study must hold DICOM images"),
        (["phantom", "make", "--output", "n", "--studies", "0"], "studies must be >= 1"),
        (["phantom", "make", "--output", "n", "--studies", "1", "--difficulty", "7"], "difficulty"),
        (["phantom", "make", "--output", "dicom"], "must be new, empty or a phantom cohort"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    small: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(small.rglob("*"))
    assert main(arguments) == 2
    assert message in the_error(capsys)
    assert sorted(small.rglob("*")) == before


def test_an_existing_manifest_stays(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.json").write_text("mine")
    assert build() == 2
    assert "output must not exist" in the_error(capsys)
    assert Path("c.json").read_text() == "mine"


def test_check_names_each_fault_and_exits_2(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(labels="good.csv")
    capsys.readouterr()
    assert main(["manifest", "check", "c.json"]) == 0
    assert capsys.readouterr().out == "4 studies, all volumes as the manifest says\n"
    Path("c/PHANTOM-0002/t2.nii.gz").write_bytes(b"")
    assert main(["manifest", "check", "c.json"]) == 2
    assert "t2 of study PHANTOM-0002 must have the manifest's SHA-256" in the_error(capsys)
    Path("c/PHANTOM-0005/dwi.nii.gz").unlink()
    assert main(["manifest", "check", "c.json", "--json"]) == 2
    output = capsys.readouterr()
    assert len(json.loads(output.out)["faults"]) == len(output.err.splitlines()) == 2


def test_explain_prints_the_series_as_text_and_as_json(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "explain", "dicom/PHANTOM-0001"]) == 0
    assert "usable: T2 from series 3" in capsys.readouterr().out
    assert main(["study", "explain", "dicom/PHANTOM-0001", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["t2"]["series_number"] == 3
    assert [one["b_values"] for one in found["dwi"]] == [[100, 600, 1000]]
    assert main(["study", "explain", "dicom/EMPTY", "--json"]) == 2
    output = capsys.readouterr()
    assert json.loads(output.out)["refused"]["code"] == "no_dicom"
    assert len(output.err.splitlines()) == 1


def test_a_phantom_cohort_is_made_as_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["phantom", "make", "--output", str(tmp_path / "p"), "--studies", "1", "--b-values", "50", "800"]
    assert main([*arguments, "--difficulty", "0.2"]) == 0
    assert capsys.readouterr().out == f"1 studies with labels.csv: {tmp_path / 'p'}\n"
    settings = json.loads((tmp_path / "p" / "cohort.json").read_text())
    assert (settings["b_values_s_per_mm2"], settings["difficulty"]) == ([50, 800], 0.2)


@pytest.mark.slow
def test_an_interrupted_build_says_so_and_goes_on_the_next_time(
    dicom_cohort: Path, cohort: Path, tmp_path: Path
) -> None:
    rows = (dicom_cohort / "labels.csv").read_text().splitlines()[:10]  # nine studies are worth two workers
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    names = [row.split(",")[0] for row in rows[1:]]
    for name in names[:5]:  # these need not be converted: it saves time
        shutil.copytree(cohort.with_suffix("") / name, tmp_path / "c" / name)
    arguments = ["manifest", "build", str(dicom_cohort), "--labels", str(tmp_path / "labels.csv")]
    arguments += ["--output", str(tmp_path / "c.json"), "--workers", "2"]
    running = subprocess.Popen([*PROGRAM, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)
    while running.poll() is None and not (tmp_path / "c" / names[5]).exists():
        time.sleep(0.02)
    for _ in range(3):  # the impatient press again
        os.killpg(running.pid, signal.SIGINT)  # it reaches the workers, too
        time.sleep(0.01)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert stderr == "interrupted; what was finished is kept, run the same command to go on\n"
    assert not (tmp_path / "c.json").exists()
    kept = (tmp_path / "c" / names[5] / "study.json").stat().st_mtime_ns
    assert main(arguments) == 0
    assert [one["id"] for one in json.loads((tmp_path / "c.json").read_text())["studies"]] == names
    assert (tmp_path / "c" / names[5] / "study.json").stat().st_mtime_ns == kept
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == names
