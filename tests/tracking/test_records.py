"""Writing to a run again changes nothing; on a real SQLite store."""

import math

import pytest

from prostate_alm.tracking import records
from prostate_alm.tracking.store import StoreClient, ensure_experiment, open_store


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> StoreClient:
    return open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")


@pytest.fixture
def run_id(client: StoreClient) -> str:
    return str(client.create_run(ensure_experiment(client, "records")).info.run_id)


def test_rows_are_logged_above_a_step_and_the_last_one_is_known(client: StoreClient, run_id: str) -> None:
    rows = [{"step": float(step), "loss": step / 10, "gap": math.nan} for step in range(1, 1500)]
    assert records.last_step(client, run_id, ["loss"]) == 0
    records.log_rows(client, run_id, rows[:2], after_step=0)
    records.log_rows(client, run_id, rows, after_step=records.last_step(client, run_id, ["loss", "gap"]))
    history = client.get_metric_history(run_id, "loss")
    assert [(entry.step, entry.value) for entry in history] == [(row["step"], row["loss"]) for row in rows]
    assert client.get_metric_history(run_id, "gap") == []


def test_parameters_that_a_run_has_stay(client: StoreClient, run_id: str) -> None:
    records.log_params(client, run_id, {"mu0": 0.2})
    records.log_params(client, run_id, {"mu0": 3, "text": "x" * 7000} | {f"p{number}": number for number in range(150)})
    params = client.get_run(run_id).data.params
    assert (params["mu0"], len(params["text"]), len(params)) == ("0.2", 6000, 152)


def test_a_figure_is_logged_again_only_with_another_value(client: StoreClient, run_id: str) -> None:
    for value in (0.5, 0.5, 0.7):
        records.log_metrics(client, run_id, {"auc": value, "nothing": math.inf})
    assert sorted(entry.value for entry in client.get_metric_history(run_id, "auc")) == [0.5, 0.7]
    assert client.get_run(run_id).data.metrics == {"auc": 0.7}


def test_a_run_that_was_deleted_or_never_was_is_none(client: StoreClient, run_id: str) -> None:
    found = records.active_run(client, run_id)
    assert found is not None
    assert found.info.run_id == run_id
    client.delete_run(run_id)
    assert records.active_run(client, run_id) is None
    assert records.active_run(client, "0" * 32) is None
