"""MLflow on a real SQLite store."""

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from prostate_alm.training import tracking


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    tracking.prepare_store(uri, "cohort")
    return uri


def start(uri: str) -> tracking.MemberRun:
    return tracking.start_member_run(
        tracking_uri=uri,
        experiment="cohort",
        ensemble_name="bce-alm",
        member_name="member-03",
        tags={"manifest_sha256": "ab"},
    )


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
    logged = MlflowClient(uri).get_metric_history(run.run_id, "val_auc")
    assert [(metric.step, metric.value) for metric in logged] == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_more_epochs_than_one_call_takes(uri: str) -> None:
    run = start(uri)
    run.log_epochs([{"step": float(step), "val_auc": 0.5, "val_loss": 1.0} for step in range(1, 701)])
    assert len(MlflowClient(uri).get_metric_history(run.run_id, "val_loss")) == 700


@pytest.mark.parametrize(("end", "status"), [("finish", "FINISHED"), ("fail", "FAILED")])
def test_the_end_is_told_of_member_and_parent(uri: str, end: str, status: str) -> None:
    run = start(uri)
    getattr(run, end)()
    client = MlflowClient(uri)
    assert [client.get_run(run_id).info.status for run_id in (run.run_id, run.parent_id)] == [status, status]
    run.reopen()
    assert client.get_run(run.run_id).info.status == "RUNNING"


def test_summary_parameters_and_files_are_found_on_both(uri: str, tmp_path: Path) -> None:
    run = start(uri)
    run.log_params({"mu0": 0.2, "member": 3})
    run.log_summary({"test_auc": 0.9, "test_fpr": math.nan})
    (tmp_path / "config.json").write_text("{}")
    run.log_files([tmp_path / "config.json"])
    client = MlflowClient(uri)
    for run_id in (run.run_id, run.parent_id):
        data = client.get_run(run_id).data
        assert data.params["mu0"] == "0.2"
        assert data.metrics == {"test_auc": 0.9}
        assert [file.path for file in client.list_artifacts(run_id)] == ["config.json"]
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
