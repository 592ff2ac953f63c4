"""A server in trouble, studies that vanish, images that come late: the real Orthanc, and a proxy that meddles."""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orthanc_proxy as proxies
import orthanc_server as tools
import orthanc_stand_in as stand_in
import pytest
import requests
from orthanc_server import fill

from prostate_alm.cli.watch import _run
from prostate_alm.delivery.orthanc.client import METADATA_NUMBER, Backoff, NodeError, OrthancNode
from prostate_alm.delivery.orthanc.watch import Pace, Watcher
from prostate_alm.delivery.orthanc.work import Response

HERE = Path(__file__).parent
PACE = Pace(interval_s=0.05, quiet_s=0.0, lease_s=5.0, retry_s=0.1)
ANSWERED = {"MR": 15, "SR": 1, "OT": 1}
MODEL = stand_in.MODEL.sha256
pytestmark = pytest.mark.usefixtures("own_temporary_folder")


def watcher(url: str, respond: Any = stand_in.respond, patience_s: float = 5.0, **pace: Any) -> Watcher:
    node = OrthancNode(url, backoff=Backoff(first_s=0.01, longest_s=0.05, patience_s=patience_s))
    return Watcher(node, respond, model_sha256=MODEL, pace=replace(PACE, **pace))


def attempts(server: Any, study: str) -> int:
    return int(server.get(f"/studies/{study}/metadata/{METADATA_NUMBER}")["models"][MODEL]["attempts"])


@pytest.mark.parametrize("how", ["refuse", "lose", "404"])
def test_every_third_answer_is_a_500_and_the_study_is_answered_once(server: Any, how: str) -> None:
    studies = fill(server, "A")
    numbers = itertools.count()
    with proxies.MeddlingProxy(server.url, lambda *_: how if next(numbers) % 3 == 2 else None) as proxy:
        outcomes = list(watcher(proxy.url).once())
    assert [(one.study, one.state, one.attempts) for one in outcomes] == [(studies[0], "done", 1)]
    assert server.modalities(studies[0]) == ANSWERED


