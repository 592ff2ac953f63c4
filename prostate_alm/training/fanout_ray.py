"""The same tasks on a Ray cluster: one remote task a member, results in a folder that all hosts see."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prostate_alm.training.fanout import MemberTask, Outcome, worker_environment


def run_with_ray(tasks: Sequence[MemberTask], *, jobs: int | None) -> Generator[Outcome, None, None]:
    """Run the tasks on the cluster of RAY_ADDRESS, or on this machine where there is none.

    Each task takes one core, and a GPU where its bundle is told to use CUDA. The hosts must see the same folders, and
    the MLflow store must be a server (`--tracking_uri http://...`), not a file.

    Args:
        tasks: what to run.
        jobs: largest number of tasks at the same time; None for what the cluster has.

    Raises:
        ValueError: Ray is not installed.
    """
    if tasks:
        with ray_session() as ray:
            yield from _collect(ray, tasks, jobs=jobs or len(tasks))


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


def _collect(ray: Any, tasks: Sequence[MemberTask], *, jobs: int) -> Generator[Outcome, None, None]:
    environment = {"env_vars": worker_environment()}
    folder = str(Path.cwd())
    waiting = list(reversed(tasks))
    running: dict[Any, MemberTask] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            task = waiting.pop()
            gpus = 1 if str(task.overrides.get("device", "")).startswith("cuda") else 0
            remote = ray.remote(num_cpus=1, num_gpus=gpus, runtime_env=environment, max_retries=1)(run_task)
            running[remote.remote(task, folder)] = task
        done, _ = ray.wait(list(running), num_returns=1)
        yield _outcome(ray, done[0], running.pop(done[0]))


def _outcome(ray: Any, reference: Any, task: MemberTask) -> Outcome:
    try:
        return Outcome(task, ray.get(reference))
    except ray.exceptions.RayError as error:  # the host or its process died
        return Outcome(task, " ".join(str(error).split())[:300])


def run_task(task: MemberTask, folder: str) -> str | None:
    """Run a task on a host of the cluster; relative paths are those of the folder where the command was given.

    Returns:
        None, or one line that says why it failed.
    """
    from prostate_alm.training.fanout_worker import run_bundle_command

    os.chdir(folder)
    return run_bundle_command(task.arguments(), task.log_file)
