"""Files of strangers are read by a process of its own, whose time and memory are limited.

It is started once, with the first file, and again where a file has ended it. Functions are called in it by name, with
what can be pickled; what it prints goes nowhere, since libraries quote identifiers in their warnings.
"""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.connection import Pipe as make_pipe
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prostate_alm.imaging.scan import LIMITS

if sys.platform != "win32":
    import resource

_IS_APART = sys.platform != "win32"  # where no process can be given a pipe and limits, its own reads the files
_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")
_STATM = Path("/proc/self/statm")
_MIB = 2**20


class StoppedError(Exception):
    """Reading took more time or memory than `LIMITS`, or ended the process: a stable code and one line."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


class _Worker:
    """A process that calls functions, one at a time."""

    def __init__(self) -> None:
        self._connection, theirs = make_pipe()
        paths = os.pathsep.join(path or _here() for path in sys.path)
        program = f"from prostate_alm.imaging.apart import serve; serve({theirs.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()
        self.owner = os.getpid()

    def call(self, request: bytes) -> tuple[bool, Any]:
        """Return whether the function returned, and what, or what it raised."""
        try:
            self._connection.send_bytes(request)
            if not self._connection.poll(LIMITS.waiting_s):
                raise _too_much(f"{LIMITS.waiting_s} s")
            head, sizes = pickle.loads(self._connection.recv_bytes())
            buffers = [bytearray(size) for size in sizes]
            for buffer in buffers:
                self._connection.recv_bytes_into(buffer)
        except (EOFError, ConnectionError) as error:
            raise self._ended() from error
        is_result, found = pickle.loads(head, buffers=buffers)
        return is_result, found

    def stop(self) -> None:
        """End the process; it holds nothing that is worth keeping."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def _ended(self) -> StoppedError:
        code = self._process.wait()
        if code == -24:  # SIGXCPU
            return _too_much(f"{LIMITS.computing_s} s of computing")
        return StoppedError(
            "unreadable_file", "files of a study must be readable, got one that ends the process that reads it. "
            "Send the study again from its archive.",
        )  # fmt: skip


_lock = threading.Lock()
_workers: list[_Worker] = []


def start() -> None:
    """Start the process, so that it is ready when the first file is."""
    if _IS_APART:
        with _lock:
            _ready()


def call_apart(function: Callable[_Given, _Found], *args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
    """Return `function(*args, **kwargs)`, called in the process that reads; raise what it raises.

    On Windows, where no limits can be set, it is called in this process.

    Args:
        function: of a module, by its name.
        args: as `kwargs`, what can be pickled.
        kwargs: as above.

    Raises:
        StoppedError: it took more than `LIMITS` allow, or ended the process.

    Example:
        >>> call_apart(len, "abc")
        3
    """
    if not _IS_APART:
        return function(*args, **kwargs)
    request = pickle.dumps((_here(), function, args, kwargs))
    with _lock:
        worker = _ready()
        try:
            is_result, found = worker.call(request)
        except BaseException:
            _workers.clear()
            worker.stop()
            raise
    if is_result:
        return found  # type: ignore[no-any-return]  # what comes through a pipe has no type
    raise found


def serve(descriptor: int) -> None:
    """Call functions for the process at the other end of a pipe until it closes it."""
    logging.disable(logging.CRITICAL)
    from prostate_alm.imaging import dicom, signal  # noqa: F401  # ready before the first request

    connection = Connection(descriptor)
    _limit_memory()
    while True:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        _limit_time()
        _send(connection, _called(request))


def _here() -> str:
    """Return the folder that relative paths start from: that of the call, not of the start of the process."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # deleted since: no relative path leads anywhere
        return "/"


def _ready() -> _Worker:
    """Return the process of this one; a fork does not share that of its parent."""
    if _workers and _workers[0].owner != os.getpid():
        _workers.clear()
    if not _workers:
        _workers.append(_Worker())
    return _workers[0]


def _called(request: bytes) -> tuple[bool, Any]:
    try:
        folder, function, args, kwargs = pickle.loads(request)
        os.chdir(folder)
        return True, function(*args, **kwargs)
    except MemoryError:
        return False, _too_much(f"{LIMITS.memory_bytes // _MIB} MiB")
    except Exception as error:
        return False, error.with_traceback(None)


def _send(connection: Connection, reply: tuple[bool, Any]) -> None:
    buffers: list[pickle.PickleBuffer] = []
    try:
        head = pickle.dumps(reply, protocol=5, buffer_callback=buffers.append)
        if not reply[0]:
            pickle.loads(head)  # some exceptions go in and do not come out
    except Exception as error:  # an exception of a decoder that cannot be pickled
        head = pickle.dumps((False, RuntimeError(f"{type(reply[1]).__name__}, {type(error).__name__}")))
    raw = [buffer.raw() for buffer in buffers]
    connection.send_bytes(pickle.dumps((head, [len(one) for one in raw])))
    for one in raw:
        connection.send_bytes(one)


def _limit_memory() -> None:
    """Limit what is taken beyond the memory of the start, where the system says how much that is."""
    if _STATM.exists():
        pages = int(_STATM.read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + LIMITS.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _limit_time() -> None:
    """Limit the computing of the next call."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = int(usage.ru_utime + usage.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + LIMITS.computing_s, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _too_much(what: str) -> StoppedError:
    return StoppedError(
        "oversized_study",
        f"files of a study must be read within limits, got one that takes more than {what}. "
        "Send the study again from its archive.",
    )
