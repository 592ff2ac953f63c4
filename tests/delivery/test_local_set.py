"""The services of docker/ without Docker: who may store, who may look, and how all end."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orthanc_server as tools
import pydicom
import pytest
import requests
import yaml
from pynetdicom import AE

DOCKER = Path(__file__).resolve().parents[2] / "docker"


@pytest.fixture
def local(packed_file: Path, tmp_path: Path) -> Iterator[tuple[Path, str, int, Any]]:
    """Start Orthanc and the watcher; give their folder, Orthanc's URL and DICOM port, and the process."""
    if tools.EXECUTABLE is None:
        pytest.skip("Orthanc is not installed (Debian: orthanc)")
    http, dicom = tools._free_ports(2)
    command = [sys.executable, str(DOCKER / "local.py"), str(tmp_path / "set"), "--model", str(packed_file)]
    ports = ["--http-port", str(http), "--dicom-port", str(dicom), "--services", "orthanc", "watcher"]
    with subprocess.Popen([*command, *ports]) as process:
        yield tmp_path / "set", f"http://127.0.0.1:{http}", dicom, process
        process.kill()


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_up(url: str) -> bool:
    try:
        return requests.get(f"{url}/system", timeout=5).status_code == 401  # not without a password
    except requests.ConnectionError:
        return False


def stored(port: int, sender: str, called: str, image: pydicom.Dataset) -> bool:
    entity = AE(ae_title=sender)
    entity.add_requested_context(image.SOPClassUID, image.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return False
    answer = association.send_c_store(image)
    association.release()
    return getattr(answer, "Status", None) == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of refused associations
def test_known_scanners_store_known_users_look_and_all_end_together(
    local: tuple[Path, str, int, Any], phantom_study: Path
) -> None:
    folder, url, dicom, process = local
    wait_for(lambda: is_up(url))
    image = pydicom.dcmread(next(phantom_study.glob("*/*.dcm")))
    assert not stored(dicom, "STRANGER", "PROSTATE", image)
    assert not stored(dicom, "SCANNER", "OTHER", image)
    user = ("watcher", (folder / "orthanc_password").read_text())
    assert requests.get(f"{url}/instances", auth=user, timeout=10).json() == []
    assert stored(dicom, "SCANNER", "PROSTATE", image)
    assert len(requests.get(f"{url}/instances", auth=user, timeout=10).json()) == 1
    assert (folder / "orthanc.json").stat().st_mode & 0o077 == 0
    wait_for((folder / "heartbeat").exists)
    process.terminate()
    assert process.wait(60) == 0
    assert not is_up(url)
    assert "Traceback" not in (folder / "watcher.log").read_text()


def test_compose_limits_each_service_and_gives_strangers_no_way_out() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    internal = {name for name, one in compose["networks"].items() if (one or {}).get("internal")}
    for name, service in compose["services"].items():
        assert {"mem_limit", "pids_limit", "cpus", "healthcheck", "logging"} <= service.keys(), name
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "ports" in service or set(service["networks"]) <= internal, name
    settings = json.loads((DOCKER / "orthanc.json").read_text(encoding="utf-8"))
    assert settings["DicomAlwaysAllowStore"] is False
    assert "--allowed-hosts" in compose["services"]["mlflow"]["command"][0]


def test_compose_pins_what_it_pulls_and_knows_no_password() -> None:
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for name, service in services.items():
        pinned = re.fullmatch(r"\$\{\w+_IMAGE:-[a-z/]+:\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?\}", service["image"])
        assert "build" in service or pinned, name
        secret = [variable for variable in service.get("environment", {}) if "PASSWORD" in variable]
        assert all(variable.endswith("_FILE") for variable in secret), name


def test_images_are_pinned_by_what_their_registries_say(tmp_path: Path) -> None:
    """A program in the place of docker answers as `docker buildx imagetools inspect --format` does."""
    shutil.copytree(DOCKER, tmp_path, dirs_exist_ok=True)
    program = tmp_path / "docker"
    script, environment = [sys.executable, str(tmp_path / "pins.py")], {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    before = (tmp_path / "compose.yaml").read_text()
    program.write_text("#!/bin/sh\necho no such host >&2\nexit 1\n")
    program.chmod(0o755)
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n"), "no such host" in done.stderr) == (1, 1, True)
    assert (tmp_path / "compose.yaml").read_text() == before
    for digit in "ab":  # the second call replaces what the first has written
        program.write_text(f"#!/bin/sh\necho sha256:{digit * 64}\n")
        subprocess.run(script, env=environment, capture_output=True, check=True)
        services = yaml.safe_load((tmp_path / "compose.yaml").read_text())["services"]
        pulled = [one["image"] for one in services.values() if "build" not in one]
        pulled += [
            line for line in (tmp_path / "Dockerfile").read_text().splitlines() if line.startswith("ARG PYTHON_")
        ]
        assert len(pulled) >= 3
        assert all(re.search(rf":[\w.-]+@sha256:{digit * 64}\}}?$", one) for one in pulled), pulled
