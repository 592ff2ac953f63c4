"""From a folder of results to its runs in MLflow; doing it again changes nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, RunStatus
from mlflow.utils.mlflow_tags import (
    MLFLOW_LOGGED_ARTIFACTS,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NAME,
    MLFLOW_RUN_NOTE,
)
from packaging.version import Version

from prostate_alm.progress import Progress, silent
from prostate_alm.results.folders import EnsembleFolder, MemberFolder, ResultsFolder, find_folders
from prostate_alm.results.tracking_uri import DEFAULT_URI, NO_TRACKING
from prostate_alm.tracking import records, summary
from prostate_alm.tracking.member_run import NewRun, create_member_run
from prostate_alm.tracking.store import (
    DEFAULT_FOLDER,
    STORE_ERRORS,
    StoreClient,
    StoreUnreachableError,
    ensure_experiment,
    first_line,
    open_store,
    with_store,
)

_TABLE = "members.json"
_VIEW, _VIEWS_SINCE = "ensembles", Version("3.15")
_VIEW_COLUMNS = (
    *(f"metrics.`test_{key}`" for key in ("auc", "fpr_at_tpr95", "fpr_at_tpr95_low", "fpr_at_tpr95_high")),
    "tags.`verdict`",
)
_SUMMARY = "at_a_glance.md"  # the first file that the UI's comparison offers, rendered side by side


def start_ensemble_run(folder: Path, *, tracking_uri: str) -> str | None:
    """Open the parent run of an ensemble before its members start, or the one that an interrupted training left.

    Args:
        folder: the ensemble's folder with its `ensemble.json`; gets a `tracking.json`.
        tracking_uri: see `resolve_uri`.

    Returns:
        The run's id for the members; None when nothing is tracked: with "none", and when the store is away.

    Raises:
        ValueError: the folder is not an ensemble's.
    """
    ensemble = EnsembleFolder(folder)

    def start(client: StoreClient) -> str | None:
        run_id = ensemble_run(client, ensemble)
        client.update_run(run_id, RunStatus.to_string(RunStatus.RUNNING))
        return run_id

    return with_store(tracking_uri, folder, start, otherwise=None)


def fail_ensemble_run(run_id: str | None, *, tracking_uri: str) -> None:
    """Mark an ensemble's run as failed: it ended without results.

    Args:
        run_id: what `start_ensemble_run` gave.
        tracking_uri: see `resolve_uri`.
    """
    if run_id is not None:
        failed = RunStatus.to_string(RunStatus.FAILED)
        with_store(tracking_uri, DEFAULT_FOLDER, lambda client: client.set_terminated(run_id, failed), otherwise=None)


def log_ensemble(folder: Path, *, tracking_uri: str) -> str | None:
    """Log a finished ensemble and those of its members that the store does not hold completely.

    Args:
        folder: the ensemble's folder; gets a `tracking.json`.
        tracking_uri: see `resolve_uri`.

    Returns:
        Id of the ensemble's run; None when the store is away, of which a warning tells, and with "none".

    Raises:
        ValueError: the folder is not that of a finished ensemble.
    """
    ensemble = finished_ensemble(folder)

    def log(client: StoreClient) -> str | None:
        complete_ensemble(client, ensemble)
        return ensemble_run(client, ensemble)

    return with_store(tracking_uri, folder, log, otherwise=None)


def log_member(folder: Path, *, tracking_uri: str) -> None:
    """Log what the store lacks of a finished member that was trained alone; a kill may have come after its results.

    Args:
        folder: the member's folder.
        tracking_uri: see `resolve_uri`. Of a store that is away a warning tells.
    """
    with_store(tracking_uri, folder, lambda client: complete_member(client, MemberFolder(folder)), otherwise=False)


def finished_ensemble(folder: Path) -> EnsembleFolder:
    """Return a folder as that of a finished ensemble.

    Raises:
        ValueError: it is not.
    """
    ensemble = EnsembleFolder(folder)
    if not ensemble.is_finished:
        raise ValueError(f"ensemble must be finished, got {folder} without metrics.json. Train it to its end.")
    return ensemble


def complete_ensemble(client: StoreClient, ensemble: EnsembleFolder) -> list[Path]:
    """Log what the store lacks of an ensemble and its members; return the folders of which something was logged."""
    run_id = ensemble_run(client, ensemble)
    logged = [folder.path for folder in ensemble.members() if complete_member(client, folder, ensemble=ensemble)]
    if _is_complete(client.get_run(run_id), ensemble):
        return logged
    records.log_params(client, run_id, ensemble.params())
    records.log_metrics(client, run_id, summary.flat_metrics(ensemble.metrics))
    records.log_files(client, run_id, ensemble.files())
    _log_table(client, run_id, summary.members_table(ensemble))
    for member in ensemble.members()[:1]:
        records.log_data(client, run_id, member)
    text = summary.description(ensemble)
    client.log_text(run_id, text, _SUMMARY)
    note = {MLFLOW_RUN_NOTE: text, "verdict": summary.verdict(ensemble)}
    records.log_tags(client, run_id, ensemble.tags() | note | {records.RESULTS_TAG: ensemble.sha256()})
    client.set_terminated(run_id, RunStatus.to_string(RunStatus.FINISHED), ensemble.end_time_ms())
    offer_view(client, ensemble.experiment)
    return [*logged, ensemble.path]


def offer_view(client: StoreClient, experiment: str) -> None:
    """Put a link to a saved view on top of an experiment that has no description: its ensembles, best first.

    MLflow's pages before 3.15 do not know it.
    """
    found = client.get_experiment_by_name(experiment)
    if Version(mlflow.__version__) < _VIEWS_SINCE or MLFLOW_RUN_NOTE in found.tags:
        return
    view = {
        "searchFilter": f"tags.{records.KIND_TAG} = 'ensemble'",
        "orderByKey": "metrics.`test_fpr_at_tpr95`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": _VIEW_COLUMNS,
        **{key: [] for key in ("columnOrder", "runsPinned", "runsHidden")},
        **{key: {} for key in ("columnWidths", "runsExpanded", "runsVisibilityMap", "groupsExpanded")},
    }
    link = f"[Ensembles, best first](#/experiments/{found.experiment_id}/runs?viewStateShareKey={_VIEW})"
    client.set_experiment_tag(found.experiment_id, f"mlflow.sharedViewState.{_VIEW}", json.dumps(view))
    client.set_experiment_tag(found.experiment_id, MLFLOW_RUN_NOTE, link)


def ensemble_run(client: StoreClient, ensemble: EnsembleFolder) -> str:
    """Return the ensemble's run, which is made when the store does not have it."""
    run = find_run(client, ensemble, experiment=ensemble.experiment)
    if run is None:
        experiment_id = ensure_experiment(client, ensemble.experiment)
        tags = ensemble.tags() | {MLFLOW_RUN_NAME: ensemble.name, records.KIND_TAG: "ensemble"}
        run = client.create_run(experiment_id, ensemble.start_time_ms(), tags)
    run_id = str(run.info.run_id)
    if ensemble.identity.get("run_id") != run_id:
        ensemble.write_identity({"run_id": run_id})
    return run_id


