"""The doctor against real ports, folders, stores and processes: what it says, and that it is quick."""

import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import torch

from prostate_alm.cli import main
from prostate_alm.doctor.findings import Finding, run_checks
from prostate_alm.doctor.hardware import check_hardware, in_words
from prostate_alm.doctor.installation import (
    Tool,
    check_bundles,
    check_extras,
    check_folder,
    check_packages,
    check_places,
    check_python,
    check_tools,
)
from prostate_alm.doctor.services import Node, check_orthanc, check_tracking
from prostate_alm.dtype import fastest_dtype

ORTHANC = {"ApiVersion": 24, "Name": "Orthanc", "Version": "1.12.6", "CheckRevisions": True}


@contextmanager
def served(server: HTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def answering(status: int, body: str, *, password: str = "") -> HTTPServer:
    """Return a server on a free port that answers any GET; with a password, only to those who give it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            refused = password and self.headers.get("Authorization") != password
            self.send_response(401 if refused else status)
            self.end_headers()
            self.wfile.write(b"" if refused else body.encode())

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return HTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def closed_port() -> str:
    """Return the URL of a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def the_one(found: list[Finding]) -> Finding:
    (finding,) = found
    return finding


@pytest.mark.parametrize(
    ("system", "level", "words"),
    [
        (json.dumps(ORTHANC), "ok", "Orthanc 1.12.6 at http"),
        (json.dumps({**ORTHANC, "CheckRevisions": False}), "note", "without CheckRevisions"),
        ("<html>", "problem", "not as Orthanc does"),
        ("[]", "problem", "not as Orthanc does"),
    ],
)
def test_an_orthanc_is_known_by_its_answer(system: str, level: str, words: str) -> None:
    with served(answering(200, system)) as url:
        found = the_one(check_orthanc(Node(url + "/", is_named=True)))
    assert found.level == level
    assert words in found.found
    assert bool(found.advice) == (level != "ok")


def test_an_orthanc_with_a_password_takes_the_right_one_only() -> None:
    server = answering(200, json.dumps(ORTHANC), password="Basic d2F0Y2hlcjpzZWNyZXQ=")  # of RFC 7617: watcher:secret
    with served(server) as url:
        assert check_orthanc(Node(url, is_named=True, login=("watcher", "secret")))[0].level == "ok"
        wrong = the_one(check_orthanc(Node(url, is_named=True, login=("watcher", "wrong-one"))))
    assert (wrong.level, "HTTP 401" in wrong.found, "wrong-one" in wrong.found + wrong.advice) == (
        "problem",
        True,
        False,
    )


def test_an_absent_orthanc_is_a_problem_only_when_asked_for(closed_port: str) -> None:
    assert the_one(check_orthanc(Node(closed_port))).level == "note"
    assert the_one(check_orthanc(Node(closed_port, is_named=True))).level == "problem"


def test_a_server_that_accepts_and_says_nothing_costs_a_second() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        found = the_one(check_orthanc(Node(f"http://127.0.0.1:{silent.getsockname()[1]}", is_named=True)))
        assert (found.level, "Timeout" in found.found) == ("problem", True)
        assert time.monotonic() - start < 3


def test_mlflow_is_known_by_its_own_health(closed_port: str) -> None:
    from mlflow.server import app

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with served(make_server("127.0.0.1", 0, app, handler_class=Quiet)) as url:
        assert the_one(check_tracking(url)) == Finding("tracking", "ok", f"MLflow answers at {url}")
    with served(answering(404, "")) as url:
        assert "not as MLflow does" in the_one(check_tracking(url)).found
    away = the_one(check_tracking(closed_port.replace("//", "//me:secret@")))
    assert (away.level, "track sync" in away.advice) == ("problem", True)
    assert "secret" not in away.found


def test_a_store_of_mlflow_counts_its_runs(tmp_path: Path) -> None:
    from prostate_alm.tracking.store import open_store

    uri, path = f"sqlite:///{tmp_path / 'a b.db'}", tmp_path / "a b.db"
    assert "will be made" in the_one(check_tracking(uri)).found
    store = open_store(uri)
    store.create_run(store.create_experiment("x"))
    assert the_one(check_tracking(uri)) == Finding("tracking", "ok", f"{path}, 1 runs")
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    assert the_one(check_tracking(uri)).level == "note"
    other.close()


def test_what_is_no_store_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is text, not a database of SQLite\n" * 10)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE patients (name)")
    other.close()
    for name in ("text.db", "other.db"):
        found = the_one(check_tracking(f"sqlite:///{tmp_path / name}"))
        assert (found.level, "no store of MLflow" in found.found) == ("problem", True)


