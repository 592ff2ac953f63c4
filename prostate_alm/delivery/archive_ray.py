"""The same function over many items on a Ray cluster, results in the order of the items."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prostate_alm.training.fanout_ray import ray_session

Item = TypeVar("Item")
Result = TypeVar("Result")


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