def complete_member(client: StoreClient, folder: MemberFolder, *, ensemble: EnsembleFolder | None = None) -> bool:
    """Log what the store lacks of a member, beneath its ensemble's run; return whether that was anything.

    Args:
        client: the store.
        folder: the member.
        ensemble: what it is a member of; None when it was trained alone.
    """
    experiment = (ensemble or folder).experiment
    parent_id = None if ensemble is None else ensemble_run(client, ensemble)
    run = find_run(client, folder, experiment=experiment, parent_id=parent_id)
    if run is not None and _is_complete(run, folder):
        return False
    if run is None:
        new = NewRun(experiment, folder.ensemble_name, folder.name, folder.tags(), parent_id, folder.path)
        member = create_member_run(client, new, start_time_ms=folder.start_time_ms())
        folder.write_identity(member.identity())
        run_ids = member.run_ids
    else:
        owned = folder.identity.get("parent_id") if parent_id is None else None
        run_ids = [run.info.run_id, *([owned] if owned and records.active_run(client, owned) else [])]
    records.log_member_results(client, folder, run_ids=run_ids)
    return True


def find_run(
    client: StoreClient, folder: ResultsFolder, *, experiment: str, parent_id: str | None = None
) -> Run | None:
    """Return the run that holds a folder, or a part of it.

    It is the run that the folder's tracking.json names, or else one with the same results.

    Args:
        client: the store.
        folder: a member's or an ensemble's.
        experiment: where to look for the results.
        parent_id: the run that it must lie beneath; None for any.
    """
    named = folder.identity.get("run_id")
    run = records.active_run(client, named) if named else None
    if run is not None and (parent_id is None or run.data.tags.get(MLFLOW_PARENT_RUN_ID) == parent_id):
        return run
    if not folder.is_finished:
        return None
    wanted = f"tags.{records.RESULTS_TAG} = '{folder.sha256()}'"
    if parent_id is not None:
        wanted += f" and tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_id}'"
    found = client.search_runs([ensure_experiment(client, experiment)], wanted, max_results=1)
    return found[0] if found else None


