"""How far a study is: the next entry by hand, and entries of several models and programs in the real Orthanc."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from orthanc import PACE, entry_of, states, watcher
from orthanc_server import fill

from prostate_alm.delivery.orthanc.client import METADATA_NUMBER, OrthancNode
from prostate_alm.delivery.orthanc.state import Entry, next_entry
from prostate_alm.delivery.orthanc.watch import Watcher
from prostate_alm.delivery.orthanc.work import Response

pytestmark = pytest.mark.usefixtures("own_temporary_folder")


def test_each_model_answers_and_the_others_entries_stay(server: Any) -> None:
    (study,) = fill(server, "A")
    list(watcher(server).once())
    node = OrthancNode(server.url)
    refuse = Watcher(node, lambda folder: Response("no_t2", "why"), model_sha256="b" * 64, pace=PACE)
    assert states(list(refuse.once())) == [("set_aside", "no_t2")]
    assert (entry_of(server, study).state, entry_of(server, study, "b" * 64).reason) == ("done", "why")


def test_the_metadata_of_another_program_stays(server: Any) -> None:
    (study,) = fill(server, "A")
    server.put(f"/studies/{study}/metadata/{METADATA_NUMBER}", "mine")
    assert states(list(watcher(server).once())) == [("set_aside", "foreign_metadata")]
    assert requests.get(f"{server.url}/studies/{study}/metadata/{METADATA_NUMBER}").text == "mine"


def test_the_next_entry_by_hand() -> None:
    def after(current: Entry | None, *, images: str = "x", is_abandoned: bool = False) -> Entry | None:
        return next_entry(current, images=images, watcher="me", most_attempts=2, is_abandoned=is_abandoned)

    def entry(state: Any, attempts: int = 1) -> Entry:
        return Entry(state=state, images="x", attempts=attempts, watcher="other", announced={"s": "u"})

    assert (
        after(entry("done")) is after(entry("set_aside")) is after(entry("claimed")) is after(entry("failed")) is None
    )
    assert after(entry("claimed"), images="y") is None
    for state in ("done", "set_aside", "failed", "due"):
        taken = after(entry(state), images="y")
        assert taken is not None
        assert (taken.state, taken.attempts, taken.watcher, taken.announced) == ("claimed", 1, "me", {})
    taken = after(entry("claimed"), is_abandoned=True)
    assert taken is not None
    assert (taken.attempts, taken.announced) == (2, {"s": "u"})
    given_up = after(entry("failed", 2), is_abandoned=True)
    assert given_up is not None
    assert (given_up.state, given_up.code) == ("set_aside", "failed")
