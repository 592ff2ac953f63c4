"""Tasks on this machine, in several processes that stay warm."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Sequence
from selectors import EVENT_READ, DefaultSelector
from typing import IO

from prostate_alm.training.member_task import MemberTask, TaskEnd, worker_environment

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
        code = self._process.wait()
        reason = "out of memory?" if code == -signal.SIGKILL else f"see {self._task.log_file}"
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
