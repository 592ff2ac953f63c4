"""The command line as a whole: help of every command, examples that run, exit codes, what it loads."""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import PROGRAM, the_error

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
