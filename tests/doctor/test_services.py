"""The doctor's look at servers and stores: real ports, real files."""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from findings import the_one

from prostate_alm.doctor.findings import Finding
from prostate_alm.doctor.services import Node, check_orthanc, check_tracking

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
