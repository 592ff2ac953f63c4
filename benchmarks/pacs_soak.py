"""A PACS and its watchers under attack: is each study answered once? python benchmarks/pacs_soak.py 500 --seed 1.

A real Orthanc receives N small studies. Two watchers (real selection, report and capture, an invented logit) reach it
through a proxy that answers 500 in 5 % and is slow. Orthanc and the watchers are killed at random; one study in ten is
deleted at a random time, to another one in ten an image arrives late.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

HERE = Path(__file__).resolve().parents[1] / "tests" / "delivery"
sys.path.insert(0, str(HERE))  # the server and the stand-in of the tests

import orthanc_proxy  # noqa: E402
import orthanc_server  # noqa: E402
import orthanc_stand_in  # noqa: E402

from prostate_alm.delivery.orthanc.client import METADATA_NUMBER, OrthancNode  # noqa: E402
from prostate_alm.delivery.orthanc.work import digest_of, image_instances  # noqa: E402

FAULTS, SLOW_S = 0.05, 0.02
SENDERS, KILL_S, SETTLED_S, LIMIT_S = 4, (8.0, 24.0), 15, 7200.0


def main() -> None:
    options = _options()
    draw = random.Random(options.seed)
    fates = {
        f"S{number:04d}": draw.choices(["plain", "late", "deleted"], [8, 1, 1])[0] for number in range(options.studies)
    }
    with tempfile.TemporaryDirectory() as folder, Soak(Path(folder), draw) as soak:
        start = time.monotonic()
        killer = threading.Thread(target=soak.kill_at_random)
        killer.start()
        with ThreadPoolExecutor(SENDERS) as senders:
            for _ in senders.map(soak.send, fates.items()):
                pass
        settled_s = 0
        while settled_s < SETTLED_S and time.monotonic() - start < LIMIT_S:
            time.sleep(1.0)
            settled_s = 0 if soak.open() else settled_s + 1
        soak.is_over.set()
        killer.join()
        report(soak, fates, wall_s=time.monotonic() - start)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", type=int)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


class Soak:
    """The server, the proxy before it, and two watchers, which are killed and started again."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw, self.kills = folder, draw, Counter[str]()
        self.is_over = threading.Event()
        self.deleted: set[str] = set()
        self.peaks_mib: list[float] = []
        self.server = orthanc_server.OrthancServer(folder)
        self._meddling = random.Random(draw.random())

    def __enter__(self) -> "Soak":
        self.server.start()
        self._proxy = orthanc_proxy.MeddlingProxy(self.server.url, self._meddle).__enter__()
        self._watchers = [self._watcher(number) for number in range(2)]
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._watchers:
            one.kill()
        self._proxy.__exit__()
        self.server.kill()

    def _meddle(self, method: str, path: str) -> str | float:
        if self._meddling.random() < FAULTS:
            return self._meddling.choice(["refuse", "lose"])
        return self._meddling.expovariate(1.0 / SLOW_S)

    def _watcher(self, number: int) -> "subprocess.Popen[bytes]":
        program = [sys.executable, str(HERE / "orthanc_stand_in.py"), self._proxy.url, str(self.folder / "log"), "0.1"]
        out = (self.folder / f"watcher{number}").open("ab")
        return subprocess.Popen(program, stdout=out, stderr=out)

    def send(self, study: tuple[str, str]) -> None:
        """Store a study, and do to it what its fate says."""
        name, fate = study
        images = orthanc_server.small_study(name)
        identifier = self._until_taken(lambda: self.server.upload(images[:-1] if fate == "late" else images))
        if fate != "plain":
            time.sleep(self.draw.uniform(0.0, 4.0))
        if fate == "late":
            self._until_taken(lambda: self.server.upload(images[-1:]))
        if fate == "deleted":
            self._until_taken(lambda: requests.delete(f"{self.server.url}/studies/{identifier}", timeout=30))
            self.deleted.add(identifier)

    def _until_taken(self, do):  # type: ignore[no-untyped-def]
        while True:
            try:
                return do()
            except requests.RequestException:
                time.sleep(0.2)

    def kill_at_random(self) -> None:
        while not self.is_over.wait(self.draw.uniform(*KILL_S)):
            number = self.draw.randrange(3)
            self.kills["server" if number == 2 else "watcher"] += 1
            if number == 2:
                self.server.kill()
                time.sleep(self.draw.uniform(0.0, 1.0))
                self.server.start()
                continue
            self.measure(number)
            self._watchers[number].kill()
            self._watchers[number].wait()
            self._watchers[number] = self._watcher(number)

    def measure(self, number: int) -> None:
        try:
            status = Path(f"/proc/{self._watchers[number].pid}/status").read_text()
        except OSError:
            return
        self.peaks_mib.extend(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def open(self) -> int:
        """Return how many studies are not settled."""
        try:
            return sum(self.state(one)[0] not in ("done", "set_aside") for one in self.server.get("/studies"))
        except requests.RequestException:
            return 1

    def state(self, study: str) -> tuple[str, str]:
        """Return the state of a study and the digest of the images that it rests on."""
        answer = requests.get(f"{self.server.url}/studies/{study}/metadata/{METADATA_NUMBER}", timeout=30)
        entry = answer.json()["models"][orthanc_stand_in.MODEL.sha256] if answer.status_code == 200 else {}
        return entry.get("state", ""), entry.get("images", "")


def report(soak: Soak, fates: dict[str, str], *, wall_s: float) -> None:
    """Print what became of the studies, and end with code 1 where anything is not as it must be."""
    node, found, wrong = OrthancNode(soak.server.url), Counter[str](), []
    names = {}
    for study in soak.server.get("/studies"):
        name = soak.server.get(f"/studies/{study}")["PatientMainDicomTags"]["PatientID"].removeprefix("SECRET-")
        names[name] = study
        counts, (state, images) = soak.server.modalities(study), soak.state(study)
        reports = (counts.get("SR", 0), counts.get("OT", 0))
        is_right = state == "done" and images == digest_of(image_instances(node, study)) and counts.get("MR") == 15
        if is_right and reports == (1, 1):
            found["answered once"] += 1
        elif is_right and fates[name] == "late" and reports == (2, 2):
            found["late image after the answer: a second one"] += 1
        else:
            wrong.append((name, fates[name], state, counts))
    lost = [name for name, fate in fates.items() if (name in names) == (fate == "deleted")]
    found["deleted, and stayed so"] = len(soak.deleted) - len([one for one in lost if one in names])
    begun = len((soak.folder / "log").read_text().splitlines())
    soak.measure(0)
    soak.measure(1)
    print(f"{len(fates)} studies in {wall_s:.0f} s, {dict(soak.kills)} kills, {begun} answers begun: {dict(found)}")
    print(f"a watcher used at most {max(soak.peaks_mib):.0f} MiB")
    print(f"wrong: {wrong or 'none'}; lost or back: {lost or 'none'}")
    sys.exit(1 if wrong or lost else 0)


if __name__ == "__main__":
    main()
