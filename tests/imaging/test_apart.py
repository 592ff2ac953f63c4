"""The process that reads: what it returns, what it raises, and what ends it."""

import os
import signal
import time

import numpy as np
import pytest

from prostate_alm.imaging.apart import StoppedError, call_apart
from prostate_alm.imaging.scan import LIMITS


def test_arrays_come_back_whole_and_may_be_changed():
    given = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    found = call_apart(np.add, given, 1)
    np.testing.assert_array_equal(found, given + 1)
    found[0] = 0


def test_what_it_raises_is_raised_here():
    with pytest.raises(ValueError, match="invalid literal"):
        call_apart(int, "x")
    assert call_apart(os.getpid) != os.getpid()


def test_it_is_started_once_and_again_after_its_end():
    first = call_apart(os.getpid)
    assert call_apart(os.getpid) == first
    with pytest.raises(StoppedError, match="ends the process that reads it") as stopped:
        call_apart(signal.raise_signal, signal.SIGSEGV)
    assert stopped.value.code == "unreadable_file"
    assert call_apart(os.getpid) != first


def test_memory_is_limited():
    with pytest.raises(StoppedError, match="takes more than 640 MiB") as stopped:
        call_apart(bytes, LIMITS.memory_bytes * 2)
    assert stopped.value.code == "oversized_study"
    assert call_apart(len, "abc") == 3


@pytest.mark.slow
def test_computing_is_limited():
    begin = time.process_time()
    with pytest.raises(StoppedError, match="takes more than 8 s of computing") as stopped:
        call_apart(pow, 3, 1 << 26)
    assert stopped.value.code == "oversized_study"
    assert time.process_time() - begin < 1  # nothing of it here
    assert call_apart(len, "abc") == 3


def test_a_fork_has_a_process_of_its_own():
    mine = call_apart(os.getpid)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(call_apart(os.getpid)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(read, 20)) != mine
    assert call_apart(os.getpid) == mine


def test_relative_paths_are_those_of_the_caller_wherever_it_has_gone(tmp_path, monkeypatch):
    call_apart(os.getcwd)
    monkeypatch.chdir(tmp_path)
    assert call_apart(os.getcwd) == str(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert call_apart(os.getcwd) == "/"
