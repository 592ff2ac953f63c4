"""A watcher of an Orthanc server: each stable study is answered once, its report goes back into the study."""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prostate_alm.delivery.orthanc.client import Backoff, GoneError, OrthancNode, ServerFaultError
from prostate_alm.delivery.orthanc.lease import Deposits, Lease, LeaseLostError, spool_folder
from prostate_alm.delivery.orthanc.state import Entry, ForeignMetadataError, Ledger, next_entry
from prostate_alm.delivery.orthanc.work import ClaimedStudy, Respond, answer_study, cause_of, digest_of, image_instances

logger = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FAREWELL = Backoff(first_s=0.2, patience_s=2.0)  # whoever stops a watcher does not wait for a server


@dataclass(frozen=True)
class Pace:
    """Times in seconds, and how often a study is tried.

    `interval_s` lies between two looks at the server. A study is taken when nothing has reached it for `quiet_s`. A
    claim without a sign of life for `lease_s` is abandoned. After a failure `retry_s` pass, twice as many after the
    next; after `attempts` the study is set aside.
    """

    interval_s: float = 5.0
    quiet_s: float = 30.0
    lease_s: float = 60.0
    retry_s: float = 30.0
    attempts: int = 3

    def __post_init__(self) -> None:
        limits = {"interval_s": 0.01, "quiet_s": 0.0, "lease_s": 0.1, "retry_s": 0.0, "attempts": 1}
        for name, least in limits.items():
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least:g}, got {getattr(self, name):g}. Give a greater one.")


@dataclass(frozen=True)
class WatchedStudy:
    """What became of a study, named by Orthanc's identifier, and the time that took; `code` as in its entry."""

    study: str
    state: str
    code: str
    reason: str
    attempts: int
    wall_s: float


@dataclass
class _Held:
    """An entry that is not to be taken yet, and since when it stands unchanged."""

    entry: Entry
    since: float = field(default_factory=time.monotonic)


@dataclass
class _Trouble:
    """What keeps a study from being looked at, how often in a row, and since when."""

    reason: str = ""
    times: int = 0
    since: float = field(default_factory=time.monotonic)


class FullError(OSError):
    """There is no room where the images of a study are kept while it is answered; tried again like a server's fault."""


