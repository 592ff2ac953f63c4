"""How far a study is, kept by Orthanc beside the study: one value for all models, written by compare and swap."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prostate_alm.delivery.orthanc.client import METADATA_NUMBER, OrthancNode, ServerFaultError

_WRITES = 20  # that others may win before something must be wrong


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Frozen):
    """How far one study is for one model.

    `due`: to be done. `claimed`: `watcher` is at it and raises `beat` while it lives. `failed`: to be tried again.
    `done`: answered. `set_aside`: refused, or given up; `code` and `reason` say why. `images` is the digest of the
    images it rests on, `attempts` counts those on these images. `announced` maps Series to SOP Instance UID of the
    objects that are about to be stored or were.
    """

    state: Literal["due", "claimed", "failed", "done", "set_aside"]
    images: str
    attempts: int = Field(ge=0)
    code: str = ""
    reason: str = ""
    watcher: str = ""
    beat: int = 0
    announced: dict[str, str] = {}
    time: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do for these images."""
        return self.state in ("done", "set_aside")

    def is_claimed_by(self, watcher: str) -> bool:
        """Return whether a watcher is at work on the study, as far as this entry knows."""
        return self.state == "claimed" and self.watcher == watcher


class _LedgerRecord(_Frozen):
    """The value kept beside a study; `models` maps the SHA-256 of a packed model to its entry."""

    prostate_alm: Literal[1] = 1
    models: dict[str, Entry] = {}


class ForeignMetadataError(ValueError):
    """The metadata number is in use by another program: it stays as it is."""


def next_entry(
    current: Entry | None, *, images: str, watcher: str, most_attempts: int, is_abandoned: bool
) -> Entry | None:
    """Return the entry that takes a study, or gives it up; None where it is settled or another watcher's.

    Args:
        current: its entry now.
        images: digest of its images now; others than before make a settled study due.
        watcher: who asks.
        most_attempts: that may end without an answer.
        is_abandoned: whether a claimed or failed entry has stood unchanged for as long as it may.

    A claim of `watcher` itself is one that it could not give back, since the server was in trouble: it goes on with it,
    and no attempt is counted.

    >>> next_entry(None, images="a", watcher="w", most_attempts=3, is_abandoned=False).attempts
    1
    """
    taken = Entry(state="claimed", images=images, attempts=1, watcher=watcher)
    if current is None:
        return taken
    if current.is_claimed_by(watcher) and current.images == images:
        return current
    is_held = current.state in ("claimed", "failed") and not is_abandoned
    if current.images != images:
        return None if is_held and current.state == "claimed" else taken
    if current.is_settled or is_held:
        return None
    if current.attempts >= most_attempts:
        reason = f"{current.attempts} attempts ended without an answer; the last: {current.reason or 'it was cut off'}"
        return Entry(state="set_aside", images=images, attempts=current.attempts, code="failed", reason=reason)
    return taken.model_copy(update={"attempts": current.attempts + 1, "announced": current.announced})


class Ledger:
    """The entries of one model in one server.

    Args:
        node: the server.
        model_sha256: of the packed model's file.
    """

    def __init__(self, node: OrthancNode, model_sha256: str) -> None:
        self._node = node
        self._model = model_sha256

    def read(self, study: str) -> Entry | None:
        """Return a study's entry; errors are those of `change`."""
        return self.change(study, lambda _: None)

    def change(self, study: str, decide: Callable[[Entry | None], Entry | None]) -> Entry | None:
        """Replace a study's entry by what `decide` makes of it, which is asked again whenever another was faster.

        Args:
            study: Orthanc's identifier.
            decide: current entry -> new entry, or None to leave it.

        Returns:
            The entry as it stands now.

        Raises:
            ForeignMetadataError: the value is not of this program.
            GoneError: the study is not there.
            ServerFaultError: others wrote all the time.
        """
        for _ in range(_WRITES):
            value, revision = self._node.metadata(study)
            ledger = _parsed(value)
            current = ledger.models.get(self._model)
            wanted = decide(current)
            if wanted is None or wanted == current:
                return current
            models = ledger.models | {self._model: wanted}
            text = _LedgerRecord(models=models).model_dump_json()
            if self._node.put_metadata(study, text, revision=revision):
                return wanted
        raise ServerFaultError(
            f"the state of study {study} must be writable, got {_WRITES} conflicts. See the server's log."
        )


def _parsed(value: str) -> _LedgerRecord:
    """Return the ledger in a value; an empty value is an empty one."""
    if not value.strip():
        return _LedgerRecord()
    try:
        return _LedgerRecord.model_validate_json(value)
    except ValidationError:
        raise ForeignMetadataError(
            f"metadata {METADATA_NUMBER} must be free for prostate-alm, got a value of another program. Remove it, or "
            "update prostate-alm."
        ) from None
