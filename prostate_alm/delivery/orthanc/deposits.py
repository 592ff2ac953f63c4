"""What a watcher stored and has not yet seen to be wanted: the answer to a study that was deleted is taken back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from prostate_alm.delivery.orthanc.client import OrthancNode
from prostate_alm.delivery.orthanc.state import ForeignMetadataError, Ledger

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