def _is_complete(run: Run, folder: ResultsFolder) -> bool:
    return bool(run.info.status == "FINISHED" and run.data.tags.get(records.RESULTS_TAG) == folder.sha256())


def _log_table(client: StoreClient, run_id: str, columns: Mapping[str, list[Any]]) -> None:
    """Log a table that the UI shows; unlike `log_table`, which appends, an earlier one is replaced."""
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    client.log_dict(run_id, {"columns": list(columns), "data": rows}, _TABLE)
    records.log_tags(client, run_id, {MLFLOW_LOGGED_ARTIFACTS: json.dumps([{"path": _TABLE, "type": "table"}])})


@dataclass(frozen=True)
class SyncReport:
    """Folders of which something was logged, those that the store held already, and those without results yet."""

    logged: tuple[Path, ...]
    unchanged: tuple[Path, ...]
    unfinished: tuple[Path, ...]

    def to_text(self) -> str:
        """Return the report in a line.

        >>> SyncReport((), (Path("a"), Path("b")), ()).to_text()
        'nothing to log: the store holds all 2 finished results'
        """
        finished = len(self.logged) + len(self.unchanged)
        if self.logged:
            text = f"{len(self.logged)} of {finished} finished results logged"
        elif finished:
            text = f"nothing to log: the store holds all {finished} finished results"
        else:
            text = "nothing to log: there are no finished results"
        return text + (f"; {len(self.unfinished)} not finished" if self.unfinished else "")


def sync_results(root: Path, *, tracking_uri: str, progress: Progress = silent) -> SyncReport:
    """Log the finished members and ensembles in and below a folder that the store does not hold completely.

    Doing it again logs nothing. The members of an ensemble without results are left to the training that completes it.

    Args:
        root: a folder of results, or one above them.
        tracking_uri: the store, see `resolve_uri`.
        progress: called with the number of ensembles and lone members done and in all.

    Raises:
        ValueError: `root` is no folder, the store cannot be used, or tracking is "none".
        StoreUnreachableError: the server does not answer; what was logged by then stays.
    """
    if tracking_uri == NO_TRACKING:
        raise ValueError(f"tracking_uri must be a store, got {NO_TRACKING}. Give for example {DEFAULT_URI}")
    try:
        return _sync(root, tracking_uri, progress)
    except StoreUnreachableError:
        raise
    except (*STORE_ERRORS, ImportError) as error:
        raise ValueError(
            f"tracking_uri must be a store that MLflow can write to, got {tracking_uri} ({first_line(error)})."
        ) from error


def _sync(root: Path, tracking_uri: str, progress: Progress) -> SyncReport:
    found, client = find_folders(root), open_store(tracking_uri)
    logged: list[Path] = []
    unchanged: list[Path] = []
    unfinished: list[Path] = []
    folders: list[EnsembleFolder | MemberFolder] = [*found.ensembles, *found.members]
    for done, folder in enumerate(folders, start=1):
        if not folder.is_finished:
            unfinished.append(folder.path)
        elif isinstance(folder, EnsembleFolder):
            new = complete_ensemble(client, folder)
            logged += new
            unchanged += [one.path for one in (folder, *folder.members()) if one.path not in new]
        else:
            (logged if complete_member(client, folder) else unchanged).append(folder.path)
        progress(done, len(folders))
    return SyncReport(tuple(logged), tuple(unchanged), tuple(unfinished))
