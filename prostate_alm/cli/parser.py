"""What all commands share: exit codes, the parser, errors in one line."""

import argparse
import difflib
import logging
import re
import sys
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeAlias

from prostate_alm.printable import printable

OK, SOME_REFUSED, USAGE_ERROR = 0, 1, 2
SOME_FAILED = SOME_REFUSED
INTERRUPTED, READER_GONE = 130, 141
"""128 plus the number of the signal, as shells count: SIGINT, SIGPIPE."""

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and that takes no abbreviated options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """End the process with an error of one line."""
        self.exit(USAGE_ERROR, printable(f"error: {message}.{self._meant(message)} See: {self.prog} --help\n"))

    def _meant(self, message: str) -> str:
        """Return the command that is nearest to one that does not exist, '' where none is near."""
        unknown = re.search(r"invalid choice: '([^']+)'", message)
        known = [str(word) for action in self._actions for word in action.choices or ()]
        near = difflib.get_close_matches(unknown[1], known, n=1) if unknown else []
        return f" Did you mean {near[0]}?" if near else ""


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Add a command that has commands of its own."""
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the option that says whose models are opened."""
    parser.add_argument(
        "--trust",
        type=Path,
        metavar="KEYS",
        help="refuse a model that is neither signed by one of these keys nor has one of these SHA-256: file or folder, "
        "see docs/packing.md (default: $PROSTATE_ALM_TRUST; without it any model is taken)",
    )


def say(text: object = "", *, file: TextIO | None = None, flush: bool = False) -> None:
    """Print a text as a terminal may show it."""
    print(printable(str(text)), file=file, flush=flush)


class PrintableFormatter(logging.Formatter):
    """Formats what is logged as `say` prints it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return printable(super().format(record))


def print_error(message: str) -> None:
    """Print an error as one line."""
    say(f"error: {message}", file=sys.stderr)
