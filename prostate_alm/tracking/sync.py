"""Log results that a store does not hold yet: those of trainings without a server, without tracking, or cut short."""

from dataclasses import dataclass
from pathlib import Path

from prostate_alm.progress import Progress, silent
from prostate_alm.results.folders import find_folders
from prostate_alm.results.tracking_uri import DEFAULT_URI, NO_TRACKING
from prostate_alm.tracking.ensemble_run import complete_ensemble, complete_member
from prostate_alm.tracking.store import STORE_ERRORS, StoreUnreachableError, first_line, open_store


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
    found = find_folders(root)
    client = open_store(tracking_uri)
    total = len(found.ensembles) + len(found.members)
    logged: list[Path] = []
    unchanged: list[Path] = []
    unfinished: list[Path] = []
    for done, ensemble in enumerate(found.ensembles, start=1):
        if ensemble.is_finished:
            new = complete_ensemble(client, ensemble)
            logged += new
            paths = [ensemble.path, *(member.path for member in ensemble.members())]
            unchanged += [path for path in paths if path not in new]
        else:
            unfinished.append(ensemble.path)
        progress(done, total)
    for done, member in enumerate(found.members, start=len(found.ensembles) + 1):
        if not member.is_finished:
            unfinished.append(member.path)
        else:
            (logged if complete_member(client, member) else unchanged).append(member.path)
        progress(done, total)
    return SyncReport(tuple(logged), tuple(unchanged), tuple(unfinished))
