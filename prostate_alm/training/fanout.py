"""Many members at once: the same bundle command for each, on this machine or on a cluster."""

from collections.abc import Generator, Sequence
from typing import Literal, get_args

from prostate_alm.parallel import available_workers
from prostate_alm.results.run_folder import RunFolder
from prostate_alm.training.fanout_local import run_locally
from prostate_alm.training.fanout_ray import run_with_ray
from prostate_alm.training.member_task import MemberTask, TaskEnd

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
