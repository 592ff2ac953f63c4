"""The command line of MONAI's bundles that started this process: what it gives, and how faults are told there."""

import ast
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from prostate_alm.progress import printable
from prostate_alm.whole_files import full_disk_line

USAGE_ERROR = 2
"""Exit code for a fault of the caller."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_OF_A_CONFIG = (TypeError, LookupError, AttributeError, NameError, ImportError, SyntaxError)
_WRAPPED = ("Failed to evaluate ConfigExpression", "Failed to instantiate component")
_WRONG_WEIGHTS = "Error(s) in loading state_dict"


def bundle_arguments() -> list[str]:
    """Return the arguments of this process when it is `python -m monai.bundle`, else none."""
    is_bundle_command = Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")
    return sys.argv[1:] if is_bundle_command else []


def named_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the named arguments of a command line, `--name value` and `--name=value`, and those of its `--args_file`.

    >>> named_arguments(["run", "training", "--ratio", "9", "--loss=bce"])
    {'ratio': '9', 'loss': 'bce'}
    """
    named: dict[str, Any] = {}
    for position, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, separator, value = argument[2:].partition("=")
            follows = arguments[position + 1] if position + 1 < len(arguments) else ""
            named[name.replace("-", "_")] = value if separator else follows
    if not named.get("args_file"):
        return named
    return read_config(Path(named["args_file"])) | named


def read_config(path: Path) -> dict[str, Any]:
    """Return a JSON or YAML file of a bundle.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a file of keys and values.
    """
    from monai.bundle import ConfigParser  # takes seconds, needed here only

    try:
        content: dict[str, Any] = ConfigParser.load_config_file(path)
    except json.JSONDecodeError as error:
        raise ValueError(f"config file must be JSON, got an error in {path}: {error}. Mend that line.") from error
    return content


def literal_override(value: Any) -> Any:
    """Return the value of an override as the bundle command reads its text: a literal of Python, or a word.

    >>> literal_override("[16, 32]"), literal_override("a_fl"), literal_override(9)
    ([16, 32], 'a_fl', 9)
    """
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def tell_faults_in_lines() -> None:
    """Have `python -m monai.bundle` end with one line for each fault of the caller, and exit code 2.

    MONAI evaluates a config inside its own error handling, which buries a message under some 190 lines. In any other
    process errors are exceptions, as always.
    """
    if bundle_arguments():
        sys.excepthook = _tell


def tell_crashes_in_full() -> None:
    """From now on an error is one of the program, not of the caller: it shows where it happened."""
    if tells_faults():
        sys.excepthook = _tell_crash


def tells_faults() -> bool:
    """Whether an error is one of the caller by now: `tell_faults_in_lines` was the last that was said of it."""
    return sys.excepthook is _tell


@contextmanager
def told_when_full(*places: Path) -> Iterator[None]:
    """Say in one line where anything inside fails for want of room, whoever found it out.

    Args:
        places: that are written to.

    Raises:
        OSError: one of them is full.
    """
    try:
        yield
    except Exception as error:
        line = full_disk_line(error, places)
        if line is None:
            raise
        tell_faults_in_lines()
        raise OSError(line) from error


def _tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show where an error happened, but for Ctrl-C, which is none."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("interrupted; finished epochs are kept, give the same command with --resume true to go on\n")
        raise SystemExit(INTERRUPTED)
    sys.__excepthook__(kind, error, trace)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    lines = fault_lines(error)
    if lines is None:
        _tell_crash(kind, error, trace)
        return
    for line in lines:
        sys.stderr.write(f"error: {printable(line)}\n")
    raise SystemExit(USAGE_ERROR)


def fault_lines(error: BaseException) -> list[str] | None:
    """Return what a fault of the caller says, without what MONAI wraps around it; None for an error of the program.

    Args:
        error: that ended the evaluation of a config, before anything was trained.

    >>> fault_lines(ValueError("thing must be rule, got value. Do this."))
    ['thing must be rule, got value. Do this.']
    >>> fault_lines(ZeroDivisionError()) is None
    True
    """
    first = first_cause(error)
    text = " ".join(str(first).split())
    if isinstance(first, ValueError | OSError):
        return str(first).splitlines()
    if isinstance(first, _OF_A_CONFIG):
        return [f"config must be one that can be built, got {type(first).__name__}: {text}. Mend that key."]
    if text.startswith(_WRONG_WEIGHTS):
        return [f"weights must be those of network_def, got others: {text}. Give the overrides of the training."]
    return None


def first_cause(error: BaseException) -> BaseException:
    """Return an error without those that MONAI raises from it, which only name the part of the config."""
    while error.__cause__ is not None and str(error).startswith(_WRAPPED):
        error = error.__cause__
    return error
