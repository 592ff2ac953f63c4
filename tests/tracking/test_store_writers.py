"""Many processes write to one SQLite store at once."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient

from prostate_alm.tracking import store

WRITER = Path(__file__).with_name("tracking_writer.py")
WRITERS, EPOCHS = 10, 20  # as in the script
METRICS = ("val_auc", "val_loss", "train_loss")


@pytest.mark.slow
def test_ten_members_at_once_on_a_store_that_nobody_made_lose_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    done = subprocess.run([sys.executable, WRITER, uri, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    client = MlflowClient(uri)
    experiment_id = client.get_experiment_by_name("stress").experiment_id
    members = client.search_runs([experiment_id], "tags.kind = 'member'")
    assert sorted(run.info.run_name for run in members) == [f"member-{m:02d}" for m in range(WRITERS)]
    assert len(client.search_runs([experiment_id], "tags.kind = 'ensemble'")) == WRITERS
    for run in members:
        member = int(run.data.tags["number"])
        assert run.info.status == "FINISHED"
        assert run.data.params == {"member": str(member), "mu0": "0.2"}
        assert run.data.metrics["test_auc"] == member / 10
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        assert files == ["config.json", "metrics.json", "predictions.csv"]
        for name in METRICS:
            history = client.get_metric_history(run.info.run_id, name)
            expected = [(step, member + step / 100) for step in range(1, EPOCHS + 1)]
            assert [(entry.step, entry.value) for entry in history] == expected


@pytest.fixture
def locked(tmp_path: Path) -> sqlalchemy.Engine:
    """Return an SQLite database that does not wait for its lock."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/plain.db", connect_args={"timeout": 0})
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table numbers (number integer)"))
    return engine


def insert(engine: sqlalchemy.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("insert into numbers values (1)"))


def test_a_call_is_repeated_while_the_store_is_locked(locked: sqlalchemy.Engine) -> None:
    holder = locked.connect()
    holder.exec_driver_sql("begin exclusive")
    with pytest.raises(sqlalchemy.exc.OperationalError, match="database is locked"):
        insert(locked)
    release = threading.Timer(0.3, lambda: (holder.exec_driver_sql("rollback"), holder.close()))
    release.start()
    store.when_unlocked(lambda: insert(locked))
    release.join()
    with locked.connect() as connection:
        assert connection.execute(sqlalchemy.text("select count(*) from numbers")).scalar() == 1
    locked.dispose()


def test_other_faults_of_a_store_are_told_at_once(locked: sqlalchemy.Engine) -> None:
    calls = []

    def fail() -> None:
        calls.append(1)
        with locked.connect() as connection:
            connection.execute(sqlalchemy.text("select * from absent"))

    with pytest.raises(sqlalchemy.exc.OperationalError, match="no such table"):
        store.when_unlocked(fail)
    assert len(calls) == 1
    locked.dispose()
