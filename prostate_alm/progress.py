"""Progress of long work: a bar on a terminal, one line of log elsewhere."""

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
