"""A process that runs one bundle command after another: a task per line of standard input, a reply per line of output.

python -m prostate_alm.training.fanout_worker
"""

import json
import os
import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from queue import Queue
from typing import Any, NoReturn

from prostate_alm.progress import printable
from prostate_alm.training.command_line import INTERRUPTED, fault_lines, first_cause, tell_crashes_in_full, tells_faults


def run_bundle_command(arguments: list[str], log_file: Path) -> str | None:
    """Run `python -m monai.bundle ARGUMENTS` in this process; what it prints goes to a file.

    Args:
        arguments: what follows the name of the module.
        log_file: receives standard output and standard error; what was there before is kept.

    Returns:
        None, or one line that says why it failed.
    """
    sys.argv = ["monai.bundle", *arguments]
    return run_logged(lambda: runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True), log_file)


def run_logged(action: Callable[[], object], log_file: Path) -> str | None:
    """Call `action`; what it prints, and the trace of its error, go to a file.

    Args:
        action: what to do.
        log_file: receives standard output and standard error; what was there before is kept.

    Returns:
        None, or one line that says why it failed.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    tell_crashes_in_full()  # until the command says otherwise
    with _printing_to(log_file):
        try:
            action()
        except SystemExit as end:
            return None if not end.code else _last_error(log_file) or f"exit code {end.code}"
        except Exception as error:
            lines = fault_lines(error) if tells_faults() else None
            if lines is None:
                traceback.print_exc()
                return _cause(error)
            sys.stderr.write("".join(f"error: {printable(line)}\n" for line in lines))
            return "; ".join(lines)
    return None


def _cause(error: BaseException) -> str:
    """Return the first cause of an error in one line."""
    first = first_cause(error)
    return " ".join(f"{type(first).__name__}: {first}".split())


def _last_error(log_file: Path) -> str | None:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    try:
        # In a notebook or a test, sys.stdout is something else. These streams are not closed: log handlers keep them.
        out, err = (os.fdopen(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2))
        with redirect_stdout(out), redirect_stderr(err):
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _receive(tasks: "Queue[str]") -> None:
    """Pass on what comes; end the process where the one that gives the tasks is gone before they are done.

    At once: another one may want the member's folder, and resumes what the last epoch left.
    """
    for line in sys.stdin:
        tasks.put(line)
    if tasks.unfinished_tasks:
        os._exit(1)
    tasks.put("")


def main() -> None:
    """Do the tasks of standard input until it ends."""
    signal.signal(signal.SIGTERM, _interrupt)
    tasks: Queue[str] = Queue()
    threading.Thread(target=_receive, args=(tasks,), daemon=True).start()
    try:
        while line := tasks.get():
            task = json.loads(line)
            failure = run_bundle_command(task["arguments"], Path(task["log_file"]))
            tasks.task_done()
            sys.stdout.write(json.dumps({"failure": failure}) + "\n")
            sys.stdout.flush()
    except KeyboardInterrupt:  # whoever gave the tasks says so in a line
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
