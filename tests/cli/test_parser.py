"""What all commands share: errors of one line with what was meant, colours, spellings, how much is said."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import the_error

from prostate_alm.cli import command_line, main


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


def test_names_of_files_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = tmp_path / "\x1b]0;owned\x07\x1b[2J.json"
    assert main(["manifest", "check", str(evil)]) == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert "\\x1b]0;owned\\x07\\x1b[2J.json" in error
