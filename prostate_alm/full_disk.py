"""A disk without room, told in one line: where it is, what is safe, what to do. Libraries tell it in many ways."""

import errno
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_ROOM_BYTES = 1 << 18  # where less is free, a failure to write needs no other explanation


def full_disk_line(error: BaseException, places: Iterable[Path]) -> str | None:
    """Return one line for an error that comes of a full disk; None for any other.

    Args:
        error: what was raised. torch does not say why it could not write: the disks are asked.
        places: files and folders that are written to; the temporary folder is one, too.
    """
    errors = list(_chain(error))
    says_so = any(getattr(one, "errno", None) in _FULL or "disk is full" in str(one) for one in errors)
    is_silent = any(type(one) is RuntimeError for one in errors)
    fullest = min((*places, Path(tempfile.gettempdir())), key=_free_bytes)
    if not says_so and (_free_bytes(fullest) >= _NO_ROOM_BYTES or not is_silent):
        return None
    named = (one.filename for one in errors if isinstance(one, OSError) and one.filename)
    where = next(named, fullest)
    return f"{where}: no room left. What was finished is kept and whole: make room and run the same command again."


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _free_bytes(place: Path) -> int:
    there = next((one for one in (place, *place.absolute().parents) if one.exists()), Path.cwd())
    return shutil.disk_usage(there).free