def test_other_stores(tmp_path: Path) -> None:
    assert the_one(check_tracking(str(tmp_path))).level == "ok"
    assert the_one(check_tracking("none")).level == "note"
    database = the_one(check_tracking("postgresql://me:secret@db/mlflow?password=secret"))
    assert (database.level, database.found) == ("note", "postgresql://db/mlflow is not checked here")


def test_space_is_compared_with_what_is_needed(tmp_path: Path) -> None:
    status = subprocess.run(["df", "--output=avail", "-B1", tmp_path], capture_output=True, text=True, check=True)
    free_gb = int(status.stdout.split()[-1]) / 1e9
    for needed_gb, comfortable_gb, level in (
        (0, 0, "ok"),
        (0, 10 * free_gb, "note"),
        (10 * free_gb,) * 2 + ("problem",),
    ):
        found = check_folder("disk", tmp_path / "new" / "sub", needed_gb=needed_gb, comfortable_gb=comfortable_gb)
        assert (found.level, bool(found.advice)) == (level, level != "ok")
        assert float(found.found.split()[0]) == pytest.approx(free_gb, abs=2)  # others write, too
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_to_is_a_problem() -> None:
    found = check_folder("results", Path("/proc/self/outputs"), needed_gb=0)
    assert (found.level, "cannot be written to" in found.found) == ("problem", True)
    assert the_one([one for one in check_places(Path("/proc/outputs")) if one.level == "problem"]).check == "results"
    assert the_one(check_tracking("sqlite:////proc/mlflow.db")).level == "problem"


def test_packages_are_compared_with_the_declared_ranges() -> None:
    assert the_one(check_packages()).level == "ok"  # the tests run in an installation
    assert {one.level for one in [*check_python(), *check_bundles()]} == {"ok"}
    missing, old = check_packages(["torch>=2", "no-such-package-at-all>=1", "torch>=999"])
    assert (missing.level, missing.found) == ("problem", "no-such-package-at-all is not installed")
    assert old.found.endswith("is not >=999")
    assert old.advice == "pip install 'torch>=999'"
    extras = {one.check: one for one in check_extras()}
    assert list(extras) == [f"extra {name}" for name in ("dicom", "serve", "train", "onnx", "ray")]
    assert {extras[f"extra {name}"].level for name in ("dicom", "serve", "train")} == {"ok"}
    assert "pydicom 3" in extras["extra dicom"].found


def test_late_and_broken_checks_stop_nobody() -> None:
    blocked = threading.Event()

    def fails() -> list[Finding]:
        raise RuntimeError("first\nsecond")

    def waits() -> list[Finding]:
        blocked.wait(60)
        return []

    good = Finding("good", "ok", "here")
    start = time.monotonic()
    found = run_checks({"late": waits, "broken": fails, "good": lambda: [good]}, deadline_s=0.5)
    assert time.monotonic() - start < 5
    blocked.set()
    assert [(one.check, one.level) for one in found] == [("late", "note"), ("broken", "note"), ("good", "ok")]
    assert found[1].found == "could not be checked: RuntimeError: first"


def test_torch_is_asked_in_its_own_process() -> None:
    found = {one.check: one for one in check_hardware(timeout_s=120)}
    assert found["torch"].found.startswith(torch.__version__)
    native = fastest_dtype(torch.device("cpu")) == torch.bfloat16
    assert f"processor: {'yes' if native else 'no'}" in found["bfloat16"].found
    assert (found["cuda"].level == "ok") == torch.cuda.is_available()
    assert found["convolutions"].level in ("ok", "note")  # how fast they are is the processor's; right they must be


