"""The same tasks on a Ray cluster: one remote task a member, results in a folder that all hosts see."""

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from prostate_alm.parallel import ray_session
from prostate_alm.training.member_task import MemberTask, TaskEnd, worker_environment


def run_with_ray(tasks: Sequence[MemberTask], *, jobs: int | None) -> Generator[TaskEnd, None, None]:
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


def _collect(ray: Any, tasks: Sequence[MemberTask], *, jobs: int) -> Generator[TaskEnd, None, None]:
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


def _outcome(ray: Any, reference: Any, task: MemberTask) -> TaskEnd:
    try:
        return TaskEnd(task, ray.get(reference))
    except ray.exceptions.RayError as error:  # the host or its process died
        return TaskEnd(task, " ".join(str(error).split())[:300])


def run_task(task: MemberTask, folder: str) -> str | None:
    """Run a task on a host of the cluster; relative paths are those of the folder where the command was given.

    Returns:
        None, or one line that says why it failed.
    """
    from prostate_alm.training.fanout_worker import run_bundle_command

    os.chdir(folder)
    return run_bundle_command(task.arguments(), task.log_file)
