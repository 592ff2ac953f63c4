"""`python -m MODULE ...` in a process of its own that is forked from one which has imported MONAI and MLflow already.

To import them takes ten times as long as a small training. The fork runs the module as `__main__` with its own folder,
environment, streams, signals and exit code; what differs from a fresh interpreter is what was imported.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, util
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

PRELOADED = ["monai.bundle", "monai.handlers", "mlflow.tracking", "matplotlib.pyplot", "sklearn.metrics"]


def start(
    module: str, arguments: Sequence[object], *, folder: Path, environment: Mapping[str, str], said: Path
) -> ForkServerProcess:
    """Start a module; what it prints goes to `said.out` and `said.err`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with pytest.MonkeyPatch.context() as patch:  # read when torch and MLflow are imported
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        forkserver.ensure_running()
    given = (module, list(map(str, arguments)), str(folder), dict(environment), str(said))
    process = context.Process(target=_main, args=given)
    process.start()
    return process


def run(
    module: str, *arguments: object, folder: Path, environment: Mapping[str, str], said: Path
) -> subprocess.CompletedProcess[str]:
    """Run a module until it ends, five minutes at most."""
    process = start(module, arguments, folder=folder, environment=environment, said=said)
    process.join(300)
    if process.is_alive():
        process.kill()
        process.join()
    code = process.exitcode
    process.close()
    out, err = (said.with_suffix(end).read_text(encoding="utf-8") for end in (".out", ".err"))
    return subprocess.CompletedProcess([module, *map(str, arguments)], -1 if code is None else code, out, err)


def _main(module: str, arguments: list[str], folder: str, environment: dict[str, str], said: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, end in ((1, ".out"), (2, ".err")):
        target = os.open(Path(said).with_suffix(end), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(target, number)
        os.close(target)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, encoding="utf-8") for number in (1, 2))
    sys.argv, sys.path[0] = [module, *arguments], folder
    code = _ended(module)
    atexit._run_exitfuncs()
    util._exit_function()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _ended(module: str) -> int:
    """Run the module as the interpreter would; return its exit code."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return _code(end)
    except BaseException:
        try:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        except SystemExit as end:
            return _code(end)
        except BaseException:
            traceback.print_exc()
        return 1
    return 0


def _code(end: SystemExit) -> int:
    if isinstance(end.code, str):
        sys.stderr.write(f"{end.code}\n")
        return 1
    return end.code or 0
