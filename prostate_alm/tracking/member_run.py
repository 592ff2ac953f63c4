"""The MLflow run of one member while it trains: it may lose its server, but never stops the training."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import RunStatus
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from prostate_alm.results.folders import MemberFolder, flat
from prostate_alm.tracking import records
from prostate_alm.tracking.store import (
    DEFAULT_FOLDER,
    STORE_ERRORS,
    StoreClient,
    ensure_experiment,
    warn_away,
    with_store,
)

if TYPE_CHECKING:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

logger = logging.getLogger(__name__)

FLUSH_INTERVAL_S = 5.0
"""Epochs are sent at most this often: a call costs 25 ms and more, and an epoch may take less."""


class MemberRun:
    """The MLflow run of one member, under the parent run of its ensemble.

    When the store fails, a warning tells so once, and the run does nothing any more.

    Args:
        client: talks to the tracking store; None for a run that does nothing.
        run_id: the member's run; empty when there is none.
        parent_id: the ensemble's run.
        owns_parent: whether the parent was made for this member alone and ends with it.
        folder: where the results are; what is in it when the run ends is logged, and a warning names it.
        flush_interval_s: time between two calls that send epochs.
    """

    def __init__(
        self,
        client: StoreClient | None,
        *,
        run_id: str,
        parent_id: str,
        owns_parent: bool,
        folder: Path | None = None,
        flush_interval_s: float = FLUSH_INTERVAL_S,
    ) -> None:
        self._client = client
        self.run_id = run_id
        self.parent_id = parent_id
        self._owns_parent = owns_parent
        self._folder = folder
        self._flush_interval_s = flush_interval_s
        self._flushed_s = time.monotonic()
        self._rows: Sequence[records.EpochRow] = ()
        self._logged_step: int | None = None  # asked of the store once
        self._system: SystemMetricsMonitor | None = None

    @property
    def is_tracked(self) -> bool:
        """Whether calls reach a store."""
        return self._client is not None

    def identity(self) -> dict[str, Any]:
        """Return what `resume_member_run` needs; empty for a run that no store has."""
        if not self.run_id:
            return {}
        return {"run_id": self.run_id, "parent_id": self.parent_id, "owns_parent": self._owns_parent}

    def watch_system(self) -> None:
        """Log the load of the machine until the run ends, where MLflow's own variable asks for it."""
        if self._client is None or not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            return
        try:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
        except ModuleNotFoundError as error:
            logger.warning("system metrics must have psutil, got %s: none are logged. pip install psutil", error)
            return
        self._system = SystemMetricsMonitor(self.run_id, resume_logging=True, tracking_uri=self._client.tracking_uri)
        self._system.start()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters on the member and, while it is the only one, on the parent, but for its number there."""

        def send(client: StoreClient) -> None:
            records.log_params(client, self.run_id, flat(params))
            if self._owns_parent:
                shared = {key: value for key, value in flat(params).items() if key != "member"}
                records.log_params(client, self.parent_id, shared)

        self._guarded(send)

    def log_epochs(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Log rows of per-epoch metrics that the run does not have yet; the key `step` numbers the rows, from 1.

        Rows wait for some seconds to be sent together, at the latest with `finish` or `fail`. A resumed run is shown
        the whole history and asks the store what it has, so a kill loses none of them.
        """
        self._rows = rows
        if time.monotonic() - self._flushed_s >= self._flush_interval_s:
            self._guarded(self._flush)

    def _flush(self, client: StoreClient) -> None:
        rows, self._rows = self._rows, ()
        if rows:
            if self._logged_step is None:
                self._logged_step = records.last_step(client, self.run_id, (key for row in rows for key in row))
            records.log_rows(client, self.run_id, rows, after_step=self._logged_step)
            self._logged_step = max(self._logged_step, *(int(row[records.STEP]) for row in rows))
        self._flushed_s = time.monotonic()

    def reopen(self) -> None:
        """Mark the run, and a parent of its own, as running again."""
        self._on_each(lambda client, run_id: client.update_run(run_id, RunStatus.to_string(RunStatus.RUNNING)))

    def finish(self) -> None:
        """Send what the store lacks of the results, and mark the run, and a parent of its own, as finished."""
        self._guarded(self._flush)
        results = None if self._folder is None else MemberFolder(self._folder)
        if results is not None and results.is_finished:
            self._guarded(lambda client: records.log_member_results(client, results, run_ids=self.run_ids))
        self._end(RunStatus.FINISHED)

    def fail(self) -> None:
        """Send what waits and mark the run, and a parent of its own, as failed."""
        self._guarded(self._flush)
        self._end(RunStatus.FAILED)

    def _end(self, status: int) -> None:
        if self._system is not None:
            self._system.finish()
        self._on_each(lambda client, run_id: client.set_terminated(run_id, RunStatus.to_string(status)))

    @property
    def run_ids(self) -> list[str]:
        """The member's run, and the parent's where it is its own."""
        return [self.run_id, self.parent_id] if self._owns_parent else [self.run_id]

    def _on_each(self, send: Callable[[StoreClient, str], object]) -> None:
        def send_all(client: StoreClient) -> None:
            for run_id in self.run_ids:
                send(client, run_id)

        self._guarded(send_all)

    def _guarded(self, send: Callable[[StoreClient], object]) -> None:
        """Send something; whatever happens to the store, the training goes on."""
        if self._client is None:
            return
        try:
            send(self._client)
        except STORE_ERRORS as error:
            warn_away(self._client.tracking_uri, self._folder or DEFAULT_FOLDER, error)
            self._client = None


