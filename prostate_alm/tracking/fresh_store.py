"""A fresh SQLite store is there whole or not at all; one that a kill left half-made is put aside."""

import contextlib
import logging
import sqlite3
import time
from pathlib import Path

logger = logging.getLogger(__name__)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # tables that are made concern nobody

_STILL_S = 10.0  # a file that nobody wrote for so long is not being made: no migration of a fresh store takes a second
_LOOK_S = 0.5
_BESIDE = ("", "-journal", "-wal", "-shm")  # what SQLite keeps beside a database


def ensure_made(path: Path) -> None:
    """Make the tables of an SQLite store that has none, beside it and renamed: a kill leaves nothing or all of them.

    A half-made store of another program (`mlflow ui`, killed) that is not being made any more is put aside first.

    Args:
        path: of the store. The caller holds its lock.
    """
    while is_half_made(path):
        if time.time() - _last_write(path) >= _STILL_S:
            _put_aside(path)
        else:
            time.sleep(_LOOK_S)
    if not path.exists() or not path.stat().st_size:
        _make(path)


def is_half_made(path: Path) -> bool:
    """Return whether a file is an MLflow store without any experiment: the default one is made last."""
    if not path.exists() or not path.stat().st_size:
        return False
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as store:
        tables = {name for (name,) in store.execute("select name from sqlite_master where type = 'table'")}
        if not tables <= _mlflow_tables(tables):
            return False  # of another program: MLflow says so
        return all(name not in tables or _is_empty(store, name) for name in ("experiments", "runs"))
    return False  # no database, or in use


def _mlflow_tables(tables: set[str]) -> set[str]:
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.model_registry.dbmodels import models as registry  # noqa: F401  # fill the list
    from mlflow.store.tracking.dbmodels import models as runs  # noqa: F401
    from mlflow.store.tracking.dbmodels.initial_models import Base as First

    return {
        *Base.metadata.tables,
        *First.metadata.tables,
        "workspaces",  # of a migration, without a model
        *(name for name in tables if name.startswith(("alembic_", "_alembic_", "sqlite_"))),
    }


def _is_empty(store: sqlite3.Connection, table: str) -> bool:
    return store.execute(f"select 1 from {table} limit 1").fetchone() is None


def _last_write(path: Path) -> float:
    files = [Path(f"{path}{end}") for end in _BESIDE]
    return max(file.stat().st_mtime for file in files if file.exists())


def _put_aside(path: Path) -> None:
    number = next(number for number in range(1, 10_000) if not Path(f"{path}.half-made-{number}").exists())
    for end in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{end}").rename(f"{path}.half-made-{number}{end}")
    logger.warning("%s was left half-made, without runs: put aside as %s.half-made-%d", path, path.name, number)


def _make(path: Path) -> None:
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    making = path.with_name(f"{path.name}.making")
    for end in _BESIDE:
        Path(f"{making}{end}").unlink(missing_ok=True)
    # as MLflow itself makes it at the first use
    store = SqlAlchemyStore(f"sqlite:///{making}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    store.engine.dispose()
    making.rename(path)
