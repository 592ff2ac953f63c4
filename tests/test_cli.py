"""The command line as a user meets it: exit codes, one-line errors, JSON, interruptions."""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prostate_alm import __version__
from prostate_alm.cli import command_line, main
from prostate_alm.cli.parser import Parser

COMMANDS = (
    [],
    ["phantom"],
    ["phantom", "make"],
    ["study"],
    ["study", "explain"],
    ["manifest"],
    ["manifest", "build"],
    ["manifest", "check"],
    ["bundle", "path"],
    ["doctor"],
)
PROGRAM = [sys.executable, "-m", "prostate_alm.cli"]


@pytest.fixture
def small(dicom_cohort: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with five studies in `dicom`, a bad one among them, `labels.csv`, and the converted good ones."""
    monkeypatch.chdir(tmp_path)
    rows = {"PHANTOM-0001": 0, "PHANTOM-0002": 1, "PHANTOM-0003": 0, "PHANTOM-0005": 1}
    for name in rows:
        Path("dicom").mkdir(exist_ok=True)
        Path("dicom", name).symlink_to(dicom_cohort / name)
        shutil.copytree(cohort.with_suffix("") / name, Path("c", name))
    Path("dicom", "EMPTY").mkdir()
    table = "".join(f"{name},{label}\n" for name, label in rows.items())
    Path("good.csv").write_text("id,label\n" + table)
    Path("labels.csv").write_text("id,label\n" + table + "EMPTY,1\n")
    return tmp_path


def build(*arguments: str, labels: str = "labels.csv") -> int:
    return main(["manifest", "build", "dicom", "--labels", labels, "--output", "c.json", *arguments])


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line on stderr, an error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    output = capsys.readouterr()
    assert output.out.startswith("usage: " + " ".join(["prostate-alm", *command]))
    assert output.err == ""


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"prostate-alm {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["manifest"], "required: COMMAND"),
        (["manifest", "bild"], "invalid choice: 'bild'"),
        (["manifest", "bild"], "Did you mean build?"),
        (["predcit"], "Did you mean predict?"),
        (["manifest", "build", "x"], "required: --labels, --output"),
        (["manifest", "build", "x", "--labels", "l", "--output", "o.json", "--overwrit"], "unrecognized arguments"),
        (
            ["manifest", "build", "x", "--labels", "l", "--output", "o.json", "--overwrit"],
            "mean --overwrite? See: prost",
        ),
        (["predict", "-v", "-q", "x"], "not allowed with argument -v/--verbose"),
        (["phantom", "make", "--output", "x", "--studies", "many"], "invalid int value: 'many'"),
    ],
)
def test_a_misspelt_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    line = the_error(capsys)
    assert message in line
    assert "--help" in line


def every_parser(parser: Parser) -> Iterator[Parser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from every_parser(below)


def test_each_example_of_the_help_is_a_command() -> None:
    ends = [one for one in every_parser(command_line()) if "COMMAND" not in one.format_usage()]
    assert len(ends) > 20
    assert [one.prog for one in ends if not one.examples] == []
    for parser in every_parser(command_line()):
        for example in parser.examples:
            words = shlex.split(example.split(">")[0])
            if "--help" not in words:
                options, rest = command_line().parse_known_args(words)
                assert rest == [] or options.bundle.name in ("prostate", "cifar10")
            assert words[: len(parser.prog.split()) - 1] == parser.prog.split()[1:]


def test_help_has_colours_where_they_are_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = command_line().format_help()
    assert "\x1b" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = command_line().format_help()
    assert "\x1b[1mexamples:\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain
    with pytest.raises(SystemExit):
        main(["predcit"])
    assert capsys.readouterr().err.startswith("\x1b[1;31merror:\x1b[0m argument COMMAND")
    monkeypatch.setenv("NO_COLOR", "1")
    assert command_line().format_help() == plain


def test_old_spellings_of_options_are_taken_and_not_shown() -> None:
    def read(*words: str) -> argparse.Namespace:
        return command_line().parse_args(["experiment", "run", "cifar10/first", *words])

    old, new = read("--dataset_dir", "d", "--tracking_uri", "u"), read("--dataset-dir", "d", "--tracking-uri", "u")
    assert (old.dataset_dir, old.tracking_uri) == (new.dataset_dir, new.tracking_uri) == (Path("d"), "u")
    assert "_" not in "".join(re.findall(r"--[\w-]+", new.parser.format_help()))
    for word in ("--licence", "--license"):
        assert command_line().parse_args(["pack", "d", "--output", "z", word, "f"]).licence == Path("f")
        rest = ["--labels", "l", "--output", "o", word, "CC0"]
        assert command_line().parse_args(["manifest", "build", "d", *rest]).licence == "CC0"


def test_overrides_of_each_bundle_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["ensemble", "train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("cifar10: --dataset_dir null --majority 0", "lesions:", "--manifest null", '--loss "dice_bce"'):
        assert words in text
    assert "--output_dir" not in text  # the ensemble's own


def test_the_log_says_more_or_less_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    program = [sys.executable, "-c", SAYS, "bundle", "path", "prostate"]

    def said(*words: str) -> list[str]:
        return subprocess.run([*program, *words], capture_output=True, text=True, check=True).stderr.splitlines()

    assert said() == ["WARNING: a warning", "ERROR: an error"]
    assert said("-v") == ["INFO: more", "WARNING: a warning", "ERROR: an error"]
    assert said("--silent") == ["ERROR: an error"]


SAYS = """
import logging, sys
from prostate_alm.cli import command_line, main
from prostate_alm.cli.parser import Parser

code = main(sys.argv[1:])
logger = logging.getLogger("prostate_alm.any")
logger.info("more")
logger.warning("a warning")
logger.error("an error")
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ([], {"predict", "manifest", "--version"}),
        (["man"], {"manifest"}),
        (["manifest", ""], {"build", "import", "check"}),
        (["manifest", "build", "d", "--lab"], {"--labels"}),
        (["manifest", "import", ""], {"picai", "bids"}),
        (["predict", "--exec"], {"--executor"}),
    ],
)
def test_bash_completes_commands_and_options(typed: list[str], completed: set[str]) -> None:
    if (bash := shutil.which("bash")) is None:
        pytest.skip("no bash")
    script = subprocess.run([*PROGRAM, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    words = ["prostate-alm", *(typed or [""])]
    script += f"\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n_prostate_alm\necho ${{COMPREPLY[@]}}"
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert completed <= set(done.stdout.split())
    assert all(word.startswith(words[-1]) for word in done.stdout.split())


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


def test_an_error_of_several_lines_is_printed_as_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: Path) -> None:
        raise ValueError("first\n  second")

    monkeypatch.setattr("prostate_alm.data.manifest.read_manifest", fails)
    assert main(["manifest", "check", "x.json"]) == 2
    assert the_error(capsys) == "error: first second"


def test_commands_load_no_framework(small: Path) -> None:
    code = (
        "import sys; from prostate_alm.cli import main\n"
        "heavy = {'torch', 'monai', 'mlflow', 'ignite', 'matplotlib'}\n"
        "assert not set(sys.modules) & (heavy | {'numpy', 'pydicom', 'sklearn'}), 'import alone'\n"
        "main(['study', 'explain', 'dicom/EMPTY']); main(['phantom', 'make', '--output', 'p', '--studies', '1'])\n"
        "main(['manifest', 'build', 'dicom', '--labels', 'labels.csv', '--output', 'c.json'])\n"
        "main(['manifest', 'check', 'c.json'])\n"
        "assert not set(sys.modules) & heavy, set(sys.modules) & heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_reader_that_leaves_is_no_error(small: Path) -> None:
    explain = subprocess.Popen(
        [*PROGRAM, "study", "explain", "dicom/PHANTOM-0001"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert explain.stdout is not None
    explain.stdout.close()  # before anything is printed, as `| head -0` does
    _, stderr = explain.communicate()
    assert (explain.returncode, stderr) == (141, b"")


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


def test_names_of_files_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = tmp_path / "\x1b]0;owned\x07\x1b[2J.json"
    assert main(["manifest", "check", str(evil)]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "\\x1b]0;owned\\x07\\x1b[2J.json" in error
