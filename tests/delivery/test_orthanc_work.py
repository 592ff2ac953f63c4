"""One study in the real Orthanc: an attempt that is cut off anywhere is completed, and not repeated."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import orthanc_stand_in as stand_in
import pytest
import requests
from orthanc import MODEL, PACE, entry_of, states, watcher
from orthanc_server import fill

from prostate_alm.delivery.orthanc.client import METADATA_NUMBER, Backoff, NodeError, OrthancNode
from prostate_alm.delivery.orthanc.watch import Watcher
from prostate_alm.delivery.orthanc.work import Response

pytestmark = pytest.mark.usefixtures("own_temporary_folder")


class CutNode(OrthancNode):
    """A client that loses its server for good, in all its copies, before its n-th write of a kind."""

    def cut(self, method: str, path: str, number: int) -> CutNode:
        self.at, self.is_cut = [method, path, number], threading.Event()
        return self

    def another(self, backoff: Backoff | None = None) -> OrthancNode:
        copy = CutNode(self.url, backoff=Backoff(patience_s=0.0))
        copy.at, copy.is_cut = self.at, self.is_cut
        return copy

    def _patiently(self, method: str, path: str, *rest: Any) -> requests.Response:
        if (method, True) == (self.at[0], self.at[1] in path):
            self.at[2] -= 1
            if self.at[2] == 0:
                self.is_cut.set()
        if self.is_cut.is_set():
            raise NodeError("cut off")
        return super()._patiently(method, path, *rest)


@pytest.mark.parametrize(
    ("method", "path", "number", "left"),
    [
        ("PUT", "metadata", 1, {"MR": 15}),  # before the claim
        ("GET", "file", 3, {"MR": 15}),
        ("PUT", "metadata", 2, {"MR": 15}),  # before it announces
        ("POST", "instances", 1, {"MR": 15}),
        ("POST", "instances", 2, {"MR": 15, "SR": 1}),
        ("PUT", "metadata", 3, {"MR": 15, "SR": 1, "OT": 1}),  # before it is marked
    ],
)
def test_an_attempt_cut_off_anywhere_is_completed_not_repeated(
    server: Any, method: str, path: str, number: int, left: dict[str, int]
) -> None:
    (study,) = fill(server, "A")
    node = CutNode(server.url).cut(method, path, number)
    with pytest.raises(NodeError, match="cut off"):
        list(Watcher(node, stand_in.respond, model_sha256=MODEL, pace=replace(PACE, lease_s=60.0)).once())
    assert server.modalities(study) == left
    server.settle()
    # another machine gives numbers that differ, so that its report has other identifiers
    again = watcher(server, lambda folder: stand_in.respond(folder, logit=0.6))
    (outcome,) = again.once()
    assert (outcome.state, server.modalities(study)) == ("done", {"MR": 15, "SR": 1, "OT": 1})


def test_an_attempt_that_failed_while_storing_is_completed(server: Any) -> None:
    (study,) = fill(server, "A")
    stored: list[bytes] = []

    class FullNode(OrthancNode):
        def store(self, file: bytes, *, study: str) -> None:
            stored.append(file)
            if len(stored) == 2:
                raise NodeError("full")
            super().store(file, study=study)

    logits = iter((0.5, 0.6))
    answers = Watcher(
        FullNode(server.url), lambda folder: stand_in.respond(folder, logit=next(logits)), model_sha256=MODEL, pace=PACE
    ).once()
    assert states(list(answers)) == [("failed", "failed"), ("done", "answered")]
    assert server.modalities(study) == {"MR": 15, "SR": 1, "OT": 1}


def test_a_failing_study_is_tried_three_times_and_set_aside_without_identifiers(
    server: Any, own_temporary_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (study,) = fill(server, "A")

    def fails(folder: Path) -> Response:
        raise ValueError("Secret^A in " + str(folder))

    caplog.set_level("INFO")
    outcomes = list(watcher(server, fails).once())
    assert states(outcomes) == [("failed", "failed")] * 3 + [("set_aside", "failed")]
    assert [one.attempts for one in outcomes] == [1, 2, 3, 3]
    assert "ValueError at test_orthanc_work.py:" in entry_of(server, study).reason
    everything = caplog.text + str(outcomes) + str(server.get(f"/studies/{study}/metadata/{METADATA_NUMBER}"))
    assert "Secret" not in everything
    assert str(own_temporary_folder) not in everything
    again = watcher(server)
    again.redo(study)
    assert states(list(again.once())) == [("done", "answered")]
