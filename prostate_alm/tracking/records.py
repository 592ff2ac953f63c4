"""Writing to a run so that writing again changes nothing: each function sends only what the run does not have."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from mlflow.utils.time import get_current_time_millis

from prostate_alm.results.folders import MemberFolder
from prostate_alm.tracking.store import StoreClient

_METRICS_PER_CALL, _PARAMS_PER_CALL = 1000, 100  # MLflow's limits
_PARAM_LENGTH_MAX = 6000
_DIGEST_LENGTH = 36  # of a data set's, MLflow's limit; the whole one is in its source
_LARGEST = 1e300  # what is larger, MLflow stores as the largest float

RESULTS_TAG = "results_sha256"
"""Set last on a run that holds all of a folder: the SHA-256 of its results."""

KIND_TAG = "kind"
"""`ensemble` or `member`."""

STEP = "step"
"""The key that numbers rows of epochs, from 1."""

EpochRow = Mapping[str, float]


def active_run(client: StoreClient, run_id: str) -> Run | None:
    """Return a run; None when the store does not have it, or it was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def log_rows(client: StoreClient, run_id: str, rows: Sequence[EpochRow], *, after_step: int) -> None:
    """Log rows of per-epoch metrics with a step above `after_step`; each row is logged as a whole or not at all."""
    now = get_current_time_millis()
    batch: list[Metric] = []
    for row in rows:
        if row[STEP] <= after_step:
            continue
        metrics = [Metric(key, row[key], now, int(row[STEP])) for key in row if key != STEP and _is_finite(row[key])]
        if len(batch) + len(metrics) > _METRICS_PER_CALL:
            client.log_batch(run_id, metrics=batch)  # one transaction
            batch = []
        batch += metrics
    if batch:
        client.log_batch(run_id, metrics=batch)


def last_step(client: StoreClient, run_id: str, keys: Iterable[str]) -> int:
    """Return the largest step that a run holds of some metrics; 0 when it has none of them."""
    logged = client.get_run(run_id).data.metrics
    wanted = [key for key in dict.fromkeys(keys) if key in logged]
    return max((metric.step for key in wanted for metric in client.get_metric_history(run_id, key)), default=0)


def log_params(client: StoreClient, run_id: str, params: Mapping[str, Any]) -> None:
    """Log parameters that the run does not have; numbers stay numbers, so that the UI can sort by them."""
    known = client.get_run(run_id).data.params
    entries = [Param(key, str(value)[:_PARAM_LENGTH_MAX]) for key, value in params.items() if key not in known]
    for start in range(0, len(entries), _PARAMS_PER_CALL):
        client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_CALL])


def log_metrics(client: StoreClient, run_id: str, metrics: Mapping[str, float]) -> None:
    """Log final figures that the run does not have, or has with another value."""
    known = client.get_run(run_id).data.metrics
    now = get_current_time_millis()
    new = [
        Metric(key, float(value), now, 0)
        for key, value in metrics.items()
        if _is_finite(value) and known.get(key) != float(value)
    ]
    for start in range(0, len(new), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=new[start : start + _METRICS_PER_CALL])


def log_tags(client: StoreClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags."""
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def log_files(client: StoreClient, run_id: str, paths: Iterable[Path]) -> None:
    """Log files as artifacts; those of the same name are replaced."""
    for path in paths:
        client.log_artifact(run_id, str(path))


def log_data(client: StoreClient, run_id: str, folder: MemberFolder) -> None:
    """Log as an input of a run which data its members had: name, digest and the size of each split, no path.

    Args:
        client: the store.
        run_id: a member's run or its ensemble's.
        folder: the member, or the first one.
    """
    data = folder.data()
    if not data or client.get_run(run_id).inputs.dataset_inputs:
        return
    sizes = {
        split: {key: int(figures[key]) for key in ("positives", "negatives") if key in figures}
        for split, figures in folder.metrics.items()
        if split in ("validation", "test", "test_all_positives")
    }
    dataset = Dataset(
        name=data["name"],
        digest=data["digest"][:_DIGEST_LENGTH],
        source_type="local",
        source=json.dumps({"manifest": data["name"], "sha256": data["digest"]}),
        profile=json.dumps(sizes),
    )
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])])


def log_member_results(client: StoreClient, folder: MemberFolder, *, run_ids: Sequence[str]) -> None:
    """Log what a finished member's runs lack of its folder, and mark them as finished.

    Args:
        client: the store.
        folder: the member.
        run_ids: the member's run, and the parent's where it has one of its own, which gets all but the epochs.
    """
    rows = folder.epochs()
    done = last_step(client, run_ids[0], (key for row in rows for key in row))
    log_rows(client, run_ids[0], rows, after_step=done)
    for run_id in run_ids:
        log_params(client, run_id, _params(folder, is_parent=run_id != run_ids[0]))
        log_metrics(client, run_id, folder.summary())
        log_files(client, run_id, folder.files())
        log_tags(client, run_id, folder.tags())
        log_data(client, run_id, folder)
    log_tags(client, run_ids[0], {RESULTS_TAG: folder.sha256()})
    for run_id in run_ids:
        client.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED), folder.end_time_ms())


def _params(folder: MemberFolder, *, is_parent: bool) -> dict[str, Any]:
    return {key: value for key, value in folder.params().items() if not (is_parent and key == "member")}


def _is_finite(value: float) -> bool:
    return abs(value) < _LARGEST  # false for NaN, which some databases refuse
