"""The watcher against the real Orthanc: every study answered once, whatever is killed when."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orthanc_server as tools
import orthanc_stand_in as stand_in
import pytest
import requests
from orthanc import PACE, entry_of, states, watcher
from orthanc_server import fill

from prostate_alm.delivery.orthanc.client import METADATA_NUMBER, OrthancNode
from prostate_alm.delivery.orthanc.watch import WatchedStudy
from prostate_alm.delivery.orthanc.work import Response, image_instances

HERE = Path(__file__).parent
STUDIES = 10


pytestmark = pytest.mark.usefixtures("own_temporary_folder")


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
