"""The package can be imported on Windows: names that only POSIX has stand behind a question."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prostate_alm.imaging import apart

PACKAGE = Path(__file__).parents[1] / "prostate_alm"
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
NAMES = {
    "os": {
        "chown",
        "fork",
        "forkpty",
        "getegid",
        "geteuid",
        "getgid",
        "getpgid",
        "getsid",
        "getuid",
        "killpg",
        "mkfifo",
    }
    | {"nice", "openpty", "pread", "pwrite", "sched_getaffinity", "setpgid", "setsid", "statvfs", "uname", "wait"},
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "alarm", "pause"},
    "time": {"tzset"},
}


def unguarded(tree: ast.AST, *, guarded: bool = False) -> Iterator[str]:
    """Yield what only POSIX has, unless a condition above it asks for the system or for the name."""
    for node in ast.iter_child_nodes(tree):
        safe = guarded
        match node:
            case ast.If(test=test) | ast.IfExp(test=test):
                safe |= "sys.platform" in ast.unparse(test) or "hasattr(" in ast.unparse(test)
            case ast.Import(names=names) if not guarded:
                yield from (one.name for one in names if one.name.split(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), names=names) if not guarded:
                found = NAMES.get(module, set())
                yield from (f"{module}.{one.name}" for one in names if module in MODULES or one.name in found)
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if name in NAMES.get(owner, ()) and not guarded:
                yield f"{owner}.{name}"
        yield from unguarded(node, guarded=safe)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import fcntl", ["fcntl"]),
        ("def f():\n    return os.fork()", ["os.fork"]),
        ("from signal import SIGKILL, SIGTERM", ["signal.SIGKILL"]),
        ("if sys.platform != 'win32':\n    import fcntl", []),
        ("cores = os.sched_getaffinity(0) if hasattr(os, 'sched_getaffinity') else 1", []),
        ("if True:\n    import resource", ["resource"]),
    ],
)
def test_the_search_sees_what_only_posix_has(code: str, found: list[str]) -> None:
    assert list(unguarded(ast.parse(code))) == found


def test_no_module_needs_what_only_posix_has() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 150
    read = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    assert {name: list(unguarded(tree)) for name, tree in read.items() if any(unguarded(tree))} == {}


def test_files_are_read_in_this_process_where_no_other_can_be_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert apart.call_apart(os.getpid) != os.getpid()
    monkeypatch.setattr(apart, "_IS_APART", False)
    assert apart.call_apart(os.getpid) == os.getpid()