@pytest.mark.parametrize(
    "request_", [("GET", "/series"), ("PUT", "/metadata"), ("GET", "/file"), ("POST", "/instances")]
)
def test_a_study_whose_requests_always_fail_keeps_no_other_waiting_and_is_told(
    server: Any, request_: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = fill(server, "A", "B")
    method, path = request_
    files = server.get(f"/studies/{bad}")["Series"]
    of_bad = {bad, *(one for series in files for one in server.get(f"/series/{series}")["Instances"])}

    def meddle(asked: str, where: str) -> str | None:
        is_bad = path == "/instances" or any(one in where for one in of_bad)
        return "refuse" if asked == method and path in where and is_bad else None

    with proxies.MeddlingProxy(server.url, meddle) as proxy:
        options = type("Options", (), {"once": True, "json": True})
        assert _run(watcher(proxy.url, patience_s=0.3), options) == 1
    lines = {one["study"]: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (lines[bad]["state"], f"got 500 for {method} /" in lines[bad]["reason"]) == ("unfinished", True)
    assert (lines[good]["state"] == "done") is (path != "/instances")
    (outcome, *_) = watcher(server.url, lease_s=0.2).once()  # the trouble is over: no attempt was lost
    assert (outcome.study, outcome.state, attempts(server, bad)) == (bad, "done", 1)
    assert server.modalities(bad) == ANSWERED


def test_what_a_server_that_goes_away_leaves_is_told(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (study,) = fill(server, "A")
    is_gone = threading.Event()

    def respond(folder: Path) -> Response:
        is_gone.set()
        raise ValueError

    with proxies.MeddlingProxy(server.url, lambda *_: "hang up" if is_gone.is_set() else None) as proxy:
        options = type("Options", (), {"once": True, "json": False})
        with pytest.raises(NodeError, match=r"must answer within 0\.3 s"):
            _run(watcher(proxy.url, respond, patience_s=0.3), options)
    assert f"{study} unfinished" in capsys.readouterr().out


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_study_that_is_deleted_while_its_answer_is_stored_stays_deleted(server: Any, number: int, when: str) -> None:
    (study,) = fill(server, "A")
    posts = itertools.count(1)

    def meddle(method: str, path: str) -> str | float | None:
        if (method, path) == ("POST", "/instances") and next(posts) == number:
            if when == "after":  # and the answer is lost, so that it is sent once more
                threading.Timer(0.1, lambda: requests.delete(f"{server.url}/studies/{study}")).start()
                return "lose"
            requests.delete(f"{server.url}/studies/{study}").raise_for_status()
        return 0.2 if method == "POST" and when == "after" else None

    with proxies.MeddlingProxy(server.url, meddle) as proxy:
        assert [one for one in watcher(proxy.url).once() if one.state == "done"] == []
    assert server.get("/studies") == []


class DeadNode(OrthancNode):
    """A client whose process dies, in all its copies, once it has stored an object in a study that was deleted."""

    is_dead = threading.Event()

    def another(self, backoff: Backoff | None = None) -> OrthancNode:
        return DeadNode(self.url, backoff=Backoff(patience_s=0.0))

    def store(self, file: bytes, *, study: str) -> None:
        requests.delete(f"{self.url}/studies/{study}")
        super().store(file, study=study)
        self.is_dead.set()

    def _patiently(self, *request: Any) -> requests.Response:
        if self.is_dead.is_set():
            raise NodeError("cut off")
        return super()._patiently(*request)


def test_what_a_watcher_stored_in_a_deleted_study_before_it_ended_is_taken_back_by_the_next(
    server: Any, own_temporary_folder: Path
) -> None:
    (study,) = fill(server, "A")
    with pytest.raises(NodeError, match="cut off"):
        list(Watcher(DeadNode(server.url), stand_in.respond, model_sha256=MODEL, pace=PACE).once())
    assert server.modalities(study) == {"SR": 1}  # the patient's name is back
    assert [one.name for one in own_temporary_folder.glob("*/*")] != []
    list(watcher(server.url).once())
    assert server.get("/studies") == []
    assert list(own_temporary_folder.iterdir()) == []


def test_an_image_that_arrives_while_the_study_is_fetched_leads_to_one_right_answer(server: Any) -> None:
    *early, late = tools.small_study("A")
    study = server.upload(early)
    server.settle()
    is_late = itertools.count()
    seen: list[int] = []

    def respond(folder: Path) -> Response:
        if next(is_late) == 0:
            server.upload([late])
        seen.append(len(list(folder.iterdir())))
        return stand_in.respond(folder, logit=len(seen) / 10)

    (outcome,) = watcher(server.url, respond).once()
    assert (outcome.state, outcome.attempts, seen) == ("done", 1, [14, 15])
    assert server.modalities(study) == ANSWERED


def test_what_was_stored_of_an_answer_to_fewer_images_is_taken_back(server: Any) -> None:
    (study,) = fill(server, "A")

    class CutNode(OrthancNode):
        def store(self, file: bytes, *, study: str) -> None:
            super().store(file, study=study)
            raise KeyboardInterrupt  # half of it is stored

    with pytest.raises(KeyboardInterrupt):
        list(Watcher(CutNode(server.url), stand_in.respond, model_sha256=MODEL, pace=PACE).once())
    assert server.modalities(study) == {"MR": 15, "SR": 1}
    server.upload([tools.other_image("A", "MR", number=9)])
    server.settle()
    assert [one.state for one in watcher(server.url, lambda at: stand_in.respond(at, logit=0.7)).once()] == ["done"]
    assert server.modalities(study) == ANSWERED | {"MR": 16}


def test_a_full_server_is_tried_again_until_there_is_room(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    if tools.EXECUTABLE is None:
        pytest.skip("Orthanc is not installed (Debian: orthanc)")
    server = tools.OrthancServer(small_disk).start()
    try:
        (study,) = fill(server, "A")
        ballast = small_disk / "ballast"

        def respond(folder: Path) -> Response:
            with ballast.open("ab", buffering=0) as stream:
                try:
                    while stream.write(bytes(4096)):
                        pass
                except OSError:
                    pass
            return stand_in.respond(folder)

        caplog.set_level(logging.WARNING)
        outcomes: list[Any] = []
        work = watcher(server.url, respond, patience_s=60.0, retry_s=0.0)
        thread = threading.Thread(target=lambda: outcomes.extend(work.once()))
        thread.start()
        while caplog.text.count("Trying again") < 4:  # more than the attempts of a study
            assert thread.is_alive()
            time.sleep(0.01)
        work._respond = stand_in.respond
        ballast.unlink()
        thread.join()
        assert [(one.state, one.attempts) for one in outcomes] == [("done", 1)]
        assert server.modalities(study) == ANSWERED
    finally:
        server.kill()


def test_no_room_for_the_images_is_waited_out(
    server: Any, small_disk: Path, fill_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (study,) = fill(server, "A")
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    ballast = fill_disk(24)
    threading.Timer(1.0, ballast.unlink).start()
    assert [(one.state, one.attempts) for one in watcher(server.url).once()] == [("done", 1)]
    assert server.modalities(study) == ANSWERED