def untracked_run(identity: Mapping[str, Any] | None = None) -> MemberRun:
    """Return a run that does nothing; it keeps the identity of a run whose store is away."""
    return MemberRun(None, **(identity or {"run_id": "", "parent_id": "", "owns_parent": False}))


@dataclass(frozen=True)
class NewRun:
    """What a member's run is called and where it belongs.

    Args:
        experiment: name of an MLflow experiment, made when it is missing.
        ensemble_name: name of the parent run where one is made for this member alone.
        member_name: name of the member's run.
        tags: set on both.
        parent_id: the ensemble's run, see `start_ensemble_run`; None makes one.
        folder: where the results are, or will be.
    """

    experiment: str
    ensemble_name: str
    member_name: str
    tags: Mapping[str, str]
    parent_id: str | None = None
    folder: Path | None = None


def start_member_run(new: NewRun, *, tracking_uri: str, flush_interval_s: float = FLUSH_INTERVAL_S) -> MemberRun:
    """Create the member's run beneath the run of its ensemble.

    Args:
        new: what to create.
        tracking_uri: see `resolve_uri`; "none" gives a run that does nothing, as a server that does not answer does.
        flush_interval_s: time between two calls that send epochs.
    """
    run = with_store(
        tracking_uri,
        new.folder or DEFAULT_FOLDER,
        lambda client: create_member_run(client, new, flush_interval_s=flush_interval_s),
        otherwise=untracked_run(),
    )
    run.watch_system()
    return run


def create_member_run(
    client: StoreClient,
    new: NewRun,
    *,
    start_time_ms: int | None = None,
    flush_interval_s: float = FLUSH_INTERVAL_S,
) -> MemberRun:
    """Create the member's run in an open store; see `start_member_run`.

    Raises:
        StoreUnreachableError: the server does not answer.
    """
    experiment_id = ensure_experiment(client, new.experiment)

    def create(name: str, more: Mapping[str, str]) -> str:
        run = client.create_run(experiment_id, start_time_ms, {**new.tags, MLFLOW_RUN_NAME: name, **more})
        return str(run.info.run_id)

    owner = new.parent_id or create(new.ensemble_name, {records.KIND_TAG: "ensemble"})
    run_id = create(new.member_name, {records.KIND_TAG: "member", MLFLOW_PARENT_RUN_ID: owner})
    return MemberRun(
        client,
        run_id=run_id,
        parent_id=owner,
        owns_parent=new.parent_id is None,
        folder=new.folder,
        flush_interval_s=flush_interval_s,
    )


def resume_member_run(
    *, tracking_uri: str, identity: Mapping[str, Any], folder: Path | None = None
) -> MemberRun | None:
    """Open the run that an interrupted training left behind.

    Args:
        tracking_uri: see `resolve_uri`.
        identity: what `MemberRun.identity` gave.
        folder: where the results will be.

    Returns:
        The run; None when the store does not have it. A run that does nothing when the store is away.
    """

    def resume(client: StoreClient) -> MemberRun | None:
        if records.active_run(client, identity["run_id"]) is None:
            logger.warning("the interrupted run is not in %s: a new run is started there", tracking_uri)
            return None
        run = MemberRun(client, **identity, folder=folder)
        run.reopen()
        return run

    away: MemberRun | None = untracked_run(identity)
    run = with_store(tracking_uri, folder or DEFAULT_FOLDER, resume, otherwise=away)
    if run is not None:
        run.watch_system()
    return run
