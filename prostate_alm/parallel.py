"""The same function over many items in several processes or on a Ray cluster, in the order of the items."""

import logging
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, TypeVar

_ITEMS_WORTH_A_WORKER = 4  # a worker takes as long to start as 4 studies take to convert
_MOST_WORKERS = 8  # beyond, the disk is the limit; each takes 0.3 GB

Executor = Literal["local", "ray"]
Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def available_workers() -> int:
    """Return how many processes this machine should run: one per core that is free for us, 8 at most.

    >>> 1 <= available_workers() <= 8
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


def map_in_order(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item, in order, as soon as it is known; closing the iteration ends the workers.

    Worker w of W does the items w, w + W, w + 2W, ... and sends its results through a pipe of its own. Unlike the pools
    of the standard library this has no locks and threads that an interruption could leave in disorder. What a worker
    that died left undone is done here.

    Args:
        function: can be pickled when workers > 1, and may be killed at any time; what it raises is raised here.
        items: the items; few of them are done in this process, since a worker takes a second to start.
        workers: largest number of processes, >= 1.

    >>> list(map_in_order(str.upper, ["a", "b"], workers=2))
    ['A', 'B']
    """
    useful = min(workers, len(items) // _ITEMS_WORTH_A_WORKER)
    if useful < 2:
        yield from map(function, items)
        return
    team = [_start(function, items[first::useful]) for first in range(useful)]
    dead: set[int] = set()
    try:
        for index, item in enumerate(items):
            worker = index % useful
            try:
                error, result = team[worker][1].recv()
            except EOFError:
                if worker not in dead:
                    logger.warning("a worker process died (out of memory?): its work is done without it")
                dead.add(worker)
                error, result = None, function(item)
            if error is not None:
                raise error
            yield result
    finally:
        for process, _ in team:
            process.terminate()
        for process, _ in team:
            process.join()


def _start(function: Callable[[Item], Any], items: Sequence[Item]) -> tuple[BaseProcess, Connection]:
    context = get_context("spawn")  # a forked copy of a process with threads (torch, ITK) may hang
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, items, sender), daemon=True)
    process.start()
    sender.close()  # the worker's copy is the only one, so that its death ends the pipe
    return process, receiver


def _work(function: Callable[[Item], Any], items: Sequence[Item], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the workers
    for item in items:
        try:
            outcome = (None, function(item))
        except Exception as error:  # raised again where the result is wanted
            sender.send((error, None))
            return
        sender.send(outcome)


@contextmanager
def ray_session() -> Iterator[Any]:
    """Yield the module `ray`, connected to the cluster of RAY_ADDRESS, or to one on this machine until the block ends.

    Raises:
        ValueError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "executor ray needs the package ray, got none installed. Install it with: pip install 'prostate-alm[ray]'"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is computed stays in the house
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()


def map_with_ray(
    function: Callable[[Item], Result], items: Sequence[Item], *, jobs: int
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item, in order, computed on the cluster of RAY_ADDRESS or on this machine.

    The hosts must see the same folders. A host that dies has its tasks done by another, three times at most.

    Args:
        function: can be pickled.
        items: what to do.
        jobs: largest number of tasks at the same time.

    Raises:
        ValueError: Ray is not installed.
    """
    if items:
        with ray_session() as ray:
            yield from _in_order(ray, function, items, jobs=jobs)


def _in_order(
    ray: Any, function: Callable[[Item], Result], items: Sequence[Item], *, jobs: int
) -> Generator[Result, None, None]:
    environment = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}
    remote = ray.remote(num_cpus=1, runtime_env=environment, max_retries=3)(_call)
    shared, folder = ray.put(function), str(Path.cwd())
    running: list[Any] = []
    waiting = list(reversed(items))
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(remote.remote(shared, waiting.pop(), folder))
        yield ray.get(running.pop(0))


def _call(function: Callable[[Item], Result], item: Item, folder: str) -> Result:
    """Call the function on a host; relative paths are those of the folder where the command was given."""
    os.chdir(folder)
    return function(item)
