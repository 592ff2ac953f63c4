"""Many members at once: the same bundle command for each, on this machine or on a cluster."""

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from threading import Event, Thread
from typing import IO, Any, get_args

from prostate_alm.parallel import Executor, available_workers, ray_session
from prostate_alm.results.run_folder import RunFolder
from prostate_alm.shipped import config_files_of

logger = logging.getLogger(__name__)

_EPOCH = re.compile(r"epoch (\d+/\d+)")
_TOLD_EVERY_S = 30.0


_KEEP_FREED_MEMORY = {
    # glibc gives large buffers back to the system after each layer and gets them again, page by page, for the next:
    # up to a quarter of a step (benchmarks/cifar10_member.py). Other C libraries ignore these names.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


@dataclass(frozen=True)
class MemberTask:
    """One run of a bundle's training: its config file or overlay, the member's folder, the command's overrides."""

    config_file: Path
    output_dir: Path
    overrides: Mapping[str, Any]

    def arguments(self) -> list[str]:
        """Return what follows `python -m monai.bundle`; a run that was interrupted is resumed."""
        named = {
            "config_file": _files(self.config_file),
            **self.overrides,
            "output_dir": self.output_dir,
            "resume": True,
        }
        pairs = [(f"--{name}", _word(value)) for name, value in named.items()]
        return ["run", "training", *(part for pair in pairs for part in pair)]

    def to_json(self) -> str:
        """Return the task in one line, as `fanout_worker` reads it."""
        return json.dumps({"arguments": self.arguments(), "log_file": str(self.log_file)})

    @property
    def log_file(self) -> Path:
        """File beside the member's folder that holds what the command printed."""
        return self.output_dir.with_name(f"{self.output_dir.name}.log")


@dataclass(frozen=True)
class TaskEnd:
    """How a task ended; `failure` is None when its results are there, else one line that says why not."""

    task: MemberTask
    failure: str | None


def _files(config_file: Path) -> Any:
    """Return the config file as the bundle command takes it: one, or a list where it is an overlay."""
    first, *others = config_files_of(config_file)
    return [str(path) for path in (first, *others)] if others else first


def _word(value: Any) -> str:
    """Return a value as the command line of a bundle takes it: a Python literal, or a word that is none.

    >>> [_word(value) for value in (True, 9, None, "a_fl", "2024", {"gamma": 4})]
    ['True', '9', 'None', 'a_fl', "'2024'", "{'gamma': 4}"]
    """
    text = str(value)
    if not isinstance(value, str | Path):
        return text
    looks_like_a_literal = not text or text[0] in "0123456789+-.'\"([{" or text in ("True", "False", "None")
    return repr(text) if looks_like_a_literal and not text.startswith(("./", "../")) else text


def worker_environment() -> dict[str, str]:
    """Return what the environment of a process that trains members must say, before it starts.

    One thread until a member sets its own number (`threads` of its settings): whatever the machine and the other jobs.
    """
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **_KEEP_FREED_MEMORY}


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


_FAREWELL_S = 10.0


def run_locally(tasks: Sequence[MemberTask], *, jobs: int) -> Generator[TaskEnd, None, None]:
    """Run the tasks and yield how each ended, as they end; closing the iteration ends all processes.

    Args:
        tasks: what to run.
        jobs: number of processes, at least 1.
    """
    waiting = deque(tasks)
    with DefaultSelector() as selector:
        busy: set[_Worker] = set()

        def give(worker: _Worker) -> None:
            worker.start(waiting.popleft())
            selector.register(worker.replies, EVENT_READ, worker)
            busy.add(worker)

        try:
            for _ in range(jobs):
                give(_Worker())
            while busy:
                for key, _ in selector.select():
                    worker: _Worker = key.data
                    selector.unregister(worker.replies)
                    busy.remove(worker)
                    outcome = worker.outcome()
                    keep = bool(waiting) and worker.is_alive
                    if not keep:
                        worker.stop()
                    if waiting:
                        give(worker if keep else _Worker())
                    yield outcome
        finally:
            for worker in busy:
                worker.kill()


class _Worker:
    """A process that runs one bundle command after another; importing MONAI takes as long as training a member."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "prostate_alm.training.fanout_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | worker_environment(),
        )
        self._tasks, self.replies = _pipe(self._process.stdin), _pipe(self._process.stdout)
        self._task: MemberTask

    def start(self, task: MemberTask) -> None:
        """Give the process a task; `replies` becomes readable when it has ended, or the process has."""
        self._task = task
        with contextlib.suppress(BrokenPipeError):  # the process is dead already: `outcome` says so
            self._tasks.write(task.to_json().encode() + b"\n")
            self._tasks.flush()

    def outcome(self) -> TaskEnd:
        """Return how the task ended."""
        reply = self.replies.readline()
        if reply:
            return TaskEnd(self._task, json.loads(reply)["failure"])
        code = self._process.wait()  # -9: SIGKILL, a name that Windows has not
        reason = "out of memory?" if code == -9 else f"see {self._task.log_file}"
        return TaskEnd(self._task, f"the process ended with code {code} ({reason})")

    @property
    def is_alive(self) -> bool:
        """Whether the process takes another task."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Let the process end by itself: it does when there are no more tasks."""
        with contextlib.suppress(BrokenPipeError):
            self._tasks.close()
        self.replies.close()
        self._process.wait()

    def kill(self) -> None:
        """End the process in the middle of its task, as Ctrl-C would: its MLflow run is told."""
        self._process.terminate()
        try:
            self._process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self.stop()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise TypeError("a process must have the pipe that was asked for, got none.")
    return pipe
