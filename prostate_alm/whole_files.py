"""Files as wholes: known by their checksum; written whole or not at all, whether by a kill or for want of room."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it takes the place of `path` when the block ends.

    After an error nothing is left of it, and `path` is as it was. The name holds the process's number, so that two
    processes that write the same file do not meet.

    Raises:
        OSError: the file cannot take the place of `path`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "one.txt")) as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [file.name for file in Path(folder).iterdir()]
    ['one.txt']
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # there is one only when writing failed


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside `path` to fill, which the caller then gives its name; after an error it is gone.

    One that a kill left is emptied.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write the content of a file; raise `OSError` where its folder is absent or cannot be written to."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a file in UTF-8, lines ending as they do in `text`; raise as `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8"))


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of the file's bytes in lower-case hexadecimal; raise `OSError` where it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
