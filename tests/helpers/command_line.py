"""What tests of commands share: how the program is started, and its only line of error."""

import sys

import pytest

from prostate_alm.cli import main

PROGRAM = [sys.executable, "-m", "prostate_alm.cli"]


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the only line on stderr, an error."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run `prostate-alm predict` and return its exit code, and what it said on stdout and stderr."""
    code = main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err
