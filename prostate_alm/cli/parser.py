"""What all commands share: exit codes, the parser, errors in one line, what is said and in which colour."""

import argparse
import difflib
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeAlias

from prostate_alm.progress import printable

OK, SOME_REFUSED, USAGE_ERROR = 0, 1, 2
SOME_FAILED = SOME_REFUSED
INTERRUPTED, READER_GONE = 130, 141
"""128 plus the number of the signal, as shells count: SIGINT, SIGPIPE."""

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"

_BOLD, _RED, _CYAN, _PLAIN = "\033[1m", "\033[1;31m", "\033[36m", "\033[0m"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, that takes no abbreviated options and shows examples.

    Args:
        examples: what may follow `prostate-alm`, one a line.
        more_help: returns lines below the examples.
        options: those of `argparse.ArgumentParser`.
    """

    def __init__(self, *, examples: str = "", more_help: Callable[[], list[str]] = list, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.examples, self._more_help = examples.splitlines(), more_help
        self.set_defaults(parser=self)
        told = self.add_mutually_exclusive_group()
        loud: dict[str, Any] = {"action": "store_const", "dest": "level", "default": argparse.SUPPRESS}
        told.add_argument("-v", "--verbose", const=logging.INFO, help="say more of what is done", **loud)
        told.add_argument("-q", "--silent", const=logging.ERROR, help="no progress, and of the log errors only", **loud)

    def format_help(self) -> str:
        """Return the help, with examples, and coloured on a terminal."""
        program = self.prog.split()[0]
        lines = ["", "examples:", *(f"  {program} {line}" for line in self.examples)] if self.examples else []
        text = super().format_help() + "".join(f"{line}\n" for line in [*lines, *self._more_help()])
        if not _is_coloured(sys.stdout):
            return text
        text = re.sub(
            r"(?m)^(usage|options|commands|positional arguments|examples|overrides):", rf"{_BOLD}\1:{_PLAIN}", text
        )
        return re.sub(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", rf"{_CYAN}\1{_PLAIN}", text)

    def spelt(self, *spellings: str, **options: Any) -> None:
        """Add an option of several spellings, of which help and errors show the first."""
        action = self.add_argument(*spellings, **options)
        action.option_strings = action.option_strings[:1]

    def error(self, message: str) -> NoReturn:
        """End the process with an error of one line."""
        line = printable(f"{message}.{self._meant(message)} See: {self.prog} --help\n")
        self.exit(USAGE_ERROR, f"{_error_word()} {line}")

    def _meant(self, message: str) -> str:
        """Return the command or option that is nearest to one that does not exist, '' where none is near."""
        unknown = re.search(r"invalid choice: '([^']+)'|unrecognized arguments: (--[\w-]+)", message)
        known = [str(word) for action in self._actions for word in [*(action.choices or ()), *action.option_strings]]
        near = difflib.get_close_matches(unknown[1] or unknown[2], known, n=1) if unknown else []
        return f" Did you mean {near[0]}?" if near else ""


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Add a command that has commands of its own."""
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(title="commands", required=True, metavar="COMMAND")


def add_model(parser: Parser) -> None:
    """Add the options that say which packed model is opened, and whose models are."""
    parser.add_argument("--model", type=Path, required=True, metavar="ZIP", help="packed model, see prostate-alm pack")
    add_trust(parser)


def add_trust(parser: Parser) -> None:
    """Add the option that says whose packed models are opened."""
    parser.add_argument(
        "--trust",
        type=Path,
        metavar="KEYS",
        help="refuse a model that is neither signed by one of these keys nor has one of these SHA-256: file or folder, "
        "see docs/packing.md (default: $PROSTATE_ALM_TRUST; without it any model is taken)",
    )


def add_rules(parser: Parser) -> None:
    """Add the option that extends the rules of the selection."""
    parser.add_argument(
        "--rules", type=Path, metavar="JSON", help="words, limits and places of a site's own, see docs/dicom.md"
    )


def add_executor(parser: Parser) -> None:
    """Add the option that says where several processes run."""
    parser.add_argument(
        "--executor", choices=("local", "ray"), default="local", help="this machine or a Ray cluster (default: local)"
    )


def listen(options: argparse.Namespace) -> None:
    """Let the log and the bars of progress say as much as -v and -q ask for."""
    level = getattr(options, "level", logging.WARNING)
    logging.disable(logging.WARNING if level == logging.ERROR else logging.NOTSET)  # bars ask the log, too
    if level == logging.INFO:
        logging.getLogger("prostate_alm").setLevel(level)


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
    print(_error_word(), printable(message), file=sys.stderr)


def _error_word() -> str:
    return f"{_RED}error:{_PLAIN}" if _is_coloured(sys.stderr) else "error:"


def _is_coloured(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours: no-color.org's NO_COLOR, and FORCE_COLOR, say otherwise."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()
