"""The folder that holds one member's results; nothing in it is ever overwritten by accident."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from prostate_alm.whole_files import write_text_atomically

CONFIG, CHECKPOINT, MODEL, METRICS = "config.json", "checkpoint.pt", "model.pt", "metrics.json"
PREDICTIONS, ROC_FIGURE, HISTORY, TRACKING = "predictions.csv", "roc.png", "history.csv", "tracking.json"
CONFUSION = "confusion.csv"
_ALL_FILES = (CONFIG, CHECKPOINT, MODEL, METRICS, PREDICTIONS, ROC_FIGURE, HISTORY, TRACKING, CONFUSION)
BUNDLE_FILES = "bundle"
"""Folder with the config files that the run was made with: the bundle may change, the run stays readable."""
LOCK = ".lock"
_ENDING_S = 1.0  # that a killed process may take to be gone
DTYPE = "dtype"
"""Key of the configuration: which precision `auto` chose when the run began. It goes on with that on any machine."""
ENSEMBLE, MEMBERS_TABLE = "ensemble.json", "members.csv"
"""What an ensemble's folder has besides the names that it shares with a member's."""
_RUN_NAME = re.compile(r"run-(\d{3,})")
_EXECUTED_CONFIG = re.compile(r"config_\d{8}_\d{6}\.json")


def member_name(member: int) -> str:
    """Return the name of a member's folder and of its run in MLflow.

    >>> member_name(3)
    'member-03'
    """
    return f"member-{member:02d}"


def changed_keys(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[str]:
    """Return the keys, sorted, whose values differ; an absent one has the value None.

    >>> changed_keys({"a": 1, "b": 2}, {"b": 3, "c": None})
    ['a', 'b']
    """
    return sorted(key for key in new.keys() | old.keys() if new.get(key) != old.get(key))


class RunFolderError(ValueError):
    """A folder that this run may not use; the message is one line that says what to do."""


class EnsembleError(ValueError):
    """Members that do not make an ensemble; the message is one line that says what to do."""


class RunFolder:
    """Files of one run, by name, in `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str) -> Path:
        """Return the path of a file of the run."""
        return self.path / name

    @property
    def is_finished(self) -> bool:
        """Whether the run wrote its results: they are written last."""
        return self.file(METRICS).is_file()

    def lock(self) -> AbstractContextManager[object]:
        """Take the folder until the returned context ends: no other process may train in it meanwhile.

        Raises:
            RunFolderError: another process holds it.
        """
        try:
            return FileLock(self.file(LOCK), timeout=_ENDING_S).acquire()
        except Timeout as error:
            raise RunFolderError(
                f"output_dir must not be in use by another process, got {self.path}. Wait until that has ended."
            ) from error

    def keep_bundle_files(self, paths: Iterable[Path]) -> None:
        """Copy the config files of the bundle beside the results."""
        folder = self.file(BUNDLE_FILES)
        folder.mkdir(exist_ok=True)
        for path in paths:
            write_text_atomically(folder / path.name, path.read_text(encoding="utf-8"))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the run atomically."""
        write_text_atomically(self.file(name), json.dumps(content, indent=1) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run; empty when it is not there.

        Raises:
            ValueError: it does not hold a JSON object.
        """
        path = self.file(name)
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(
                f"results must be JSON, got something else in {path} ({error}). Make these results again."
            ) from error
        if not isinstance(content, dict):
            raise ValueError(
                f"results must be a JSON object, got {type(content).__name__} in {path}. Make these results again."
            )
        return content


def require_new(path: Path) -> None:
    """Check that a run may start anew in a folder; nothing is written.

    Raises:
        RunFolderError: the folder holds files already.
    """
    if path.exists() and (not path.is_dir() or any(not _is_of_monai(file) for file in path.iterdir())):
        raise RunFolderError(
            f"output_dir must be a new or empty folder, got {path}, which holds files. "
            "Choose another one, or give --resume true to go on with that run, or --overwrite true to replace it."
        )


def require_overwritable(path: Path) -> None:
    """Check that the results in a folder may be replaced; nothing is written.

    Raises:
        RunFolderError: the folder holds files, but no run's results.
    """
    if path.is_dir() and any(path.iterdir()) and not (path / CONFIG).is_file():
        raise RunFolderError(
            f"output_dir must hold a run's {CONFIG} to be overwritten, got {path}, which holds other files. "
            "Choose another folder."
        )


def require_resumable(path: Path, config: Mapping[str, Any]) -> None:
    """Check that a run of this configuration may go on, or start anew, in a folder; nothing is written.

    Raises:
        RunFolderError: the folder holds a run with another configuration, or files that no run wrote.
    """
    earlier = RunFolder(path).read_json(CONFIG)
    if not earlier:
        require_new(path)
        return
    changed = changed_keys(_required(config), _required(earlier))
    if changed:
        first = changed[0]
        raise RunFolderError(
            f"a resumed run must have the configuration of the run in {path}, got another {', '.join(changed)} "
            f"({first}: {config.get(first)!r}, was {earlier.get(first)!r}). Give the same values or another output_dir."
        )


def _required(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a resumed run must have in common with the one that was begun: a precision asked for is a setting."""
    return {key: value for key, value in config.items() if key != DTYPE}


def claim(path: Path, config: Mapping[str, Any], *, resume: bool = False) -> RunFolder:
    """Make the folder of a run; the results of an earlier one in it are deleted, files of other origin stay.

    Args:
        path: that one of the checks above allows.
        config: what determines the run.
        resume: go on with the run in it, where there is one.
    """
    folder = RunFolder(path)
    if resume and folder.file(CONFIG).is_file():
        return folder
    for name in _ALL_FILES:
        folder.file(name).unlink(missing_ok=True)
    path.mkdir(parents=True, exist_ok=True)
    folder.write_json(CONFIG, config)
    return folder


def _is_of_monai(file: Path) -> bool:
    """Whether MONAI's own `--tracking` put the file there before the run began: a copy of the config."""
    return _EXECUTED_CONFIG.fullmatch(file.name) is not None


def next_run_path(root: Path) -> Path:
    """Make and return `root/run-NNN`, numbered after the highest number there; never the same for two processes."""
    while True:
        path = root / f"run-{max([0, *_run_numbers(root)]) + 1:03d}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:  # another process was faster
            continue
        return path


def latest_run_path(root: Path, config: Mapping[str, Any]) -> Path | None:
    """Return the newest `root/run-NNN` with this configuration; None when there is none."""
    for number in sorted(_run_numbers(root), reverse=True):
        path = root / f"run-{number:03d}"
        if _required(RunFolder(path).read_json(CONFIG)) == _required(config):
            return path
    return None


def _run_numbers(root: Path) -> list[int]:
    if not root.is_dir():
        return []
    matches = (_RUN_NAME.fullmatch(path.name) for path in root.iterdir())
    return [int(match[1]) for match in matches if match]
