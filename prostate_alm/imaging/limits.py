"""The most that files of strangers may cost: every limit on what they promise, asked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass


class OverLimitError(ValueError):
    """A file that promises or holds more than any image of a study does; the message is one line."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a study may hold, far above what scanners write, and what the process that reads it may take."""

    header_bytes: int = 32 * 2**20  # before the pixels of one file; the longest Enhanced ones have 20 MiB
    inflated_bytes: int = 256 * 2**20  # of a deflated file
    elements: int = 2_000_000  # of one header, those of its items included
    items: int = 10_000  # of one sequence: frames of an Enhanced object
    depth: int = 32  # sequences within sequences
    matrix: int = 4096  # rows, and columns
    voxels: int = 48 * 2**20  # of all images of a study that are used
    memory_bytes: int = 640 * 2**20  # beyond what the reading process starts with
    computing_s: int = 8  # of one step: the headers of a study, or its pixels
    waiting_s: int = 600  # for one step: a disk may be slow


LIMITS = Limits()


def require_at_most(found: int, limit: int, what: str) -> None:
    """Refuse more than a limit.

    Raises:
        OverLimitError: it is more.

    >>> require_at_most(20_000, LIMITS.matrix, "rows")
    Traceback (most recent call last):
    ...
    prostate_alm.imaging.limits.OverLimitError: rows must be at most 4096, got 20000
    """
    if found > limit:
        raise OverLimitError(f"{what} must be at most {limit}, got {found}")
