"""Which MLflow store is used; apart from what needs MLflow, so that it can be asked at once."""

import os
from pathlib import Path

DEFAULT_URI = "sqlite:///mlflow.db"
NO_TRACKING = "none"
"""The `tracking_uri` of runs that MLflow shall not hear of."""


def resolve_uri(tracking_uri: str | None) -> str:
    """Return the store to use: the argument, else MLFLOW_TRACKING_URI, else an SQLite file in the working folder.

    >>> resolve_uri("sqlite:///elsewhere.db")
    'sqlite:///elsewhere.db'
    """
    return tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def sqlite_path(tracking_uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other.

    >>> sqlite_path("sqlite:///mlflow.db").name, sqlite_path("http://127.0.0.1:5000")
    ('mlflow.db', None)
    """
    path = tracking_uri.removeprefix("sqlite:///")
    return None if path in (tracking_uri, "", ":memory:") else Path(path)
