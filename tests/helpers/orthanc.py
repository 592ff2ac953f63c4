"""The real Orthanc for tests of a watcher, watchers that answer without a network, and what they left there."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orthanc_server
import orthanc_stand_in
import pytest

from prostate_alm.delivery.orthanc.client import METADATA_NUMBER, Backoff, OrthancNode
from prostate_alm.delivery.orthanc.state import Entry
from prostate_alm.delivery.orthanc.watch import Pace, WatchedStudy, Watcher
from prostate_alm.delivery.orthanc.work import Response

MODEL = orthanc_stand_in.MODEL.sha256
PACE = Pace(interval_s=0.05, quiet_s=0.0, lease_s=0.6, retry_s=0.1)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the real Orthanc, for the tests of a file, or skip."""
    if orthanc_server.EXECUTABLE is None:
        pytest.skip("Orthanc is not installed (Debian: orthanc)")
    server = orthanc_server.OrthancServer(tmp_path_factory.mktemp("orthanc")).start()
    yield server
    server.kill()


@pytest.fixture
def server(running: Any) -> Any:
    """Return the real Orthanc without studies."""
    running.wipe()
    return running


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the watchers of a test their own folder for temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a server with the test's own settings; it is killed at the end."""
    if orthanc_server.EXECUTABLE is None:
        pytest.skip("Orthanc is not installed (Debian: orthanc)")
    started = []

    def start(**settings: Any) -> Any:
        started.append(orthanc_server.OrthancServer(tmp_path, **settings).start())
        return started[-1]

    yield start
    for one in started:
        one.kill()


def watcher(server: Any, respond: Callable[[Path], Response] = orthanc_stand_in.respond, **pace: Any) -> Watcher:
    """Return a watcher of a server that hurries."""
    node = OrthancNode(server.url, backoff=Backoff(first_s=0.05, patience_s=5.0))
    return Watcher(node, respond, model_sha256=MODEL, pace=replace(PACE, **pace))


def entry_of(server: Any, study: str, model: str = MODEL) -> Entry:
    """Return the entry of a study as the server holds it."""
    return Entry.model_validate(server.get(f"/studies/{study}/metadata/{METADATA_NUMBER}")["models"][model])


def states(outcomes: list[WatchedStudy]) -> list[tuple[str, str]]:
    """Return state and code of each outcome."""
    return [(one.state, one.code) for one in outcomes]
