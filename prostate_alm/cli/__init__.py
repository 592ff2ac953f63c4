"""The command line: argument parsing and printing, nothing else."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from prostate_alm import __version__
from prostate_alm.cli import data, doctor, packs, predict, training, watch
from prostate_alm.cli.parser import (
    INTERRUPTED,
    READER_GONE,
    USAGE_ERROR,
    Parser,
    PrintableFormatter,
    listen,
    print_error,
    say,
)
from prostate_alm.extras import MissingExtraError
from prostate_alm.whole_files import full_disk_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `prostate-alm`.

    Returns:
        0 on success, 1 when a manifest was built without some refused studies, a member of an ensemble failed, the
        doctor found a problem or answers moved, 2 for input that cannot be used, 130 when interrupted, 141 when the
        reader of the output has gone (as `head` does).
    """
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("pydicom").disabled = True  # it quotes odd values, which may be identifiers
    options = argparse.Namespace()
    try:
        options = _parse(arguments)
        listen(options)
        code: int = options.action(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # what is left in the buffer must not be tried again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except Exception as error:
        full = full_disk_line(error, _places(options))
        if full is None and not isinstance(error, ValueError | OSError | MissingExtraError):
            raise
        print_error(full or _one_line(error))
        return USAGE_ERROR
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not break into the farewell
        say("interrupted; what was finished is kept, run the same command to go on", file=sys.stderr)
        return INTERRUPTED
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; commands that pass the rest on to a bundle take it as `overrides`."""
    options, rest = command_line().parse_known_args(arguments)
    if rest and not hasattr(options, "overrides"):
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.overrides = rest
    return options


def _places(options: argparse.Namespace) -> list[Path]:
    """Return the files and folders that a command may write to: what it was given, and where it was given."""
    given = [one for value in vars(options).values() for one in (value if isinstance(value, list) else [value])]
    return [*(one for one in given if isinstance(one, Path)), Path()]


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def command_line() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="prostate-alm",
        description="Classifiers that must not miss the critical class.",
        examples="demo\npredict STUDY --model prostate.zip --output answers --report\n"
        "ensemble train prostate --help\ncompletion --help",
    )
    parser.add_argument("--version", action="version", version=f"prostate-alm {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    predict.add_demo(commands)
    data.add_phantom(commands)
    data.add_study(commands)
    data.add_manifest(commands)
    training.add_ensemble(commands)
    training.add_experiment(commands)
    packs.add_pack(commands)
    packs.add_sites(commands)
    predict.add_predict(commands)
    predict.add_serve_once(commands)
    packs.add_drift(commands)
    watch.add_watch(commands)
    doctor.add_bundle(commands)
    doctor.add_doctor(commands)
    training.add_track(commands)
    doctor.add_completion(commands, command_line)
    return parser
