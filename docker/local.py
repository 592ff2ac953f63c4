"""The services of compose.yaml without Docker, on one machine: python docker/local.py FOLDER --model prostate.zip.

Orthanc (Debian: orthanc), the watcher and an MLflow server run with the settings of this folder, all on 127.0.0.1 and
with what they keep in FOLDER; one that ends is started again. Ctrl-C or SIGTERM ends all. For trying out, and for the
tests: nothing here limits memory or keeps a service from the network, as compose.yaml does.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVICES = ("orthanc", "watcher", "mlflow")
RESTART_S, FAREWELL_S = 2.0, 30.0


def main() -> None:
    """Run the services until a signal ends them."""
    options = _options()
    folder = options.folder.resolve()
    (folder / "orthanc").mkdir(parents=True, exist_ok=True)
    commands: dict[str, Callable[[], list[str]]] = {
        "orthanc": lambda: orthanc(folder, http=options.http_port, dicom=options.dicom_port),
        "watcher": lambda: watcher(folder, options),
        "mlflow": lambda: mlflow(folder, port=options.mlflow_port),
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while True:
            for name in options.services:
                if name not in running or running[name].poll() is not None:
                    running[name] = start(name, commands[name](), folder)
            time.sleep(RESTART_S)
    except KeyboardInterrupt:
        pass
    finally:
        stop(list(running.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of all that is kept; made where absent")
    parser.add_argument("--model", type=Path, required=True, help="packed model")
    parser.add_argument("--trust", type=Path, help="keys or hashes of the models that are taken, see docs/packing.md")
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=list(SERVICES))
    parser.add_argument("--http-port", type=int, default=8042)
    parser.add_argument("--dicom-port", type=int, default=4242)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    return parser.parse_args()


def orthanc(folder: Path, *, http: int, dicom: int) -> list[str]:
    """Return the command of Orthanc: orthanc.json and modalities.json as they are, but for places, ports and users."""
    program = shutil.which("Orthanc")
    if program is None:
        sys.exit("error: Orthanc must be installed, got none. On Debian: sudo apt-get install orthanc")
    settings = {
        **json.loads((HERE / "orthanc.json").read_text(encoding="utf-8")),
        **json.loads((HERE / "modalities.json").read_text(encoding="utf-8")),
        "StorageDirectory": str(folder / "orthanc"), "IndexDirectory": str(folder / "orthanc"),
        "HttpPort": http, "DicomPort": dicom, "RemoteAccessAllowed": False,
        "RegisteredUsers": {"watcher": password(folder)},
    }  # fmt: skip
    config = folder / "orthanc.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return [program, str(config)]


def password(folder: Path) -> str:
    """Return the watcher's password, which is made at the first start."""
    file = folder / "orthanc_password"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(24), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def watcher(folder: Path, options: argparse.Namespace) -> list[str]:
    """Return the command of the watcher, as in compose.yaml."""
    password(folder)
    trust = ["--trust", str(options.trust.resolve())] if options.trust else []
    return [
        sys.executable, "-m", "prostate_alm.cli", "watch", f"http://127.0.0.1:{options.http_port}",
        f"--model={options.model.resolve()}", "--user=watcher", f"--password-file={folder / 'orthanc_password'}",
        f"--heartbeat={folder / 'heartbeat'}", *trust,
    ]  # fmt: skip


def mlflow(folder: Path, *, port: int) -> list[str]:
    """Return the command of the MLflow server, with a file in place of PostgreSQL."""
    return [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "mlartifacts"),
        "--allowed-hosts", f"127.0.0.1:{port},localhost:{port}",
    ]  # fmt: skip


def start(name: str, command: list[str], folder: Path) -> "subprocess.Popen[bytes]":
    """Start a service whose output goes to NAME.log."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def stop(processes: "list[subprocess.Popen[bytes]]") -> None:
    """End all, the last started first: the watcher gives its study back while Orthanc is there."""
    for one in reversed(processes):
        one.terminate()
        try:
            one.wait(FAREWELL_S)
        except subprocess.TimeoutExpired:
            one.kill()


if __name__ == "__main__":
    main()
