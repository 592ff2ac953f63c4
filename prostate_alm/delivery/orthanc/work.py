"""One claimed study: its images are fetched and answered, and the answer is stored beside them, exactly once."""

from __future__ import annotations

import hashlib
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom.objects import encoded
from prostate_alm.delivery.orthanc.client import GoneError, NodeError, OrthancNode
from prostate_alm.delivery.orthanc.lease import Deposits, Lease, LeaseLostError
from prostate_alm.delivery.orthanc.state import Entry, Ledger

ANSWERED = "answered"


class AnswerError(RuntimeError):
    """No answer through the program's own fault, so that it is worth another try; one line without identifiers."""


@dataclass(frozen=True, eq=False)
class Response:
    """What is answered to one study: `code` is "answered" or that of a refusal; `objects` go back into the study.

    Each object is the only one of its series, and a later answer to the same images names the same series.
    """

    code: str
    reason: str = ""
    objects: tuple[Dataset, ...] = ()


Respond = Callable[[Path], Response]
"""Folder with the images of a study -> what is answered."""


def image_instances(node: OrthancNode, study: str) -> tuple[str, ...]:
    """Return the instances of a study that an answer may rest on: of MR series, and where no modality is given.

    Reports and captures, our own among them, are none: they neither make a study due nor are they fetched.
    """
    wanted = [one.instances for one in node.series(study) if one.modality in ("MR", "")]
    return tuple(sorted(instance for instances in wanted for instance in instances))


def digest_of(images: Sequence[str]) -> str:
    """Return what tells one set of images from another.

    >>> len(digest_of(["a", "b"])), digest_of(["a", "b"]) == digest_of(["a"])
    (16, False)
    """
    return hashlib.sha256("\n".join(images).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class ClaimedStudy:
    """A study that a watcher holds.

    Attributes:
        study: Orthanc's identifier.
        images: instances to fetch.
        claim: the watcher's entry.
        lease: tells when the study was taken by another.
    """

    study: str
    images: tuple[str, ...]
    claim: Entry
    lease: Lease


def answer_study(
    node: OrthancNode, claimed: ClaimedStudy, *, ledger: Ledger, respond: Respond, deposits: Deposits, spool: Path
) -> Entry:
    """Return the settled entry of a claimed study once all that is answered is in the server.

    What is about to be stored is announced in the entry first. An attempt that was cut off after that is completed:
    what the server has of it stays, and only the rest is stored. A study that was deleted meanwhile would come back as
    one of the report alone: its entry is gone with it, so that what nobody announces is taken back.

    Args:
        node: the server.
        claimed: the study.
        ledger: where its entry is kept.
        respond: what answers.
        deposits: what was stored and not yet seen to be announced.
        spool: folder for the images, which are removed from it.

    Raises:
        LeaseLostError: another watcher took the study; nothing more is stored.
        GoneError: the study is not what it was: deleted, or with other images than those that were answered.
    """
    study, claim, lease = claimed.study, claimed.claim, claimed.lease
    held = {series for series, uid in claim.announced.items() if node.holds(uid)}
    with tempfile.TemporaryDirectory(dir=spool) as folder:
        for number, instance in enumerate(claimed.images):
            node.download(instance, Path(folder, f"{number:06d}.dcm"))
        response = respond(Path(folder))
    if image_instances(node, study) != claimed.images:
        raise GoneError("the images that were answered are not those of the study any more")
    if not response.objects:
        return settled(claim, code=response.code, reason=response.reason)
    kept = {series: uid for series, uid in claim.announced.items() if series in held}
    announced = {str(one.SeriesInstanceUID): str(one.SOPInstanceUID) for one in response.objects} | kept
    lease.check()
    ledger.change(study, lambda current: announcing(current, announced, watcher=claim.watcher))
    deposits.note(study, announced.values())
    for one in response.objects:
        if str(one.SeriesInstanceUID) not in kept:
            lease.check()
            if not (now := ledger.read(study)) or not now.is_claimed_by(claim.watcher):
                raise LeaseLostError(f"study {study}")
            node.store(encoded(one), study=study)
    if deposits.settle(study):
        raise GoneError("the study was deleted while its answer was stored")
    stored = claim.model_copy(update={"announced": announced})
    return settled(stored, code=response.code, reason=response.reason)


def settled(claim: Entry, *, code: str, reason: str = "") -> Entry:
    """Return the last entry of a study: done, or set aside with the code of its refusal."""
    return Entry(
        state="done" if code == ANSWERED else "set_aside",
        images=claim.images,
        attempts=claim.attempts,
        code=code,
        reason=reason,
        announced=claim.announced,
    )


def announcing(current: Entry | None, announced: dict[str, str], *, watcher: str) -> Entry | None:
    """Return the watcher's claim with what it is about to store; None where the claim is not its own."""
    if current is None or not current.is_claimed_by(watcher):
        return None
    return current.model_copy(update={"announced": announced})


def cause_of(error: Exception) -> str:
    """Return what failed without what it was about: messages of libraries may hold identifiers, their places do not.

    >>> cause_of(ValueError("Secret^Name"))
    'ValueError'
    """
    if isinstance(error, (NodeError, AnswerError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"
