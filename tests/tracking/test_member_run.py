"""MLflow on a real SQLite store."""

import math
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from prostate_alm import tracking


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    tracking.prepare_store(uri, "cohort")
    return uri


def start(
    uri: str, *, flush_interval_s: float = 0.0, parent_id: str | None = None, folder: Path | None = None
) -> tracking.MemberRun:
    new = tracking.NewRun("cohort", "bce-alm", "member-03", {"manifest_sha256": "ab"}, parent_id, folder)
    return tracking.start_member_run(new, tracking_uri=uri, flush_interval_s=flush_interval_s)


def write_results(folder: Path) -> Path:
    (folder / "config.json").write_text('{"settings": {"member": 3, "delta": 1}}')
    (folder / "metrics.json").write_text('{"test": {"auc": 0.9, "fpr": NaN}}')
    return folder


def steps(uri: str, run: tracking.MemberRun, metric: str = "val_auc") -> list[int]:
    return [entry.step for entry in MlflowClient(uri).get_metric_history(run.run_id, metric)]


def epochs(count: int) -> list[dict[str, float]]:
    return [{"step": float(step), "val_auc": 0.5, "val_loss": 1.0} for step in range(1, count + 1)]


def test_the_member_lies_beneath_its_ensemble(uri: str) -> None:
    run = start(uri)
    client = MlflowClient(uri)
    member, parent = client.get_run(run.run_id), client.get_run(run.parent_id)
    assert member.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (parent.info.run_name, member.info.run_name) == ("bce-alm", "member-03")
    assert member.data.tags["manifest_sha256"] == parent.data.tags["manifest_sha256"] == "ab"


def test_each_epoch_is_logged_once_however_often_the_history_is_shown(uri: str) -> None:
    run = start(uri)
    history = [{"step": float(step), "val_auc": step / 10, "alm_gradient_ratio": math.nan} for step in (1, 2, 3)]
    run.log_epochs(history[:2])
    resumed = tracking.resume_member_run(tracking_uri=uri, identity=run.identity())
    assert resumed is not None
    resumed.log_epochs(history)
    resumed.finish()
    logged = MlflowClient(uri).get_metric_history(run.run_id, "val_auc")
    assert [(metric.step, metric.value) for metric in logged] == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_more_epochs_than_one_call_takes(uri: str) -> None:
    run = start(uri)
    run.log_epochs(epochs(700))
    assert steps(uri, run, "val_loss") == list(range(1, 701))


@pytest.mark.parametrize("end", ["finish", "fail"])
def test_epochs_wait_to_be_sent_together_and_none_is_lost_at_the_end(uri: str, end: str) -> None:
    run = start(uri, flush_interval_s=60.0)
    for count in (1, 2, 3):
        run.log_epochs(epochs(count))
    assert steps(uri, run) == []
    getattr(run, end)()
    assert steps(uri, run) == [1, 2, 3]


def test_epochs_that_a_kill_kept_from_being_sent_come_with_the_resumed_run(uri: str) -> None:
    killed = start(uri, flush_interval_s=60.0)
    killed.log_epochs(epochs(2))
    killed.log_epochs(epochs(4))  # never sent
    resumed = tracking.resume_member_run(tracking_uri=uri, identity=killed.identity())
    assert resumed is not None
    resumed.log_epochs(epochs(6))
    resumed.finish()
    assert steps(uri, resumed) == [1, 2, 3, 4, 5, 6]


def test_a_member_beneath_a_given_parent_leaves_that_alone(uri: str, tmp_path: Path) -> None:
    parent_id = start(uri).parent_id
    run = start(uri, parent_id=parent_id, folder=write_results(tmp_path))
    run.log_params({"mu0": 0.2})
    run.finish()
    client = MlflowClient(uri)
    parent = client.get_run(parent_id)
    assert client.get_run(run.run_id).data.tags["mlflow.parentRunId"] == parent_id
    assert (parent.info.status, parent.data.params, parent.data.metrics) == ("RUNNING", {}, {})
    assert client.get_run(run.run_id).data.metrics == {"test_auc": 0.9}


