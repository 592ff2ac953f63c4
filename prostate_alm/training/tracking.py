"""MLflow: one parent run for an ensemble, one child run for each member. Nothing else imports mlflow."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "MLFLOW_DISABLE_TELEMETRY", "true"
)  # patient data stay in the house; read when mlflow is imported

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from mlflow.utils.time import get_current_time_millis

DEFAULT_URI = "sqlite:///mlflow.db"
_BATCH = 900  # MLflow takes at most 1000 metrics in one call

logger = logging.getLogger(__name__)


class MemberRun:
    """The MLflow run of one member, under the parent run of its ensemble.

    Args:
        client: talks to the tracking store.
        run_id: the member's run.
        parent_id: the ensemble's run.
        owns_parent: whether the parent was made for this member alone and ends with it.
    """

    def __init__(self, client: MlflowClient, *, run_id: str, parent_id: str, owns_parent: bool) -> None:
        self._client = client
        self.run_id = run_id
        self.parent_id = parent_id
        self._owns_parent = owns_parent
        self._logged_step: int | None = None  # asked of the store once

    def identity(self) -> dict[str, Any]:
        """Return what `resume_member_run` needs."""
        return {"run_id": self.run_id, "parent_id": self.parent_id, "owns_parent": self._owns_parent}

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; numbers stay numbers, so that the UI can sort by them."""
        entries = [Param(key, str(value)) for key, value in params.items()]
        self._client.log_batch(self.run_id, params=entries)
        self._client.log_batch(self.parent_id, params=[entry for entry in entries if entry.key != "member"])

    def log_epochs(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log rows of per-epoch metrics that the run does not have yet; the key `step` numbers the rows, from 1."""
        done = self._last_step() if self._logged_step is None else self._logged_step
        now = get_current_time_millis()
        metrics = [
            Metric(key, value, now, int(row["step"]))
            for row in rows
            if row["step"] > done
            for key, value in row.items()
            if key != "step" and value == value  # the store refuses NaN on some databases
        ]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _BATCH])
        self._logged_step = max((int(row["step"]) for row in rows), default=done)

    def _last_step(self) -> int:
        history = self._client.get_metric_history(self.run_id, "val_auc")
        return max((metric.step for metric in history), default=0)

    def log_summary(self, metrics: Mapping[str, float]) -> None:
        """Log final figures on the member and, while it is the only one, on the parent."""
        now = get_current_time_millis()
        entries = [Metric(key, value, now, 0) for key, value in metrics.items() if value == value]
        for run_id in self._summarised():
            self._client.log_batch(run_id, metrics=entries)

    def log_files(self, paths: Sequence[Path]) -> None:
        """Log files as artifacts of the member and, while it is the only one, of the parent."""
        for run_id in self._summarised():
            for path in paths:
                self._client.log_artifact(run_id, str(path))

    def _summarised(self) -> list[str]:
        return [self.run_id, self.parent_id] if self._owns_parent else [self.run_id]

    def reopen(self) -> None:
        """Mark the run, and a parent of its own, as running again."""
        for run_id in self._summarised():
            self._client.update_run(run_id, RunStatus.to_string(RunStatus.RUNNING))

    def finish(self) -> None:
        """Mark the run, and a parent of its own, as finished."""
        self._end(RunStatus.FINISHED)

    def fail(self) -> None:
        """Mark the run, and a parent of its own, as failed."""
        self._end(RunStatus.FAILED)

    def _end(self, status: int) -> None:
        for run_id in self._summarised():
            self._client.set_terminated(run_id, RunStatus.to_string(status))


def resolve_uri(tracking_uri: str | None) -> str:
    """Return the store to use: the argument, else MLFLOW_TRACKING_URI, else an SQLite file in the working folder.

    >>> resolve_uri("sqlite:///elsewhere.db")
    'sqlite:///elsewhere.db'
    """
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def prepare_store(tracking_uri: str, experiment: str) -> None:
    """Make the store and the experiment in it when they are missing.

    Several processes that start on a fresh SQLite store would race to create its tables: call this once before them.

    Raises:
        ValueError: the store cannot be used.
    """
    try:
        client = MlflowClient(tracking_uri)
        if client.get_experiment_by_name(experiment) is None:
            client.create_experiment(experiment, artifact_location=_artifact_location(tracking_uri, experiment))
    except (MlflowException, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"tracking_uri must be a store that MLflow can write to, got {tracking_uri} ({first_line}). "
            f"Give for example --tracking_uri {DEFAULT_URI}"
        ) from error


def _artifact_location(tracking_uri: str, experiment: str) -> str | None:
    """Put files beside an SQLite store, wherever the command runs; leave the choice to any other store."""
    path = tracking_uri.removeprefix("sqlite:///")
    return None if path == tracking_uri else (Path(path).resolve().parent / "mlruns" / experiment).as_uri()


def start_member_run(
    *, tracking_uri: str, experiment: str, ensemble_name: str, member_name: str, tags: Mapping[str, str]
) -> MemberRun:
    """Create a parent run and the member's run beneath it.

    Args:
        tracking_uri: see `resolve_uri`.
        experiment: name of an MLflow experiment that exists, see `prepare_store`.
        ensemble_name: name of the parent run.
        member_name: name of the member's run.
        tags: set on both.
    """
    client = MlflowClient(tracking_uri)
    experiment_id = client.get_experiment_by_name(experiment).experiment_id
    parent = client.create_run(experiment_id, tags={**tags, MLFLOW_RUN_NAME: ensemble_name})
    parent_id = parent.info.run_id
    child = client.create_run(
        experiment_id, tags={**tags, MLFLOW_RUN_NAME: member_name, MLFLOW_PARENT_RUN_ID: parent_id}
    )
    return MemberRun(client, run_id=child.info.run_id, parent_id=parent_id, owns_parent=True)


def resume_member_run(*, tracking_uri: str, identity: Mapping[str, Any]) -> MemberRun | None:
    """Open the run that an interrupted training left behind; None when the store does not have it."""
    client = MlflowClient(tracking_uri)
    run = MemberRun(client, **identity)
    try:
        run.reopen()
    except MlflowException:
        logger.warning("the interrupted run is not in %s: a new run is started there", tracking_uri)
        return None
    return run
