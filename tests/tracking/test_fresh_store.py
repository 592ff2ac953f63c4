"""A store whose maker is killed, and a run that is killed between its results and MLflow: nothing is lost for good."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from prostate_alm import tracking
from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.tracking import fresh_store
from prostate_alm.training.fanout_worker import run_bundle_command

CONFIG_FILE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10" / "train.json"
MAKE = "import sys; from prostate_alm.tracking.store import open_store; open_store(sys.argv[1])"
DIE_AFTER_THE_RESULTS = """
import os, runpy, signal, sys
from prostate_alm.training import member
write = member.write_results
def write_and_die(*given):
    write(*given)
    os.kill(os.getpid(), signal.SIGKILL)
member.write_results = write_and_die
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with its tables."""
    path = tmp_path_factory.mktemp("made") / "mlflow.db"
    fresh_store.ensure_made(path)
    return path


@pytest.fixture(scope="module")
def half_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a process leaves that is killed while it makes a store."""
    path = tmp_path_factory.mktemp("killed") / "mlflow.db"
    making = path.with_name("mlflow.db.making")
    with subprocess.Popen([sys.executable, "-c", MAKE, f"sqlite:///{path}"], stderr=subprocess.DEVNULL) as maker:
        while not making.exists() or making.stat().st_size < 100_000:
            assert maker.poll() is None
            time.sleep(0.001)
        maker.kill()
    assert not path.exists()
    return making


@pytest.mark.slow
def test_a_store_whose_maker_was_killed_is_made_by_the_next(
    half_made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(half_made, path.with_name("mlflow.db.making"))
    shutil.copy(half_made, path)  # what versions before 0.1 and `mlflow ui` leave
    assert fresh_store.is_half_made(path)
    os.utime(path, (0, 0))
    assert tracking.prepare_store(f"sqlite:///{path}", "after")
    assert MlflowClient(f"sqlite:///{path}").get_experiment_by_name("after") is not None
    assert path.with_name("mlflow.db.half-made-1").read_bytes() == half_made.read_bytes()
    assert sorted(one.name for one in tmp_path.glob("*.db*")) == [
        "mlflow.db",
        "mlflow.db.half-made-1",
        "mlflow.db.lock",
    ]
    assert "left half-made, without runs: put aside" in caplog.text
    assert not fresh_store.is_half_made(path)


def test_a_store_that_was_killed_before_its_last_step_is_known(made: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(made, tmp_path))
    assert not fresh_store.is_half_made(path)
    with contextlib.closing(sqlite3.connect(path)) as store, store:
        store.execute("delete from experiments")
    assert fresh_store.is_half_made(path)


def test_the_database_of_another_program_stays(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as database:
        database.execute("create table patients (name text)")
    os.utime(path, (0, 0))
    assert not fresh_store.is_half_made(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_a_resumed_run_that_was_killed_after_its_results_finishes_in_mlflow(made: Path, tmp_path: Path) -> None:
    shutil.copy(made, tmp_path)
    uri, folder = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run"
    settings = {
        "config_file": CONFIG_FILE, "output_dir": folder, "tracking_uri": uri, "train_majority": 20,
        "dataset_dir": write_stand_in(tmp_path / "images", images_per_class=40), "validation_majority": 10,
        "batch_size": 16, "pretrain_epochs": 1, "alm_epochs": 1, "device": "cpu",
    }  # fmt: skip
    arguments = ["run", "training", *(part for key, value in settings.items() for part in (f"--{key}", str(value)))]
    killed = subprocess.run([sys.executable, "-c", DIE_AFTER_THE_RESULTS, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    client = MlflowClient(uri)
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    before = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in before} == {"RUNNING"}
    files = {path: path.read_bytes() for path in folder.glob("*.*")}
    assert run_bundle_command([*arguments, "--resume", "True"], tmp_path / "log") is None
    after = client.search_runs([experiment.experiment_id])
    assert {run.info.run_id for run in after} == {run.info.run_id for run in before}
    assert {run.info.status for run in after} == {"FINISHED"}
    assert all(run.data.metrics["test_auc"] > 0 for run in after)
    assert {path: path.read_bytes() for path in folder.glob("*.*")} == files
