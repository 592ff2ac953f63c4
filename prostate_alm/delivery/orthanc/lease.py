"""A claimed study stays claimed while its watcher lives; what a dead watcher left is removed, or taken back."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from prostate_alm.delivery.orthanc.client import GoneError, OrthancNode
from prostate_alm.delivery.orthanc.state import Entry, ForeignMetadataError, Ledger

DEPOSITS = "deposits.jsonl"  # in the folder of a watcher: a line for each study, true as soon as it is written


class Deposits:
    """Objects that were stored in a study, or were about to be, until the study's entry was seen to announce them.

    They outlive the watcher in its folder: one that is killed between the deletion of a study by others and its own
    look at it leaves that look to the next watcher on the machine.

    Args:
        node: the server.
        model_sha256: whose entries announce them.
        folder: of the watcher.
    """

    def __init__(self, node: OrthancNode, *, model_sha256: str, folder: Path) -> None:
        self._node, self._ledger = node, Ledger(node, model_sha256)
        self._owner = {"server": node.url, "model": model_sha256}
        self._file = folder / DEPOSITS
        self._objects: dict[str, set[str]] = {}
        for line in self._file.read_text().splitlines() if self._file.exists() else []:
            noted = json.loads(line)
            if {name: noted[name] for name in self._owner} == self._owner:
                self._objects.setdefault(noted["study"], set()).update(noted["objects"])

    def studies(self) -> list[str]:
        """Return the studies with objects that were not yet seen to be announced."""
        return list(self._objects)

    def note(self, study: str, sop_instance_uids: Iterable[str]) -> None:
        """Note objects that are about to be stored in a study."""
        self._objects.setdefault(study, set()).update(sop_instance_uids)
        with self._file.open("a") as stream:
            line = self._owner | {"study": study, "objects": sorted(self._objects[study])}
            stream.write(json.dumps(line) + "\n")

    def settle(self, study: str) -> bool:
        """Take back what the study's entry does not announce, and return whether that was anything."""
        orphans = self._objects.get(study, set()) - self._announced(study)
        for uid in sorted(orphans):
            self._node.take_back(uid)
        self._objects.pop(study, None)
        if not self._objects:
            self._file.write_text("")
        return bool(orphans)

    def _announced(self, study: str) -> set[str]:
        try:
            entry = self._ledger.read(study)
        except ForeignMetadataError:  # nobody can tell: what was stored stays
            return self._objects.get(study, set())
        return set(entry.announced.values()) if entry else set()


def is_settled(folder: Path) -> bool:
    """Return whether a watcher's folder holds nothing that the next one must look at."""
    return not (folder / DEPOSITS).exists() or not (folder / DEPOSITS).stat().st_size


def inherit(left: Path, heir: Path) -> None:
    """Add what a dead watcher noted to the folder of a living one."""
    if (left / DEPOSITS).is_file():
        whole = [line for line in (left / DEPOSITS).read_text().splitlines() if line.endswith("}")]
        with (heir / DEPOSITS).open("a") as stream:
            stream.writelines(line + "\n" for line in whole)


logger = logging.getLogger(__name__)

_SPOOL = "prostate-alm-watch-"
_LOCK = "lock"
_PARTING_S = 1.0
_BEATS = 4  # in the time after which a claim without one is abandoned


class LeaseLostError(RuntimeError):
    """Another watcher took the study, since this one was not heard of for too long."""


class Lease:
    """A claim that shows signs of life: a thread raises its beat.

    Args:
        node: the server; the thread uses a client of its own.
        study: Orthanc's identifier.
        claim: the entry of the watcher.
        model_sha256: whose entry it is.
        lease_s: time without a beat after which others may take the study.
    """

    def __init__(self, node: OrthancNode, study: str, *, claim: Entry, model_sha256: str, lease_s: float) -> None:
        self._ledger = Ledger(node.another(), model_sha256)
        self._study, self._watcher = study, claim.watcher
        self._every_s = lease_s / _BEATS
        self._lost, self._over = threading.Event(), threading.Event()

    @contextlib.contextmanager
    def beating(self, pulse: Callable[[], None]) -> Iterator[None]:
        """Raise the beat as long as the context lasts; `pulse` is called with each beat."""
        thread = threading.Thread(target=self._run, args=(pulse,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(_PARTING_S)  # one that waits for a server is left: it changes this watcher's claims only

    def check(self) -> None:
        """Raise `LeaseLostError` where the study is not this watcher's any more."""
        if self._lost.is_set():
            raise LeaseLostError(f"study {self._study}")

    def _run(self, pulse: Callable[[], None]) -> None:
        while not self._over.wait(self._every_s):
            try:
                entry = self._ledger.change(self._study, self._raised)
            except (OSError, ValueError, RuntimeError) as error:  # the next beat may go through
                logger.warning("study %s: no sign of life (%s)", self._study, type(error).__name__)
                continue
            except GoneError:
                entry = None
            if entry is None or not entry.is_claimed_by(self._watcher):
                self._lost.set()
                return
            pulse()

    def _raised(self, current: Entry | None) -> Entry | None:
        """Return this watcher's claim with the next beat, None for any other entry."""
        if current is None or not current.is_claimed_by(self._watcher) or self._over.is_set():
            return None
        return current.model_copy(update={"beat": current.beat + 1})


@contextlib.contextmanager
def spool_folder() -> Iterator[Path]:
    """Give a folder that only this user can read, removed at the end, and remove those of watchers that were killed.

    They hold images of patients. A lock that dies with its process tells which ones are in use. A folder gets its name
    when it is locked already, or another watcher that starts just now would take it for abandoned. What the killed ones
    had noted (`Deposits`) goes on in the new folder.
    """
    root = Path(tempfile.gettempdir())
    new = Path(tempfile.mkdtemp(prefix=f".{_SPOOL}", dir=root))
    folder = new.with_name(new.name.removeprefix("."))
    with FileLock(new / _LOCK):
        for left in root.glob(f"{_SPOOL}*"):
            _remove_abandoned(left, heir=new)
        new.rename(folder)
        try:
            yield folder
        finally:
            for one in folder.iterdir():
                if one.name not in (_LOCK, DEPOSITS):
                    shutil.rmtree(one, ignore_errors=True)
            if is_settled(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(folder: Path, *, heir: Path) -> None:
    """Remove the folder of a watcher that does not live; another user's stays."""
    if folder.is_symlink() or not (folder / _LOCK).is_file():
        return
    with contextlib.suppress(Timeout, OSError), FileLock(folder / _LOCK, blocking=False):
        inherit(folder, heir)
        shutil.rmtree(folder, ignore_errors=True)