def test_nested_parameters_are_flat_in_the_store(uri: str) -> None:
    run = start(uri)
    run.log_params({"loss_parameters": {"gamma": 4}, "margin": None})
    assert MlflowClient(uri).get_run(run.run_id).data.params == {"loss_parameters.gamma": "4"}


def test_the_load_of_the_machine_is_logged_where_mlflow_is_asked_for_it(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = "system/cpu_utilization_percentage"
    assert steps(uri, start(uri), cpu) == []
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    run = start(uri)
    deadline_s = time.monotonic() + 60
    while not steps(uri, run, cpu) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    run.finish()
    before = steps(uri, run, cpu)
    assert before == list(range(len(before)))
    assert before
    resumed = tracking.resume_member_run(tracking_uri=uri, identity=run.identity())
    assert resumed is not None
    while len(steps(uri, run, cpu)) == len(before) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    resumed.fail()
    after = steps(uri, run, cpu)
    assert after == list(range(len(after)))
    assert len(after) > len(before)


def test_a_run_without_tracking_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking.prepare_store("none", "cohort") is False
    run = start("none")
    run.log_params({"mu0": 0.2})
    run.log_epochs(epochs(2))
    run.finish()
    run.fail()
    assert run.identity() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_run_resumed_without_tracking_keeps_its_identity(uri: str) -> None:
    identity = start(uri).identity()
    resumed = tracking.resume_member_run(tracking_uri="none", identity=identity)
    assert resumed is not None
    assert resumed.identity() == identity


def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("no database" * 100)
    with pytest.raises(ValueError, match=r"tracking_uri must be a store that MLflow can write to, .* not a database"):
        tracking.prepare_store(f"sqlite:///{tmp_path}/notes.db", "cohort")


def test_an_experiment_that_was_deleted_is_named(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.prepare_store(uri, "cohort") is True
    client = MlflowClient(uri)
    client.delete_experiment(client.get_experiment_by_name("cohort").experiment_id)
    with pytest.raises(ValueError, match="experiment must not be a deleted one, got cohort"):
        tracking.prepare_store(uri, "cohort")


@pytest.mark.parametrize(("end", "status"), [("finish", "FINISHED"), ("fail", "FAILED")])
def test_the_end_is_told_of_member_and_parent(uri: str, end: str, status: str) -> None:
    run = start(uri)
    getattr(run, end)()
    client = MlflowClient(uri)
    assert [client.get_run(run_id).info.status for run_id in (run.run_id, run.parent_id)] == [status, status]
    run.reopen()
    assert client.get_run(run.run_id).info.status == "RUNNING"


def test_summary_parameters_and_files_are_found_on_both(uri: str, tmp_path: Path) -> None:
    run = start(uri, folder=write_results(tmp_path))
    run.log_params({"mu0": 0.2, "member": 3})
    run.finish()
    client = MlflowClient(uri)
    for run_id in (run.run_id, run.parent_id):
        data = client.get_run(run_id).data
        assert data.params["mu0"] == "0.2"
        assert data.metrics == {"test_auc": 0.9}
        assert sorted(file.path for file in client.list_artifacts(run_id)) == ["config.json", "metrics.json"]
    assert "member" not in client.get_run(run.parent_id).data.params


def test_a_run_that_the_store_lost_is_started_anew(uri: str) -> None:
    identity = start(uri).identity() | {"run_id": "0" * 32}
    assert tracking.resume_member_run(tracking_uri=uri, identity=identity) is None


def test_a_store_that_cannot_be_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracking_uri must be a store that MLflow can write to, got nonsense://"):
        tracking.prepare_store("nonsense://nowhere", "cohort")


def test_the_environment_comes_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.resolve_uri(None) == "sqlite:///mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.resolve_uri(None) == "http://127.0.0.1:5000"
    assert tracking.resolve_uri("sqlite:///mine.db") == "sqlite:///mine.db"
