"""The watcher against the real Orthanc: every study answered once, whatever is killed when."""

from __future__ import annotations

import http.server
import json
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orthanc_server as tools
import orthanc_stand_in as stand_in
import pydicom
import pytest
import requests
from orthanc_server import fill

from prostate_alm.cli import main
from prostate_alm.delivery.orthanc.client import METADATA_NUMBER, Backoff, NodeError, OrthancNode, checked_url
from prostate_alm.delivery.orthanc.state import Entry, next_entry
from prostate_alm.delivery.orthanc.watch import Pace, WatchedStudy, Watcher
from prostate_alm.delivery.orthanc.work import Response, image_instances

HERE = Path(__file__).parent
STUDIES = 10
PACE = Pace(interval_s=0.05, quiet_s=0.0, lease_s=0.6, retry_s=0.1)


MODEL = stand_in.MODEL.sha256
OrthancServer = tools.OrthancServer
pytestmark = pytest.mark.usefixtures("own_temporary_folder")


def watcher(server: Any, respond: Callable[[Path], Response] = stand_in.respond, **pace: Any) -> Watcher:
    node = OrthancNode(server.url, backoff=Backoff(first_s=0.05, patience_s=5.0))
    return Watcher(node, respond, model_sha256=MODEL, pace=replace(PACE, **pace))


def entry_of(server: Any, study: str, model: str = MODEL) -> Entry:
    return Entry.model_validate(server.get(f"/studies/{study}/metadata/{METADATA_NUMBER}")["models"][model])


def states(outcomes: list[WatchedStudy]) -> list[tuple[str, str]]:
    return [(one.state, one.code) for one in outcomes]


@pytest.fixture
def start_stand_in() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that runs the stand-in on a server; what still runs at the end is killed."""
    started = []

    def start(server: Any, log: Path, seconds: float = 0.0) -> subprocess.Popen[str]:
        program = [sys.executable, str(HERE / "orthanc_stand_in.py"), server.url, str(log), str(seconds)]
        started.append(subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that starts a server with the test's own settings; it is killed at the end."""
    if tools.EXECUTABLE is None:
        pytest.skip("Orthanc is not installed (Debian: orthanc)")
    started = []

    def start(**settings: Any) -> Any:
        started.append(OrthancServer(tmp_path, **settings).start())
        return started[-1]

    yield start
    for one in started:
        one.kill()


