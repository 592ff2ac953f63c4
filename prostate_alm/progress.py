"""What a terminal shows: progress of long work (elsewhere a line of log), and the text of strangers made safe."""

import logging
import sys
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (items done, items in all) after each item."""

_DELAY_S = 0.5  # work that is done by then shows no bar

logger = logging.getLogger(__name__)


def silent(done: int, total: int) -> None:
    """Show nothing."""


def progress_bar(name: str, *, unit: str = "") -> Progress:
    """Return a `Progress` that shows the bar `name` on stderr when that is a terminal and the work takes a while.

    A log that takes no warnings (`-q` of the command line) has no bar either.

    Args:
        name: what is being done, e.g. "reading studies".
        unit: what is counted.

    >>> show = progress_bar("reading studies")  # here stderr is no terminal: silent
    >>> show(1, 2)
    """
    if not sys.stderr.isatty() or not logger.isEnabledFor(logging.WARNING):
        logger.info("%s ...", name)
        return silent
    from tqdm import tqdm  # tqdm is needed only here

    bar = tqdm(desc=name, unit=unit or " done", delay=_DELAY_S)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def printable(text: str) -> str:
    r"""Return a text without what steers a terminal: names of files, packs and studies are those of strangers.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)
