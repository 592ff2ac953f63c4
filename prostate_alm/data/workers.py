"""The same function over many items in several processes, results in the order of the items."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

_ITEMS_WORTH_A_WORKER = 4  # a worker takes as long to start as 4 studies take to convert
_MOST_WORKERS = 8  # beyond, the disk is the limit; each takes 0.3 GB

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def available_workers() -> int:
    """Return how many processes this machine should run: its free choice of cores, 8 at most.

    >>> 1 <= available_workers() <= 8
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


def map_in_order(function: Callable[[Item], Result], items: Sequence[Item], *, workers: int) -> Iterator[Result]:
    """Yield `function(item)` for each item, in order, as soon as it is known.

    Args:
        function: can be pickled when workers > 1; what it raises is raised here and ends the iteration.
        items: the items; few of them are done in this process, since a worker takes a second to start.
        workers: largest number of processes, >= 1.

    >>> list(map_in_order(str.upper, ["a", "b"], workers=2))
    ['A', 'B']
    """
    useful = min(workers, len(items) // _ITEMS_WORTH_A_WORKER)
    if useful < 2:
        yield from map(function, items)
        return
    done = 0
    # spawned, not forked: a forked copy of a process with threads (torch, ITK) may hang
    with ProcessPoolExecutor(useful, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_parent) as pool:
        try:
            for result in pool.map(function, items):
                yield result
                done += 1
        except BrokenProcessPool:
            logger.warning("a worker process died (out of memory?): going on without workers")
        finally:
            pool.shutdown(cancel_futures=True)
    yield from map(function, items[done:])


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
