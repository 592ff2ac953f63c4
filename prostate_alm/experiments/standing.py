"""How far an experiment is: members done, and the time that is left."""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """Members that are done, that failed, and in all; the time left, unknown until one was trained in this run."""

    done: int
    failed: int
    total: int
    seconds_left: float | None

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        left = "" if self.seconds_left is None else f", about {in_hours(self.seconds_left)} left"
        return f"{self.done} of {self.total} members{failed}{left}"


OnProgress = Callable[[Standing], None]


class Clock:
    """Estimates the time left from the members that ended since it was made, however many run at once.

    Args:
        now: time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start_s = now()

    def seconds_left(self, ended: int, remaining: int) -> float | None:
        """Return the estimate; None while nothing has ended.

        Args:
            ended: members that ended in this run.
            remaining: members that are still to be done.
        """
        return (self._now() - self._start_s) / ended * remaining if ended else None


def in_hours(seconds: float) -> str:
    """Return a duration in words.

    >>> in_hours(42), in_hours(150), in_hours(7800)
    ('42 s', '2 min', '2 h 10 min')
    """
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min" if minutes else f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def show_standing(name: str, *, every_s: float = 60.0) -> OnProgress:
    """Return a callback that shows a bar on stderr when that is a terminal, else logs a line now and then.

    Args:
        name: what is being done.
        every_s: least time between two lines of log; the last one is always written.
    """
    is_shown = sys.stderr.isatty() and logger.isEnabledFor(logging.WARNING)
    return _bar(name) if is_shown else _lines(name, every_s=every_s)


def _lines(name: str, *, every_s: float) -> OnProgress:
    last = [-every_s]

    def show(standing: Standing) -> None:
        now = time.monotonic()
        if now - last[0] >= every_s or standing.done + standing.failed >= standing.total:
            last[0] = now
            logger.info("%s: %s", name, standing)

    return show


def _bar(name: str) -> OnProgress:
    from tqdm import tqdm  # tqdm is needed only here

    bars: list[tqdm] = []

    def show(standing: Standing) -> None:
        if not bars:
            layout = "{desc} {percentage:3.0f}%|{bar}| {postfix} [{elapsed}]"
            bars.append(tqdm(desc=name, total=standing.total, initial=standing.done, bar_format=layout))
        bar = bars[0]
        bar.set_postfix_str(str(standing), refresh=False)
        bar.update(standing.done - bar.n)
        bar.refresh()
        if standing.done + standing.failed >= standing.total:
            bar.close()

    return show