class Watcher:
    """Answer the studies of one server with one model.

    Args:
        node: the server.
        respond: what answers one study.
        model_sha256: of the packed model's file: a study is answered once for each model.
        pace: times and number of attempts.
        pulse: called whenever the watcher shows that it lives.
    """

    def __init__(
        self,
        node: OrthancNode,
        respond: Respond,
        *,
        model_sha256: str,
        pace: Pace | None = None,
        pulse: Callable[[], None] = lambda: None,
    ) -> None:
        self._node, self._respond, self._model, self._pulse = node, respond, model_sha256, pulse
        self._pace = pace or Pace()
        self._ledger = Ledger(node, model_sha256)
        self._name = uuid.uuid4().hex
        self._held: dict[str, _Held] = {}
        self._next_look: dict[str, float] = {}  # monotonic times; a study that is not here needs no look
        self._troubles: dict[str, _Trouble] = {}
        self._given_up: list[WatchedStudy] = []

    def redo(self, study: str) -> None:
        """Make a study due again, whatever became of it.

        Raises:
            ValueError: it is not there.
        """
        try:
            self._ledger.change(study, lambda _: Entry(state="due", images="", attempts=0))
        except GoneError:
            raise ValueError(f"study must be in the server, got {study}. See GET /studies for identifiers.") from None

    def once(self) -> Iterator[WatchedStudy]:
        """Yield what becomes of each study that is in the server now; wait for those that are still arriving.

        A study in trouble for longer than the server's patience is given up: `unfinished` names it.
        """
        self._greet()
        self._look_at_all()
        with self._working() as (spool, deposits):
            while self._next_look:
                yield from self._round(spool, deposits)
                self._give_up()
                if self._next_look:
                    time.sleep(self._pace.interval_s)

    def unfinished(self) -> list[WatchedStudy]:
        """Return the studies that `once` was to answer and did not, wherever it ended."""
        return [*self._given_up, *map(self._unfinished, self._next_look)]

    def follow(self) -> Iterator[WatchedStudy]:
        """Yield what becomes of each study that is in the server or comes to it, without end."""
        outages, last = -1, 0
        with self._working() as (spool, deposits):
            while True:
                try:
                    if self._node.outages != outages:  # a server that was away forgot whom to tell about which study
                        number = self._node.outages
                        self._greet()
                        last = self._node.last_change()
                        self._look_at_all()
                        outages = number
                    changes = self._node.changes(last)
                    last = changes.last
                    for study in changes.studies:
                        self._next_look.setdefault(study, 0.0)
                except (ServerFaultError, GoneError) as error:
                    logger.warning("%s", error)
                yield from self._round(spool, deposits)
                time.sleep(self._pace.interval_s)

    @contextlib.contextmanager
    def _working(self) -> Iterator[tuple[Path, Deposits]]:
        """Give a folder for images, and what was stored and not yet seen to be wanted."""
        with spool_folder() as spool:
            try:
                yield spool, Deposits(self._node, model_sha256=self._model, folder=spool)
            finally:
                self._part(spool)

    def _part(self, spool: Path) -> None:
        """Look once more at what was stored; where the server is away the next watcher does so."""
        deposits = Deposits(self._node.another(_FAREWELL), model_sha256=self._model, folder=spool)
        with contextlib.suppress(OSError):
            for study in deposits.studies():
                deposits.settle(study)

    def _greet(self) -> None:
        if not self._node.system().get("CheckRevisions", False):
            logger.warning(
                "%s has no CheckRevisions: two watchers may answer the same study at the same time", self._node.url
            )

    def _look_at_all(self) -> None:
        """Look at every study; forget how long claims have stood, since nobody can show signs of life in an outage."""
        self._held.clear()
        for study in self._node.studies():
            self._next_look.setdefault(study, 0.0)

    def _round(self, spool: Path, deposits: Deposits) -> Iterator[WatchedStudy]:
        """Look at each study whose time has come."""
        for study in deposits.studies():
            with contextlib.suppress(ServerFaultError):  # the next round may go through
                deposits.settle(study)
        for study in [one for one, when in self._next_look.items() if when <= time.monotonic()]:
            self._pulse()
            try:
                wait_s, outcome = self._look(study, spool, deposits)
                self._troubles.pop(study, None)
            except GoneError:
                wait_s, outcome = None, None
            except (ServerFaultError, FullError) as error:
                wait_s, outcome = self._troubled(study, error), None
            except ForeignMetadataError as error:
                wait_s, outcome = None, WatchedStudy(study, "set_aside", "foreign_metadata", str(error), 0, 0.0)
            if wait_s is None:
                del self._next_look[study]
                self._held.pop(study, None)
                self._troubles.pop(study, None)
            else:
                self._next_look[study] = time.monotonic() + wait_s
            if outcome is not None:
                yield outcome
        self._pulse()

    def _troubled(self, study: str, error: OSError) -> float:
        """Note that the server, or a full disk, kept a study from being answered; return when to look again."""
        trouble = self._troubles.setdefault(study, _Trouble())
        trouble.times, trouble.reason = trouble.times + 1, str(error)
        wait_s = self._node.backoff.wait_s(trouble.times)
        logger.warning("study %s: %s Trying again in %g s", study, error, wait_s)
        return wait_s

    def _give_up(self) -> None:
        """Leave studies that were in trouble for longer than the patience."""
        limit_s = self._node.backoff.patience_s
        for study, trouble in list(self._troubles.items()):
            if limit_s is not None and time.monotonic() - trouble.since > limit_s:
                self._given_up.append(self._unfinished(study))
                del self._troubles[study], self._next_look[study]

    def _unfinished(self, study: str) -> WatchedStudy:
        trouble = self._troubles.get(study)
        reason = trouble.reason if trouble else "it was not its turn yet, is still arriving, or another watcher's"
        return WatchedStudy(study, "unfinished", "unfinished", reason, 0, 0.0)

    def _look(self, study: str, spool: Path, deposits: Deposits) -> tuple[float | None, WatchedStudy | None]:
        """Return after how long to look again, None for never, and what became of the study if anything did."""
        images = image_instances(self._node, study)
        before = self._ledger.read(study)
        if before is not None and before.is_settled and before.images == digest_of(images):
            return None, None
        stored = self._node.study(study)
        if not stored.is_stable or stored.quiet_s < self._pace.quiet_s:
            return self._pace.interval_s, None
        if before is not None and not before.is_settled and before.images != digest_of(images):
            deposits.note(study, before.announced.values())  # an answer to other images, stored in part
        wanted: list[Entry | None] = []

        def decide(current: Entry | None) -> Entry | None:
            wanted.append(self._wanted(study, current, images=images))
            return wanted[-1]

        entry = self._ledger.change(study, decide)
        if entry is not None and entry.is_claimed_by(self._name):
            deposits.settle(study)
            return self._take(study, images, claim=entry, spool=spool, deposits=deposits)
        if entry is not None and entry.is_settled:
            return None, _outcome(study, entry) if wanted[-1] is not None else None
        return self._pace.interval_s, None

    def _wanted(self, study: str, current: Entry | None, *, images: tuple[str, ...]) -> Entry | None:
        """Return the entry that a study should have before any work; None where it is right as it is."""
        digest = digest_of(images)
        if images:
            return next_entry(
                current,
                images=digest,
                watcher=self._name,
                most_attempts=self._pace.attempts,
                is_abandoned=current is not None and self._is_abandoned(study, current),
            )
        reason = "study must hold MR images, got none. Send a study with T2 and diffusion."
        return Entry(state="set_aside", images=digest, attempts=0, code="not_mr", reason=reason)

    def _is_abandoned(self, study: str, entry: Entry) -> bool:
        """Return whether a claim or a failure has stood for its time, by the clock of this watcher alone."""
        held = self._held.get(study)
        if held is None or held.entry != entry:
            held = self._held[study] = _Held(entry)
        is_failed = entry.state == "failed"
        limit_s = self._pace.retry_s * 2.0 ** (entry.attempts - 1) if is_failed else self._pace.lease_s
        return time.monotonic() - held.since >= limit_s

    def _take(
        self, study: str, images: tuple[str, ...], *, claim: Entry, spool: Path, deposits: Deposits
    ) -> tuple[float | None, WatchedStudy | None]:
        """Answer a study that this watcher has claimed; as `_look`."""
        start = time.monotonic()
        lease = Lease(self._node, study, claim=claim, model_sha256=self._model, lease_s=self._pace.lease_s)
        try:
            with lease.beating(self._pulse):
                entry = answer_study(
                    self._node,
                    ClaimedStudy(study, images, claim, lease),
                    ledger=self._ledger,
                    respond=self._respond,
                    deposits=deposits,
                    spool=spool,
                )
        except LeaseLostError:
            return self._pace.interval_s, None
        except GoneError:  # an image, or the study
            self._give_back(study, claim)
            return self._pace.interval_s, None
        except ServerFaultError:
            self._give_back(study, claim)
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                self._give_back(study, claim)
                raise FullError(
                    f"no room for its images in {tempfile.gettempdir()}. Make room, or set TMPDIR."
                ) from None
            logger.debug("study %s failed", study, exc_info=True)
            return self._failed(study, cause_of(error), since=start)
        except BaseException:  # Ctrl-C, SIGTERM: the next watcher need not wait for the end of the lease
            self._give_back(study, claim)
            raise
        written = self._ledger.change(study, lambda now: entry if now and now.is_claimed_by(self._name) else None)
        return (None, _outcome(study, entry, since=start)) if written == entry else (self._pace.interval_s, None)

    def _failed(self, study: str, reason: str, *, since: float) -> tuple[float | None, WatchedStudy | None]:
        """Note that an attempt failed, keeping what it announced; as `_look`."""
        changes = {"state": "failed", "code": "failed", "reason": reason}
        written = self._ledger.change(study, lambda now: self._changed(now, changes))
        is_ours = written is not None and written.state == "failed"
        return self._pace.interval_s, _outcome(study, written, since=since) if written and is_ours else None

    def _give_back(self, study: str, claim: Entry) -> None:
        """Make a claimed study due at once; where that is impossible its claim ends by itself."""
        changes = {"state": "due", "attempts": claim.attempts - 1}
        ledger = Ledger(self._node.another(_FAREWELL), self._model)
        with contextlib.suppress(OSError, LookupError, ValueError, RuntimeError):
            ledger.change(study, lambda now: self._changed(now, changes))

    def _changed(self, now: Entry | None, changes: dict[str, Any]) -> Entry | None:
        """Return this watcher's claim as another state; None where the claim is not its own."""
        if now is None or not now.is_claimed_by(self._name):
            return None
        return now.model_copy(update=changes | {"watcher": "", "beat": 0})


def _outcome(study: str, entry: Entry, *, since: float | None = None) -> WatchedStudy:
    wall_s = 0.0 if since is None else time.monotonic() - since
    return WatchedStudy(study, entry.state, entry.code, entry.reason, entry.attempts, wall_s)