@pytest.mark.parametrize(
    ("dtype", "times_as_fast", "error", "level"),
    [
        ("torch.bfloat16", 1.5, 0.003, "ok"),
        ("torch.bfloat16", 0.2, 0.003, "note"),
        ("torch.float32", 0.2, 0.003, "ok"),  # emulated, and so not used
        ("torch.bfloat16", 1.5, 0.19, "problem"),
    ],
)
def test_bfloat16_is_doubted_where_it_is_wrong_or_slow(
    dtype: str, times_as_fast: float, error: float, level: str
) -> None:
    compared = {"2D": {"times_as_fast": 2.0, "error": 0.003}, "3D": {"times_as_fast": times_as_fast, "error": error}}
    described = {"torch": "2.8.0", "threads": 2, "cpu_dtype": dtype, "gpus": [], "built_for": None}
    found = in_words(described | {"convolutions": compared}, has_driver=False)
    assert {one.check: one.level for one in found}["convolutions"] == level


def test_torch_that_is_slow_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert the_one(check_hardware(timeout_s=0.01)).level == "note"
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = the_one(check_hardware(timeout_s=120))
    assert (found.level, found.found.endswith("libcudart.so.12: cannot open shared object file")) == ("problem", True)


GPU = {"name": "A", "capability": "9.0", "free_gb": 70.0, "total_gb": 80.0, "dtype": "torch.bfloat16"}


@pytest.mark.parametrize(
    ("described", "has_driver", "level", "words"),
    [
        ({"gpus": [GPU], "built_for": "12.8"}, True, "ok", "A, 70.0 of 80.0 GB free, compute capability 9.0"),
        ({"gpus": [{"name": "A", "error": "no kernel image"}]}, True, "problem", "cannot compute: no kernel image"),
        ({"built_for": "12.8"}, True, "problem", "built for 12.8, finds no GPU"),
        ({"built_for": None}, True, "note", "built for processors only"),
        ({"built_for": "12.8"}, False, "note", "no GPU"),
    ],
)
def test_a_gpu_that_is_there_must_be_usable(
    described: Mapping[str, object], has_driver: bool, level: str, words: str
) -> None:
    usual = {"torch": "2.8.0", "threads": 2, "cpu_dtype": "torch.float32", "gpus": [], "built_for": None}
    found = {one.check: one for one in in_words({**usual, **described}, has_driver=has_driver)}
    assert found["cuda"].level == level
    assert words in found["cuda"].found
    assert "processor: no" in found["bfloat16"].found
    assert ("A: yes" in found["bfloat16"].found) == (level == "ok")


def test_programs_are_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool(("no-such-tool", "dummy-tool"), "does nothing", "nowhere")
    assert the_one(check_tools((tool,))).level == "note"
    (tmp_path / "dummy-tool").write_text("#!/bin/sh\n")
    (tmp_path / "dummy-tool").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert the_one(check_tools((tool,))).found == f"{tmp_path / 'dummy-tool'}: does nothing"


def test_the_command_is_quick_imports_no_framework_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; start = time.monotonic(); from prostate_alm.cli import main\n"
        "code = main(['doctor', '--json']); wall_s = time.monotonic() - start\n"
        "assert not set(sys.modules) & {'torch', 'monai', 'mlflow', 'ignite', 'numpy', 'pydicom'}, 'a framework'\n"
        "assert wall_s < 8, wall_s\n"  # five on a machine that is not busy
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stderr, list(tmp_path.iterdir())) == ("", [])
    told = json.loads(done.stdout)
    levels = [one["level"] for one in told["findings"]]
    assert (told["problems"], told["notes"]) == (levels.count("problem"), levels.count("note"))
    assert done.returncode == (1 if told["problems"] else 0)


def test_the_command_ends_with_1_when_a_named_server_is_away(
    closed_port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed_port)
    assert main(["doctor", "--orthanc", closed_port]) == 1
    lines = capsys.readouterr().out.splitlines()
    problems = [line.split()[1] for line in lines if line.startswith("problem ")]
    assert {"tracking", "orthanc"} <= set(problems)
    assert lines[-1].startswith(f"{len(problems)} problems, ")
    assert main(["doctor", "--orthanc", "ftp://x"]) == 2
    assert "URL must begin with http" in capsys.readouterr().err
