"""The download against a real server on this machine that knows byte ranges, breaks off, stalls and lies."""

import hashlib
import io
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from prostate_alm.data.download import Archive, DownloadError, ensure_folder, fetch_archive

FILES = {f"pictures/{name}.bin": np.random.default_rng(i).bytes(700_000) for i, name in enumerate("abc")}


def packed(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


CONTENT = packed(FILES)  # random bytes do not shrink: 2.1 MB
HALF = len(CONTENT) // 2


@dataclass
class Behaviour:
    """What the server does with the next requests, and the ranges that it was asked for."""

    content: bytes = CONTENT
    ranges: bool = True
    stop_after: int | None = None  # bytes of an answer, then the connection ends
    stall: bool = False  # instead of ending it
    range_header: str | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


@dataclass
class Server:
    archive: Archive
    behaviour: Behaviour


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        told = self.behaviour
        told.asked.append(self.headers["Range"])
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "bytes=0-")[1]) if told.ranges else 0  # type: ignore[index]
        body = told.content[start:]
        self.send_response(told.status if told.status != 200 else 206 if told.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        if told.ranges:
            span = f"bytes {start}-{len(told.content) - 1}/{len(told.content)}"
            self.send_header("Content-Range", told.range_header or span)
        self.end_headers()
        self.wfile.write(body[: told.stop_after])
        while told.stall:
            time.sleep(0.01)

    def log_message(self, *args: object) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing when a client has gone."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    behaviour = Behaviour()
    httpd = QuietServer(("127.0.0.1", 0), type("Told", (Handler,), {"behaviour": behaviour}))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{httpd.server_port}/data/pictures.tar.gz"
    yield Server(Archive(url, len(CONTENT), hashlib.md5(CONTENT).hexdigest()), behaviour)
    behaviour.stall = False
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def contents(folder: Path) -> dict[str, bytes]:
    return {f"pictures/{path.name}": path.read_bytes() for path in folder.iterdir()}


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_the_folder_is_what_was_packed_and_a_second_call_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pictures"
    ensure_folder(server.archive, folder)
    assert contents(folder) == FILES
    assert visible(folder.parent) == {"pictures", "pictures.tar.gz"}
    ensure_folder(server.archive, folder)
    assert server.behaviour.asked == ["bytes=0-"]


def test_a_broken_connection_keeps_what_arrived_and_the_next_call_goes_on_from_there(
    server: Server, tmp_path: Path
) -> None:
    server.behaviour.stop_after = HALF
    with pytest.raises(DownloadError, match=rf"got {HALF} from .* Run again: it goes on from there"):
        ensure_folder(server.archive, tmp_path / "pictures")
    assert (tmp_path / "pictures.tar.gz.part").read_bytes() == CONTENT[:HALF]
    assert not (tmp_path / "pictures").exists()
    server.behaviour.stop_after = None
    ensure_folder(server.archive, tmp_path / "pictures")
    assert server.behaviour.asked == ["bytes=0-", f"bytes={HALF}-"]
    assert contents(tmp_path / "pictures") == FILES


def test_a_server_that_falls_silent_is_not_waited_for_without_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prostate_alm.data.download._TIMEOUT_S", 0.2)
    server.behaviour.stop_after, server.behaviour.stall = 1 << 18, True  # a whole chunk arrives, and then nothing
    with pytest.raises(DownloadError, match=rf"got {1 << 18} from .* \(timed out\)\. Run again"):
        ensure_folder(server.archive, tmp_path / "pictures")
    assert (tmp_path / "pictures.tar.gz.part").read_bytes() == CONTENT[: 1 << 18]


def test_a_killed_process_leaves_nothing_half_made_and_the_next_one_goes_on(server: Server, tmp_path: Path) -> None:
    server.behaviour.stop_after, server.behaviour.stall = HALF, True
    code = (
        "from pathlib import Path; from prostate_alm.data.download import Archive, ensure_folder; "
        f"ensure_folder({server.archive!r}, Path({str(tmp_path / 'pictures')!r}))"
    )
    part = tmp_path / "pictures.tar.gz.part"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        deadline = time.monotonic() + 30
        while not (part.exists() and part.stat().st_size > HALF // 2) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    kept = part.stat().st_size
    assert HALF // 2 < kept <= HALF
    assert visible(tmp_path) == {part.name}
    server.behaviour.stop_after, server.behaviour.stall = None, False
    ensure_folder(server.archive, tmp_path / "pictures")  # the lock of a killed process holds nobody up
    assert server.behaviour.asked[-1] == f"bytes={kept}-"
    assert contents(tmp_path / "pictures") == FILES


def test_a_server_that_knows_no_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.behaviour.ranges = False
    path = tmp_path / "pictures.tar.gz"
    path.with_name("pictures.tar.gz.part").write_bytes(b"anything")
    fetch_archive(server.archive, path)
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_is_named_and_nothing_of_it_stays(server: Server, tmp_path: Path) -> None:
    wrong = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    server.behaviour.content = wrong
    expected = rf"MD5 {server.archive.md5} \({len(CONTENT)} bytes\), got {hashlib.md5(wrong).hexdigest()}"
    with pytest.raises(DownloadError, match=expected):
        ensure_folder(server.archive, tmp_path / "pictures")
    assert visible(tmp_path) == set()
    server.behaviour.content = CONTENT
    ensure_folder(server.archive, tmp_path / "pictures")
    assert contents(tmp_path / "pictures") == FILES


def test_an_archive_put_there_by_hand_is_verified_and_used_or_kept(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "pictures.tar.gz"
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=rf"got [0-9a-f]{{32}} \({len(CONTENT) - 1} bytes\) in .*Delete it"):
        ensure_folder(server.archive, tmp_path / "pictures")
    assert path.read_bytes() == CONTENT[:-1]
    path.write_bytes(CONTENT)
    ensure_folder(server.archive, tmp_path / "pictures")
    assert contents(tmp_path / "pictures") == FILES
    assert server.behaviour.asked == []


@pytest.mark.parametrize(("size", "asked"), [(len(CONTENT), []), (len(CONTENT) + 5, ["bytes=0-"])])
def test_a_part_as_long_as_the_archive_is_only_verified_and_a_longer_one_is_begun_anew(
    size: int, asked: list[str], server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "pictures.tar.gz"
    path.with_name("pictures.tar.gz.part").write_bytes((CONTENT + b"tail!")[:size])
    fetch_archive(server.archive, path)
    assert (path.read_bytes(), server.behaviour.asked) == (CONTENT, asked)


@pytest.mark.parametrize("ranges", [True, False])
def test_another_file_in_its_place_is_told_by_its_size_and_what_arrived_is_kept(
    ranges: bool, server: Server, tmp_path: Path
) -> None:
    part = tmp_path / "pictures.tar.gz.part"
    part.write_bytes(CONTENT[:10])
    server.behaviour.content, server.behaviour.ranges = b"<html>log in, please</html>", ranges
    with pytest.raises(DownloadError, match=f"must have {len(CONTENT)} bytes, got 27 from .*login page"):
        fetch_archive(server.archive, tmp_path / "pictures.tar.gz")
    assert part.read_bytes() == CONTENT[:10]


def test_another_range_than_the_one_asked_for_is_refused(server: Server, tmp_path: Path) -> None:
    server.behaviour.range_header = f"bytes 7-9/{len(CONTENT)}"
    with pytest.raises(DownloadError, match="must be sent from byte 0 on, got 'bytes 7-9'"):
        fetch_archive(server.archive, tmp_path / "pictures.tar.gz")


def test_an_error_of_the_server_and_no_server_are_one_line(server: Server, tmp_path: Path) -> None:
    server.behaviour.status = 404
    with pytest.raises(DownloadError, match=r"^http://127.* must be reachable, got: HTTP 404 Not Found\. [^\n]*$"):
        fetch_archive(server.archive, tmp_path / "pictures.tar.gz")
    nobody = replace(server.archive, url="http://127.0.0.1:9/pictures.tar.gz")
    with pytest.raises(DownloadError, match=r"^http://127.* got: [^\n]*refused[^\n]*$"):
        fetch_archive(nobody, tmp_path / "pictures.tar.gz")


def test_a_kill_while_unpacking_leaves_the_archive_and_no_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def extract_one_then_die(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path, **_: object) -> None:
        path.mkdir()
        (path / "half").touch()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", extract_one_then_die)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # a kill tidies nothing up
        with pytest.raises(Killed):
            ensure_folder(server.archive, tmp_path / "pictures")
    assert visible(tmp_path) == {"pictures.tar.gz", ".pictures.tmp"}
    ensure_folder(server.archive, tmp_path / "pictures")
    assert visible(tmp_path) == {"pictures.tar.gz", "pictures"}
    assert contents(tmp_path / "pictures") == FILES
    assert len(server.behaviour.asked) == 1


def test_an_archive_that_climbs_out_of_its_folder_writes_nothing_outside(server: Server, tmp_path: Path) -> None:
    content = packed({"../outside": b"x"})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "pictures.tar.gz").write_bytes(content)
    archive = replace(server.archive, size_bytes=len(content), md5=hashlib.md5(content).hexdigest())
    with pytest.raises(DownloadError, match="outside"):
        ensure_folder(archive, tmp_path / "in" / "pictures")
    assert visible(tmp_path) == {"in"}
    assert visible(tmp_path / "in") == {"pictures.tar.gz"}


def test_of_two_at_once_one_downloads_and_the_other_waits(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=ensure_folder, args=(server.archive, tmp_path / "pictures")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.behaviour.asked == ["bytes=0-"]
    assert contents(tmp_path / "pictures") == FILES


def test_progress_never_falls_and_ends_at_the_whole(server: Server, tmp_path: Path) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    ensure_folder(
        server.archive,
        tmp_path / "pictures",
        progress=lambda name: lambda done, total: steps.setdefault(name, []).append((done, total)),
    )
    assert list(steps) == ["downloading pictures.tar.gz, MB", "unpacking pictures.tar.gz, MB"]
    for shown in steps.values():
        assert shown == sorted(shown)
        assert shown[-1] == (3, 3)  # 2.1 MB, rounded up


def test_a_folder_that_is_there_needs_no_right_to_write(server: Server, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    ensure_folder(server.archive, tmp_path / "pictures")
    assert visible(tmp_path) == {"pictures"}
    assert not list(tmp_path.glob("*.lock"))


def test_a_place_that_cannot_be_written_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"^[^\n]*must be made from pictures.tar.gz, got: [^\n]*another folder\.$"):
        ensure_folder(server.archive, tmp_path / "file" / "pictures")
