"""What all commands share: exit codes, the parser, errors in one line."""

import argparse
import sys
from typing import Any, NoReturn, TypeAlias

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
        self.exit(USAGE_ERROR, f"error: {message}. See: {self.prog} --help\n")


def add_group(commands: Commands, name: str, text: str) -> Commands:
    """Add a command that has commands of its own."""
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(title="commands", required=True, metavar="COMMAND")


def print_error(message: str) -> None:
    """Print an error as one line."""
    print(f"error: {message}", file=sys.stderr)