def wait_for(condition: Callable[[], bool], limit_s: float = 180.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of broken associations
def test_ten_studies_are_answered_once_though_server_and_watcher_are_killed(
    start_server: Callable[..., Any], start_stand_in: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    server = start_server()
    log = tmp_path / "log"
    names = [f"S{number:02d}" for number in range(STUDIES)]
    todo = {name: tools.small_study(name) for name in names}
    todo["REFUSED"] = tools.small_study("REFUSED", b_values=())

    def send_until_taken(images: list[Any]) -> None:
        while not tools.send(server, images):
            time.sleep(0.1)

    def settled() -> int:
        try:
            studies = server.get("/studies")
            values = [requests.get(f"{server.url}/studies/{one}/metadata/{METADATA_NUMBER}").text for one in studies]
        except requests.ConnectionError:
            return -1
        return sum('"done"' in value or '"set_aside"' in value for value in values)

    first = start_stand_in(server, log, 0.05)
    senders = ThreadPoolExecutor(5)
    sent = [senders.submit(send_until_taken, images) for images in todo.values()]
    wait_for(lambda: settled() >= 3)
    server.kill()
    time.sleep(0.3)
    server.start()
    wait_for(lambda: settled() >= 6)
    first.kill()
    second = start_stand_in(server, log)
    for one in sent:
        one.result()
    wait_for(lambda: settled() == STUDIES + 1)
    time.sleep(tools.STABLE_AGE_S + 1.0)  # reports make their studies stable again, which must not count
    begun = len(log.read_text().splitlines())
    second.terminate()
    _, errors = second.communicate(timeout=20)
    first.communicate()

    studies = {
        server.get(f"/studies/{one}")["PatientMainDicomTags"]["PatientID"]: one for one in server.get("/studies")
    }
    refused = studies.pop("SECRET-REFUSED")
    assert sorted(studies) == [f"SECRET-{name}" for name in names]
    assert [server.modalities(one) for one in studies.values()] == [{"MR": 15, "SR": 1, "OT": 1}] * STUDIES
    assert {entry_of(server, one).state for one in studies.values()} == {"done"}
    assert server.modalities(refused) == {"MR": 5}
    assert (entry_of(server, refused).state, entry_of(server, refused).code) == ("set_aside", "no_diffusion")
    assert begun <= STUDIES + 3  # what the two kills cut off is begun again, nothing else
    assert second.returncode == 0
    # a server may close an idle connection while a request is on its way, which is tried again and told
    assert [line for line in errors.splitlines() if "trying again" not in line] == []
    for name in names if tools.DICOMWEB.exists() else []:
        (found,) = server.get(f"/dicom-web/studies/{tools.uid(name)}/series?Modality=SR")
        assert found["0020000D"]["Value"] == [tools.uid(name)]


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


def test_a_server_that_is_no_orthanc_is_one_line() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:  # answers 501
        threading.Thread(target=other.serve_forever, daemon=True).start()
        node = OrthancNode(f"http://127.0.0.1:{other.server_address[1]}", backoff=Backoff(first_s=0.01))
        with pytest.raises(NodeError, match="must be"):
            node.system()
        other.shutdown()


def test_two_watchers_share_the_studies(server: Any) -> None:
    studies = fill(server, *"ABCDEF")
    outcomes: list[WatchedStudy] = []

    def work() -> None:
        outcomes.extend(watcher(server, lease_s=30.0).once())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(one.study for one in outcomes if one.wall_s) == sorted(studies)
    assert {entry_of(server, study).attempts for study in studies} == {1}
    assert [server.modalities(study) for study in studies] == [{"MR": 15, "SR": 1, "OT": 1}] * 6


def test_a_living_watcher_keeps_a_study_longer_than_its_lease(server: Any) -> None:
    fill(server, "A")
    begun = threading.Event()

    def slow(folder: Path) -> Response:
        begun.set()
        time.sleep(2 * PACE.lease_s)
        return stand_in.respond(folder)

    outcomes: list[WatchedStudy] = []
    thread = threading.Thread(target=lambda: outcomes.extend(watcher(server, slow).once()))
    thread.start()
    begun.wait()
    assert [one for one in watcher(server).once() if one.wall_s] == []
    thread.join()
    assert states(outcomes) == [("done", "answered")]


def test_new_images_make_a_study_due_and_other_objects_do_not(server: Any) -> None:
    (study,) = fill(server, "A")
    assert states(list(watcher(server).once())) == [("done", "answered")]
    server.upload([tools.other_image("A", "PR")])
    server.settle()
    assert list(watcher(server).once()) == []
    server.upload([tools.other_image("A", "MR", number=9)])
    server.settle()
    assert len(image_instances(OrthancNode(server.url), study)) == 16
    (outcome,) = watcher(server).once()
    assert (outcome.state, outcome.attempts) == ("done", 1)
    assert server.modalities(study)["SR"] == 1  # the same images were chosen, so the report is the same


def test_a_study_of_another_modality_is_set_aside_unread(server: Any) -> None:
    study = server.upload([tools.other_image("CT", "CT")])
    (outcome,) = watcher(server, lambda folder: pytest.fail("it was read")).once()
    assert (outcome.study, outcome.state, outcome.code) == (study, "set_aside", "not_mr")
    assert list(watcher(server).once()) == []


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
    assert "ValueError at test_orthanc.py:" in entry_of(server, study).reason
    everything = caplog.text + str(outcomes) + str(server.get(f"/studies/{study}/metadata/{METADATA_NUMBER}"))
    assert "Secret" not in everything
    assert str(own_temporary_folder) not in everything
    again = watcher(server)
    again.redo(study)
    assert states(list(again.once())) == [("done", "answered")]


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


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_watcher_leaves_no_files_and_gives_the_study_back(
    server: Any,
    start_stand_in: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    own_temporary_folder: Path,
    sign: signal.Signals,
) -> None:
    (study,) = fill(server, "A")
    running = start_stand_in(server, tmp_path / "log", 300.0)
    wait_for((tmp_path / "log").exists)
    running.send_signal(sign)
    _, errors = running.communicate(timeout=60)  # long before its answer
    assert (running.returncode, errors) == (0, "")
    assert (entry_of(server, study).state, entry_of(server, study).attempts) == ("due", 0)
    assert list(own_temporary_folder.iterdir()) == []


def test_the_files_of_a_killed_watcher_are_removed_by_the_next(
    server: Any, start_stand_in: Callable[..., subprocess.Popen[str]], tmp_path: Path, own_temporary_folder: Path
) -> None:
    fill(server, "A")
    running = start_stand_in(server, tmp_path / "log", 30.0)
    wait_for((tmp_path / "log").exists)
    running.kill()
    running.communicate()
    assert len(list(own_temporary_folder.rglob("*.dcm"))) == 15
    assert states(list(watcher(server).once())) == [("done", "answered")]
    assert list(own_temporary_folder.iterdir()) == []


def test_a_packed_model_answers_from_the_command_line(
    server: Any, packed_file: Path, phantom_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.upload(pydicom.dcmread(path) for path in sorted(phantom_study.glob("*/*.dcm")))
    refused = server.upload(tools.small_study("NO-DIFFUSION", b_values=()))
    server.settle()
    (study,) = {*server.get("/studies")} - {refused}
    arguments = [
        "watch",
        server.url,
        "--model",
        str(packed_file),
        "--once",
        "--quiet",
        "0",
        "--interval",
        "0.1",
        "--json",
    ]
    heartbeat = tmp_path / "heartbeat"
    assert main([*arguments, "--heartbeat", str(heartbeat)]) == 1
    output = capsys.readouterr()
    lines = {line["study"]: (line["state"], line["code"]) for line in map(json.loads, output.out.splitlines())}
    assert lines == {study: ("done", "answered"), refused: ("set_aside", "no_diffusion")}
    assert output.err.endswith("Research use only, not for diagnosis.\n")
    assert heartbeat.exists()
    counts = server.modalities(study)
    assert (counts["SR"], counts["OT"]) == (1, 1)
    server.settle()
    assert main(arguments) == 0
    assert main([*arguments, "--redo", study]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert server.modalities(study) == counts
    for _ in range(2):  # asked for, what the model looked at is stored beside what is there, once
        assert main([*arguments, "--saliency", "--redo", study]) == 0
        server.settle()
        assert server.modalities(study) == counts | {"OT": 2}
    capsys.readouterr()
    assert "SR" not in server.modalities(refused)
    for _ in range(2):  # asked for, a refusal is told in the study itself, once
        assert main([*arguments, "--report-refusals", "--redo", refused]) == 1
        server.settle()
        assert server.modalities(refused)["SR"] == 1
    assert '"no_diffusion"' in capsys.readouterr().out
    assert main([*arguments, "--redo", "nobody"]) == 2
    assert "study must be in the server, got nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://me:secret@127.0.0.1", "--model", "x.zip"], "no user or password"),
        (["http://127.0.0.1", "--model", "x.zip", "--interval", "0"], "interval_s must be at least 0.01"),
        (["http://127.0.0.1", "--model", "x.zip", "--user", "me"], "user and password must come together"),
        (["http://127.0.0.1", "--model", "x.zip", "--ca-file", "absent.pem"], "ca_file must be a PEM file"),
        (["http://127.0.0.1", "--model", "absent.zip"], "absent.zip"),
    ],
)
def test_a_wrong_command_line_is_one_line_without_secrets(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "secret" not in line


def test_a_password_is_asked_for_and_a_wrong_one_refused(start_server: Callable[..., Any]) -> None:
    server = start_server(AuthenticationEnabled=True, RegisteredUsers={"watcher": "right"})
    assert OrthancNode(server.url, "watcher", "right").system()["CheckRevisions"]
    with pytest.raises(NodeError, match="must be ones that the server accepts, got HTTP 401"):
        OrthancNode(server.url, "watcher", "wrong").system()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:secret@127.0.0.1:8042", "no user or password"),
        ("ftp://127.0.0.1", "http:// or https://"),
        ("127.0.0.1:8042", "http:// or https://"),
        ("http://", "http:// or https://"),
        ("http://127.0.0.1:many", "cannot be read"),
        ("http://127.0.0.1/?token=secret", "end after its path"),
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_secrets(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checked_url(url)
    assert "secret" not in str(caught.value)


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
