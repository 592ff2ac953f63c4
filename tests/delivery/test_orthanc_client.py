"""A server that is away: real HTTP on loopback, answered as a proxy in front of a stopped Orthanc does."""

import http.server
import itertools
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.delivery.orthanc.client import Backoff, NodeError, OrthancNode, ServerFaultError, checked_url


class Proxy(http.server.ThreadingHTTPServer):
    """A server that gives the status codes of `script`, one a request; the last for all further ones."""

    script: list[int]
    requests: itertools.count


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        number = next(self.server.requests)
        code = self.server.script[min(number, len(self.server.script) - 1)]
        content = json.dumps({"Version": "1.2.3", "Name": "TEST"}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", 0), _Handler) as server:
        server.requests = itertools.count()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def node(port: int, **backoff: float) -> OrthancNode:
    return OrthancNode(f"http://127.0.0.1:{port}", backoff=Backoff(**({"first_s": 0.01, "longest_s": 0.02} | backoff)))


@pytest.mark.parametrize("away", [429, 502, 503, 504])
def test_a_server_that_comes_back_is_waited_for(proxy: Proxy, away: int) -> None:
    proxy.script = [away, away, away, 200]
    client = node(proxy.server_address[1])
    assert client.system()["Version"] == "1.2.3"
    assert (next(proxy.requests), client.outages) == (4, 3)


@pytest.mark.parametrize("wrong", [302, 400, 409, 429, 500, 507])
def test_a_wrong_answer_is_asked_for_again(proxy: Proxy, wrong: int) -> None:
    proxy.script = [wrong, wrong, 200]
    assert node(proxy.server_address[1]).system()["Version"] == "1.2.3"
    assert next(proxy.requests) == 3


@pytest.mark.parametrize("wrong", [302, 400, 409, 500, 507])
def test_who_asked_is_told_after_four_wrong_answers(proxy: Proxy, wrong: int) -> None:
    proxy.script = [wrong]
    with pytest.raises(ServerFaultError, match=f"must be HTTP 200, got {wrong} for GET /studies"):
        node(proxy.server_address[1]).studies()
    assert next(proxy.requests) == 4


@pytest.mark.parametrize("final", [401, 403])
def test_a_wrong_password_is_told_at_once(proxy: Proxy, final: int) -> None:
    proxy.script = [final]
    with pytest.raises(NodeError, match=f"must be ones that the server accepts, got HTTP {final}"):
        node(proxy.server_address[1]).studies()
    assert next(proxy.requests) == 1


def test_an_answer_of_another_program_is_a_fault(proxy: Proxy, tmp_path: Path) -> None:
    proxy.script = [200]  # the page of a proxy, where Orthanc's answer should be
    client = node(proxy.server_address[1])
    for ask in (client.last_change, lambda: client.changes(0), lambda: client.study("a"), lambda: client.series("a")):
        with pytest.raises(ServerFaultError, match=r"^the server's answer must be Orthanc's, got "):
            ask()
    with pytest.raises(ServerFaultError, match="must be a DICOM file"):
        client.download("a", tmp_path / "image")


def test_patience_ends_with_one_line(proxy: Proxy) -> None:
    proxy.script = [503]
    client = node(proxy.server_address[1], patience_s=0.1)
    with pytest.raises(NodeError, match=r"^the server must answer within 0.1 s, got HTTP 503 from http://127.0.0.1:"):
        client.system()
    assert client.outages == next(proxy.requests) >= 2  # after 0.01, 0.02, 0.02, ... s, as far as the machine keeps up


def test_a_port_where_nobody_listens_is_a_server_that_is_away() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but does not listen
        with pytest.raises(NodeError, match=r"^the server must answer within 0.05 s, got ConnectionError from http://"):
            node(taken.getsockname()[1], patience_s=0.05).system()


def test_https_to_a_server_that_speaks_http_is_refused_at_once(proxy: Proxy) -> None:
    proxy.script = [200]
    client = OrthancNode(f"https://127.0.0.1:{proxy.server_address[1]}")  # would wait for ever
    with pytest.raises(NodeError, match=r"^the server's certificate must be trusted"):
        client.system()


def test_a_certificate_file_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^ca_file must be a PEM file, got .*absent.pem"):
        OrthancNode("https://127.0.0.1", ca_file=tmp_path / "absent.pem")


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("http://127.0.0.1:8042", False),
        ("http://localhost", False),
        ("http://[::1]:8042", False),
        ("http://192.0.2.1:8042", True),
        ("http://pacs.example", True),
        ("https://pacs.example", False),
    ],
)
def test_a_password_that_others_can_read_on_the_way_is_noticed(url: str, plain: bool) -> None:
    assert OrthancNode(url, "user", "secret").sends_plain_password is plain
    assert OrthancNode(url).sends_plain_password is False
    assert "secret" not in repr(OrthancNode(url, "user", "secret"))


def test_a_server_that_is_no_orthanc_is_one_line() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:  # answers 501
        threading.Thread(target=other.serve_forever, daemon=True).start()
        node = OrthancNode(f"http://127.0.0.1:{other.server_address[1]}", backoff=Backoff(first_s=0.01))
        with pytest.raises(NodeError, match="must be"):
            node.system()
        other.shutdown()


def test_a_password_is_asked_for_and_a_wrong_one_refused(start_server: Callable[..., Any]) -> None:
    server = start_server(AuthenticationEnabled=True, RegisteredUsers={"watcher": "right"})
    assert OrthancNode(server.url, "watcher", "right").system()["CheckRevisions"]
    with pytest.raises(NodeError, match="must be ones that the server accepts, got HTTP 401"):
        OrthancNode(server.url, "watcher", "wrong").system()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://me:secret@127.0.0.1:8042", "no user or password"),
        ("ftp://127.0.0.1", "http:// or https://"),
        ("127.0.0.1:8042", "http:// or https://"),
        ("http://", "http:// or https://"),
        ("http://127.0.0.1:many", "cannot be read"),
        ("http://127.0.0.1/?token=secret", "end after its path"),
    ],
)
def test_a_url_that_is_none_is_refused_without_repeating_secrets(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checked_url(url)
    assert "secret" not in str(caught.value)
