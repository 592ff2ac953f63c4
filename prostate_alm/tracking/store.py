"""The MLflow store: which one, made safely by many processes at once, and what happens when it is away."""

import logging
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

# read by MLflow when it is imported or called. Patient data stay in the house; a server that is down is noticed within
# seconds, not the ten minutes of MLflow's own defaults
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from prostate_alm.results.tracking_uri import DEFAULT_URI, NO_TRACKING, sqlite_path
from prostate_alm.tracking.fresh_store import ensure_made

DEFAULT_FOLDER = Path("outputs")
STORE_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, RequestException, OSError)
"""What a call to a store can raise."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # else the UI may show it as a chat's
_LOCK_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_T = TypeVar("_T")

logger = logging.getLogger(__name__)
_jitter = random.Random()  # of its own: the global one belongs to the training
_away: set[str] = set()  # servers that did not answer this process


class StoreUnreachableError(ConnectionError):
    """The tracking server does not answer."""


class StoreClient:
    """`MlflowClient` whose calls wait for an SQLite store in use, and say so when a server is away.

    Args:
        tracking_uri: see `resolve_uri`.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self._client = MlflowClient(tracking_uri)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*args: Any, **options: Any) -> Any:
            try:
                return when_unlocked(lambda: method(*args, **options))
            except STORE_ERRORS as error:
                if is_unreachable(self.tracking_uri, error):
                    raise StoreUnreachableError(f"MLflow at {self.tracking_uri} cannot be reached") from error
                raise

        return call


def when_unlocked(call: Callable[[], _T]) -> _T:
    """Call again, after longer and longer pauses, while another process keeps an SQLite store locked."""
    for pause_s in _LOCK_PAUSES_S:
        try:
            return call()
        except (MlflowException, SQLAlchemyError) as error:
            if "database is locked" not in str(error):
                raise
            time.sleep(pause_s * (0.5 + _jitter.random()))
    return call()


def is_unreachable(tracking_uri: str, error: Exception) -> bool:
    """Whether an error of a call means that the tracking server did not answer, rather than that it refused."""
    if not tracking_uri.startswith(("http://", "https://")):
        return False
    if isinstance(error, MlflowException):  # MLflow has no class of its own for it
        return not isinstance(error, RestException) and error.error_code in (
            "INTERNAL_ERROR",
            "TEMPORARILY_UNAVAILABLE",
        )
    return isinstance(error, RequestException | ConnectionError)


def open_store(tracking_uri: str) -> StoreClient:
    """Open a store; the tables of a fresh SQLite store are made, by one process at a time, all or none.

    Raises:
        StoreUnreachableError: the server does not answer.
        MlflowException, OSError, SQLAlchemyError: the store cannot be used.
    """
    with _store_lock(tracking_uri):
        if (path := sqlite_path(tracking_uri)) is not None:
            ensure_made(path)
        client = StoreClient(tracking_uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def _store_lock(tracking_uri: str) -> Iterator[None]:
    """Hold a file lock beside an SQLite store: its tables cannot be made by two processes at once."""
    path = sqlite_path(tracking_uri)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        yield


def ensure_experiment(client: StoreClient, experiment: str) -> str:
    """Return the id of an experiment, which is made when the store does not have it.

    Raises:
        ValueError: the experiment was deleted.
    """
    with _store_lock(client.tracking_uri):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            location = _artifact_location(client.tracking_uri, experiment)
            try:
                return str(client.create_experiment(experiment, location, _EXPERIMENT_TAGS))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster, on a server
                    raise
                found = client.get_experiment_by_name(experiment)
    if found.lifecycle_stage == "deleted":
        raise ValueError(
            f"experiment must not be a deleted one, got {experiment} in {client.tracking_uri}. "
            f"Restore it: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


def _artifact_location(tracking_uri: str, experiment: str) -> str | None:
    """Put files beside an SQLite store, wherever the command runs; leave the choice to any other store."""
    path = sqlite_path(tracking_uri)
    return None if path is None else (path.resolve().parent / "mlruns" / experiment).as_uri()


def prepare_store(tracking_uri: str, experiment: str, *, folder: Path = DEFAULT_FOLDER) -> bool:
    """Make the store and the experiment in it when they are missing; any number of processes may do so at once.

    Args:
        tracking_uri: see `resolve_uri`; "none" for no tracking.
        experiment: name of the MLflow experiment.
        folder: where results will lie, for the warning when the server is away.

    Returns:
        Whether runs will be logged: not with "none", and not to a server that does not answer; a warning says so.

    Raises:
        ValueError: the store cannot be used.
    """
    if tracking_uri == NO_TRACKING:
        return False
    _away.discard(tracking_uri)
    try:
        ensure_experiment(open_store(tracking_uri), experiment)
    except StoreUnreachableError as error:
        warn_away(tracking_uri, folder, error)
        return False
    except (*STORE_ERRORS, ImportError) as error:  # ImportError: the driver of a database
        raise ValueError(
            f"tracking_uri must be a store that MLflow can write to, got {tracking_uri} ({first_line(error)}). "
            f"Give for example --tracking_uri {DEFAULT_URI}"
        ) from error
    return True


def with_store(tracking_uri: str, folder: Path, call: Callable[[StoreClient], _T], *, otherwise: _T) -> _T:
    """Return what a call with the open store gives; `otherwise` when nothing is tracked, or the store fails.

    Args:
        tracking_uri: see `resolve_uri`.
        folder: where the results are, for the warning of a store that fails.
        call: may raise what a store can.
        otherwise: with "none", or for a store that is away.
    """
    if is_away(tracking_uri):
        return otherwise
    try:
        return call(open_store(tracking_uri))
    except STORE_ERRORS as error:
        warn_away(tracking_uri, folder, error)
        return otherwise


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def is_away(tracking_uri: str) -> bool:
    """Whether nothing is logged: tracking is "none", or the server did not answer this process before."""
    return tracking_uri == NO_TRACKING or tracking_uri in _away


def warn_away(tracking_uri: str, folder: Path, error: Exception) -> None:
    """Warn that results stay on disk; of a server that does not answer, once a process, which then asks it no more.

    Args:
        tracking_uri: the store.
        folder: where the results are.
        error: what happened.
    """
    message = str(error)
    if isinstance(error, StoreUnreachableError):
        if tracking_uri in _away:
            return
        _away.add(tracking_uri)
    else:
        message = f"MLflow at {tracking_uri} failed ({first_line(error)})"
    logger.warning(
        "%s: results stay on disk; log them later with: prostate-alm track sync %s --tracking_uri %s",
        message,
        folder,
        tracking_uri,
    )
