"""Folders that are written to, and the MLflow store where it is a file."""

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from urllib.parse import quote

from prostate_alm.doctor.findings import Finding
from prostate_alm.results.tracking_uri import sqlite_path

NEEDED_GB, COMFORTABLE_GB = 1.0, 10.0
"""Free space: the default cohort with one training; a cohort of some hundred studies with an ensemble of ten."""

_GB = 1e9


def check_folder(
    name: str, folder: Path, *, needed_gb: float = NEEDED_GB, comfortable_gb: float = COMFORTABLE_GB
) -> Finding:
    """Say whether a folder can be written to and has space; one that is not there yet is made in its parent.

    Args:
        name: of the check.
        folder: where files will be written. A nameless file is written into it and vanishes.
        needed_gb: free space below which it is a problem.
        comfortable_gb: free space below which it is a note.
    """
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        return Finding(name, "problem", f"{there} cannot be written to: {error.strerror}", "Choose another folder.")
    free_gb = shutil.disk_usage(there).free / _GB
    found = f"{free_gb:.1f} GB free in {there}"
    if free_gb < needed_gb:
        return Finding(name, "problem", found, f"Make room: at least {needed_gb:g} GB are needed.")
    if free_gb < comfortable_gb:
        return Finding(name, "note", found, f"Enough to try it; {comfortable_gb:g} GB are better for a cohort.")
    return Finding(name, "ok", found)


def check_places(output: Path) -> list[Finding]:
    """Say the same of the working folder, of where results go, and of where temporary files go.

    Args:
        output: folder of the results.
    """
    places = {"working folder": Path.cwd(), "results": output, "temporary files": Path(tempfile.gettempdir())}
    if Path("data").exists():  # cohorts; else made in the working folder
        places["data"] = Path("data")
    return [check_folder(name, folder) for name, folder in places.items()]


def check_sqlite_store(uri: str) -> Finding:
    """Say whether an SQLite store can be read and written; one that is not there yet will be made.

    Args:
        uri: `sqlite:///PATH`.
    """
    name, path = "tracking", sqlite_path(uri)
    if path is None:
        return Finding(name, "note", f"{uri} is kept in memory and ends with each process", "Give sqlite:///mlflow.db")
    if not path.exists():
        folder = check_folder(name, path.parent, needed_gb=0, comfortable_gb=0)
        return folder if folder.level == "problem" else Finding(name, "ok", f"{path} will be made by the first run")
    try:
        runs = _runs_in(path)
    except sqlite3.OperationalError as error:
        busy = "locked" in str(error)
        advice = "Another process writes to it: wait." if busy else "Check its owner and the folder."
        return Finding(name, "note" if busy else "problem", f"{path} cannot be opened: {error}", advice)
    except sqlite3.DatabaseError as error:
        return Finding(name, "problem", f"{path} is no store of MLflow: {error}", "Move the file away.")
    if not os.access(path, os.W_OK):
        return Finding(name, "problem", f"{path} can be read only", "Check its owner, or set MLFLOW_TRACKING_URI.")
    return Finding(name, "ok", f"{path}, {runs} runs")


def _runs_in(path: Path) -> int:
    """Count the runs; 0 in an empty database, whose tables MLflow makes."""
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=1)
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "runs" not in tables:
            raise sqlite3.DatabaseError("it has other tables")
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0]) if tables else 0
    finally:
        connection.close()
