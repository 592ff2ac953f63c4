"""One archive from the web to a folder on disk: resumable, verified, and all or nothing."""

import contextlib
import hashlib
import http.client
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from prostate_alm.progress import Progress, silent

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 30.0  # without a byte; not for the whole download
_MEGABYTE = 10**6


class DownloadError(ValueError):
    """An archive that could not be fetched, verified or unpacked; the message is one line that says what to do."""


@dataclass(frozen=True)
class Archive:
    """A file on the web: where it is, and how to know it by its size and by the MD5 in hexadecimal."""

    url: str
    size_bytes: int
    md5: str

    @property
    def name(self) -> str:
        """The file's name, the last part of the address.

        >>> Archive("https://example.org/data/images.tar.gz", 3, "").name
        'images.tar.gz'
        """
        return self.url.rsplit("/", 1)[-1]


def md5_of_file(path: Path) -> str:
    """Return the MD5 of the file's bytes in lower-case hexadecimal, to tell damage, not to resist an attack."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def ensure_folder(archive: Archive, folder: Path, *, progress: Callable[[str], Progress] = lambda _: silent) -> None:
    """Make `folder` from the archive, which lies beside it or is fetched; nothing is done where the folder is.

    A process that finds another at work on the same folder waits for it. Wherever this is killed, `folder` and the
    archive are either whole or absent, and the next call goes on from what has arrived.

    Args:
        archive: a compressed tar file that holds one folder of the name of `folder`.
        folder: what to make; its parent is created.
        progress: name of the work -> what is called with (megabytes done, megabytes in all).

    Raises:
        DownloadError: no network, a server that sends something else, no space, or an archive that is not the right
            one by its checksum.
    """
    if folder.is_dir():
        return  # where nothing may be written, too
    path = folder.with_name(archive.name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_process(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():  # the process that was waited for has made it
                return
            if not path.exists():
                fetch_archive(archive, path, progress=progress(f"downloading {path.name}, MB"))
            require_checksum(archive, path)
            _unpack(path, folder, progress(f"unpacking {path.name}, MB"))
    except (OSError, tarfile.TarError) as error:
        raise DownloadError(
            f"{folder} must be made from {archive.name}, got: {_cause(error)}. Free space, or choose another folder."
        ) from error


@contextlib.contextmanager
def _only_process(lock: Path) -> Iterator[None]:
    """Wait until no other process holds the lock; a kill releases it. Where nothing can be locked, do not wait."""
    with lock.open("wb") as stream:
        if sys.platform != "win32":
            import fcntl

            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def fetch_archive(archive: Archive, path: Path, *, progress: Progress = silent) -> None:
    """Fetch the archive to `path`; what an earlier call has left in `path` + ".part" is not fetched again.

    Args:
        archive: what to fetch.
        path: receives the whole, verified archive by a rename.
        progress: called with (megabytes done, megabytes in all), rounded up.

    Raises:
        DownloadError: the server cannot be reached, breaks off or sends something else, or the checksum is wrong. What
            has arrived is kept, except under a wrong checksum.
        OSError: the file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    start = part.stat().st_size if part.exists() else 0
    if start != archive.size_bytes:
        _fetch_rest(archive, part, start=start if start < archive.size_bytes else 0, progress=progress)
    try:
        require_checksum(archive, part)
    except DownloadError:
        part.unlink()  # nothing can be made of it, and the next call would only go on from it
        raise
    part.replace(path)


def _fetch_rest(archive: Archive, part: Path, *, start: int, progress: Progress) -> None:
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={start}-"})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{archive.url} must be reachable, got: {_cause(error)}. Check the network.") from error
    with answer:
        start = _require_this_archive(archive, answer, start)
        with part.open("ab" if start else "wb") as stream:
            _copy(archive, answer, stream, start=start, progress=progress)


def _require_this_archive(archive: Archive, answer: http.client.HTTPResponse, start: int) -> int:
    """Return where the answer begins: at `start`, or at 0 when the server sends the whole file."""
    total = answer.headers.get("Content-Length")
    if answer.status == http.client.PARTIAL_CONTENT:
        sent, _, total = answer.headers.get("Content-Range", "").partition("/")
        if not sent.startswith(f"bytes {start}-"):
            raise DownloadError(f"{archive.url} must be sent from byte {start} on, got {sent!r}. Try again later.")
    else:
        start = 0
    if total not in (None, "*", str(archive.size_bytes)):
        raise DownloadError(
            f"{archive.name} must have {archive.size_bytes} bytes, got {total} from {archive.url}. "
            "Something else answers for that server: check proxy and login page of the network."
        )
    return start


def _copy(
    archive: Archive, answer: http.client.HTTPResponse, stream: BinaryIO, *, start: int, progress: Progress
) -> None:
    done, cause = start, "the connection ended"
    while done < archive.size_bytes:
        try:
            chunk = answer.read(min(_CHUNK_BYTES, archive.size_bytes - done))
        except (OSError, http.client.HTTPException) as error:
            chunk, cause = b"", _cause(error)
        if not chunk:
            raise DownloadError(
                f"{archive.name} must have {archive.size_bytes} bytes, got {done} from {archive.url} ({cause}). "
                "Run again: it goes on from there."
            )
        stream.write(chunk)
        done += len(chunk)
        progress(-(-done // _MEGABYTE), -(-archive.size_bytes // _MEGABYTE))


def require_checksum(archive: Archive, path: Path) -> None:
    """Compare the file at `path` with the archive's MD5.

    Raises:
        DownloadError: it is another; the message names size and MD5 of both.
    """
    found = md5_of_file(path)
    if found != archive.md5:
        raise DownloadError(
            f"{archive.name} must have MD5 {archive.md5} ({archive.size_bytes} bytes), got {found} "
            f"({path.stat().st_size} bytes) in {path}. Delete it if it is still there, and run again."
        )


def _unpack(path: Path, folder: Path, progress: Progress) -> None:
    """Extract beside `folder`, then rename, so that `folder` is never half full."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # a kill may have left one
    total = -(-path.stat().st_size // _MEGABYTE)
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw) as tar:
            for member in tar:
                tar.extract(member, temporary, filter="data")
                progress(min(raw.tell() // _MEGABYTE, total - 1), total)
        (temporary / folder.name).replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    progress(total, total)


def _cause(error: Exception) -> str:
    r"""Return the error in one line.

    >>> _cause(urllib.error.URLError("no route\nto host"))
    'no route to host'
    """
    reason = error.reason if isinstance(error, urllib.error.URLError) else None
    status = f"HTTP {error.code} " if isinstance(error, urllib.error.HTTPError) else ""
    return status + " ".join(str(reason or error or type(error).__name__).split())
