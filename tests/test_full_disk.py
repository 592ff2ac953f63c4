"""Which errors come of a full disk, as Python, SQLite and torch tell them."""

import errno
import sqlite3
from collections.abc import Callable
from pathlib import Path

from prostate_alm.whole_files import full_disk_line


def test_python_and_sqlite_say_so_however_deep_it_lies(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/one")
    assert full_disk_line(full, [tmp_path]).startswith("/data/one: no room left. ")  # type: ignore[union-attr]
    outer = ValueError("training failed")
    outer.__cause__ = RuntimeError("handler")
    outer.__cause__.__cause__ = sqlite3.OperationalError("database or disk is full")
    assert "no room left" in str(full_disk_line(outer, [tmp_path]))


def test_other_errors_are_not_taken_for_it(tmp_path: Path) -> None:
    others = (OSError(errno.EACCES, "denied"), RuntimeError("shape"), ValueError("no room"))
    assert [full_disk_line(error, [tmp_path / "not there yet"]) for error in others] == [None] * 3


def test_torch_does_not_say_why_so_the_disk_is_asked(fill_disk: Callable[[int], Path], small_disk: Path) -> None:
    fill_disk(8)
    error = RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")
    told = f"{small_disk / 'checkpoint.pt'}: no room left. What was finished is kept and whole: make room and run "
    assert full_disk_line(error, [small_disk / "checkpoint.pt"]) == told + "the same command again."
    assert full_disk_line(ValueError("a fault of the caller"), [small_disk]) is None
