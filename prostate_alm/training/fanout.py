"""Many members at once: the same bundle command for each, on this machine or on a cluster."""

import logging
import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Literal, get_args

from prostate_alm.parallel import available_workers
from prostate_alm.results.run_folder import RunFolder
from prostate_alm.training.fanout_local import run_locally
from prostate_alm.training.fanout_ray import run_with_ray
from prostate_alm.training.member_task import MemberTask, TaskEnd

logger = logging.getLogger(__name__)

_EPOCH = re.compile(r"epoch (\d+/\d+)")
_TOLD_EVERY_S = 30.0

Executor = Literal["local", "ray"]


def run_tasks(
    tasks: Sequence[MemberTask], *, jobs: int | None = None, executor: Executor = "local"
) -> Generator[TaskEnd, None, None]:
    """Run the tasks and yield how each ended, as they end; a task that failed does not stop the others.

    A task whose results are there is not run again. Closing the iteration ends all processes.

    Args:
        tasks: what to run.
        jobs: largest number of processes, >= 1; None for one per core (local) or what the cluster has (ray).
        executor: `local`, or `ray` for the cluster of RAY_ADDRESS (without one, this machine).

    Raises:
        ValueError: jobs or executor is out of range, or Ray is not installed.
    """
    if executor not in get_args(Executor):
        raise ValueError(f"executor must be one of {list(get_args(Executor))}, got {executor!r} in run_tasks.")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs} in run_tasks. Leave it out for one per core.")
    waiting = []
    for task in tasks:
        if RunFolder(task.output_dir).is_finished:
            yield TaskEnd(task, None)
        else:
            waiting.append(task)
    if executor == "ray":
        yield from run_with_ray(waiting, jobs=jobs)
    elif waiting:
        yield from run_locally(waiting, jobs=min(jobs or available_workers(), len(waiting)))


@contextmanager
def standing_told(tasks: Sequence[MemberTask], *, every_s: float = _TOLD_EVERY_S) -> Iterator[None]:
    """Log at once and then now and then how far the members are, as what they print says.

    Args:
        tasks: of the members; at least one.
        every_s: time between two lines, above 0.
    """
    ended = Event()

    def tell() -> None:
        logger.info("training %d members; what they print: %s", len(tasks), tasks[0].log_file.parent / "member-*.log")
        while not ended.wait(every_s):
            logger.info("%s", standing(tasks))

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def standing(tasks: Sequence[MemberTask]) -> str:
    """Return how many members are done and at which epoch the others are, those that have begun."""
    done, epochs = 0, []
    for task in tasks:
        if RunFolder(task.output_dir).is_finished:
            done += 1
        elif task.log_file.is_file():
            seen = _EPOCH.findall(task.log_file.read_text(encoding="utf-8", errors="replace"))
            epochs.append(f"{task.output_dir.name} at epoch {seen[-1]}" if seen else f"{task.output_dir.name} begins")
    return ", ".join([f"{done} of {len(tasks)} members done", *epochs])
