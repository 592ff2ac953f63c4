"""The bundle command as a user runs it."""

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import warm

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def clean_environment() -> dict[str, str]:
    """Return the environment of a user without settings for MLflow, one thread a process."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return clean | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def run_warm(clean_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs `python -m MODULE ARGUMENTS` in a folder, see `warm`: (module, arguments, folder)."""
    said = tmp_path_factory.mktemp("said") / "last"

    def run(module: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
        return warm.run(module, *arguments, folder=folder, environment=clean_environment, said=said)

    return run


@pytest.fixture(scope="session")
def run_cifar10(run_warm: Run) -> Run:
    """Return a function that runs the CIFAR-10 bundle in a folder: (run id, config files, folder, overrides)."""

    def run(run_id: str, files: tuple[str, ...], folder: Path, *overrides: object) -> subprocess.CompletedProcess[str]:
        paths = [str(BUNDLES / "cifar10" / name) for name in files]
        config = paths[0] if len(paths) == 1 else str(paths)
        return run_warm("monai.bundle", "run", run_id, "--config_file", config, *overrides, folder=folder)

    return run


@pytest.fixture(scope="session")
def kill_in_second_stage() -> Callable[..., None]:
    """Return a function that starts a training and kills it after its first epoch with the constraint."""

    def kill(command: Sequence[str], *, folder: Path, environment: dict[str, str]) -> None:
        with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("alm epoch 1/"):
                    process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL

    return kill
