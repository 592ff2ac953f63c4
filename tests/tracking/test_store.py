"""A tracking server that is down, dies half way, never answers, or is none; real servers on the loopback."""

import functools
import http.server
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from prostate_alm import tracking

START_LIMIT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`mlflow server` on a folder and a port; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        tracking.prepare_store(f"sqlite:///{folder}/mlflow.db", "cifar10")  # quicker than the server's own way

    def start(self) -> None:
        store = ("--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db")
        files = ("--artifacts-destination", str(self.folder / "artifacts"))
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1", *store, *files]
        log = (self.folder / "server.log").open("a")
        self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        log.close()
        end = time.monotonic() + START_LIMIT_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < end, (self.folder / "server.log").read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # with its workers, which are in the session that it leads
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.kill()


def start(uri: str, folder: Path | None = None, *, flush_interval_s: float = 0.0) -> tracking.MemberRun:
    new = tracking.NewRun("cifar10", "bce-alm", "member-03", {"bundle": "cifar10"}, folder=folder)
    return tracking.start_member_run(new, tracking_uri=uri, flush_interval_s=flush_interval_s)


def epochs(count: int) -> list[dict[str, float]]:
    return [{"step": float(step), "val_auc": step / 10} for step in range(1, count + 1)]


def write_results(folder: Path, *, rows: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"bundle": "cifar10", "settings": {"loss": "bce", "alm": true, "member": 3}}')
    lines = [f"{int(row['step'])},{row['val_auc']}" for row in epochs(rows)]
    (folder / "history.csv").write_text("\n".join(["step,val_auc", *lines]) + "\n")
    (folder / "metrics.json").write_text('{"validation": {"auc": 0.8}, "test": {"auc": 0.9}}')


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("prostate_alm")]


def warning(uri: str, folder: Path | str) -> str:
    return (
        f"MLflow at {uri} cannot be reached: results stay on disk; log them later with: "
        f"prostate-alm track sync {folder} --tracking_uri {uri}"
    )


def test_a_server_that_is_down_costs_a_warning_and_seconds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    began = time.monotonic()
    assert tracking.prepare_store(uri, "cifar10") is False
    run = start(uri, tmp_path)
    run.log_params({"mu0": 0.2})
    run.log_epochs(epochs(3))
    run.finish()
    assert time.monotonic() - began < 15
    assert run.identity() == {}
    assert warnings_in(caplog) == [warning(uri, "outputs")]
    with pytest.raises(tracking.StoreUnreachableError, match=f"MLflow at {uri} cannot be reached"):
        tracking.sync_results(tmp_path, tracking_uri=uri)


def test_an_ensemble_is_finished_without_its_server(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "ensemble.json").write_text('{"bundle": "cifar10"}')
    assert tracking.start_ensemble_run(tmp_path, tracking_uri=uri) is None
    (tmp_path / "metrics.json").write_text('{"members": []}')
    assert tracking.log_ensemble(tmp_path, tracking_uri=uri) is None
    tracking.fail_ensemble_run("0" * 32, tracking_uri=uri)
    assert warnings_in(caplog) == [warning(uri, tmp_path)]


@pytest.mark.slow
def test_training_outlives_its_server_and_what_is_missing_is_logged_later(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "outputs" / "run-001"
    assert tracking.prepare_store(server.uri, "cifar10") is True
    run = start(server.uri, folder)
    run.log_epochs(epochs(2))
    server.kill()
    run.log_epochs(epochs(3))
    run.log_epochs(epochs(4))
    write_results(folder, rows=4)
    (folder / "tracking.json").write_text(json.dumps(run.identity()))
    run.finish()
    assert warnings_in(caplog) == [warning(server.uri, folder)]

    server.start()
    client = MlflowClient(server.uri)
    history = client.get_metric_history(run.run_id, "val_auc")
    assert [entry.step for entry in history] == [1, 2]
    assert client.get_run(run.run_id).info.status == "RUNNING"
    assert tracking.sync_results(tmp_path / "outputs", tracking_uri=server.uri).logged == (folder,)
    history = client.get_metric_history(run.run_id, "val_auc")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    for run_id in (run.run_id, run.parent_id):
        logged = client.get_run(run_id)
        assert (logged.info.status, logged.data.metrics["test_auc"]) == ("FINISHED", 0.9)
        files = {file.path for file in client.list_artifacts(run_id)}
        assert files == {"config.json", "history.csv", "metrics.json"}
    assert tracking.sync_results(tmp_path / "outputs", tracking_uri=server.uri).logged == ()


def test_a_server_that_never_answers_is_away(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert tracking.prepare_store(uri, "cifar10") is False
    assert warnings_in(caplog) == [warning(uri, "outputs")]


def test_a_server_of_something_else_is_no_store(tmp_path: Path) -> None:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{other.server_address[1]}"
        with pytest.raises(ValueError, match="tracking_uri must be a store that MLflow can write to, got http"):
            tracking.prepare_store(uri, "cifar10")
        other.shutdown()


def test_a_store_that_breaks_half_way_stops_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "prostate_alm")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking.prepare_store(uri, "cifar10")
    run = start(uri, tmp_path / "run-001")
    (tmp_path / "mlflow.db").write_text("no database any more" * 100)
    run.log_epochs(epochs(2))
    run.fail()
    (message,) = warnings_in(caplog)
    assert message.startswith(f"MLflow at {uri} failed (")
    assert message.endswith(f"prostate-alm track sync {tmp_path}/run-001 --tracking_uri {uri}")
