"""An Orthanc server over its REST interface: the requests a watcher needs, tried again while the server is away."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

logger = logging.getLogger(__name__)

METADATA_NUMBER = 4862
"""Of Orthanc's user-defined metadata (1024 to 65535): where the state of a study is kept."""

_AWAY = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
_MORE_TRIES = 3  # of a request that the server answers wrongly, before the caller hears of it
_TIMEOUT_S = (5.0, 120.0)  # to connect, and without a byte
_CHANGES = 1000  # in one answer
_TIME_FORMAT = "%Y%m%dT%H%M%S"  # of Orthanc, UTC


class NodeError(OSError):
    """The server refused a request, or stayed away longer than the patience; one line without identifiers."""


class ServerFaultError(NodeError):
    """The server is there but answers what it should not (500, full storage, no JSON): to be tried again later."""


class GoneError(LookupError):
    """The study, series or instance is not in the server any more."""


@dataclass(frozen=True)
class Backoff:
    """How often a server that is away is asked again: after `first_s`, then twice as long, at most `longest_s`.

    After `patience_s` in all the caller gets a `NodeError`; None waits for ever.
    """

    first_s: float = 1.0
    longest_s: float = 60.0
    patience_s: float | None = None

    def wait_s(self, tries: int) -> float:
        """Return how long to wait after so many tries in vain.

        >>> [Backoff().wait_s(tries) for tries in (1, 2, 3, 100)]
        [1.0, 2.0, 4.0, 60.0]
        """
        return min(self.first_s * 2.0 ** min(tries - 1, 30), self.longest_s)


@dataclass(frozen=True)
class StoredStudy:
    """Whether a study is still arriving: Orthanc's own word, and the seconds since anything reached it."""

    is_stable: bool
    quiet_s: float


@dataclass(frozen=True)
class StoredSeries:
    """A series by Orthanc's identifiers; `modality` is empty where the files do not say."""

    modality: str
    instances: tuple[str, ...]


@dataclass(frozen=True)
class Changes:
    """Studies that became stable or whose metadata was written, and the number of the last change that was seen."""

    studies: tuple[str, ...]
    last: int


@dataclass
class OrthancNode:
    """A client of one Orthanc server, for one thread; `another` gives one for a second thread.

    Args:
        url: http or https, without a user, query or fragment.
        user: for HTTP basic authentication; None for a server without it.
        password: belongs to `user`.
        ca_file: PEM file of the authority that signed the server's certificate, in place of the public ones.
        backoff: what happens while the server is away.

    `outages` counts how often the server was away: what it told before may not hold any more.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    backoff: Backoff = field(default_factory=Backoff)
    outages: int = field(default=0, init=False)
    _was_there: bool = field(default=False, init=False, repr=False)  # so that a broken handshake is an outage

    def __post_init__(self) -> None:
        self.url = checked_url(self.url)
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor a .netrc comes between
        self._session.headers["Accept-Encoding"] = "identity"  # packing costs ten times what loopback does
        if self.ca_file is not None:
            if not self.ca_file.is_file():
                raise ValueError(f"ca_file must be a PEM file, got {self.ca_file}. Correct the path.")
            self._session.verify = str(self.ca_file)
        if self.user is not None:
            self._session.auth = (self.user, self.password or "")

    def another(self, backoff: Backoff | None = None) -> OrthancNode:
        """Return a client of the same server, for another thread or with another patience."""
        return OrthancNode(self.url, self.user, self.password, self.ca_file, backoff or self.backoff)

    @property
    def sends_plain_password(self) -> bool:
        """Whether the password goes to another machine without encryption."""
        parts = urlsplit(self.url)
        return self.user is not None and parts.scheme == "http" and not _is_loopback(parts.hostname or "")

    def system(self) -> dict[str, Any]:
        """Return what the server says of itself.

        Raises:
            NodeError: it is no Orthanc.
        """
        try:
            return {"Version": "", **self._request("GET", "/system").json()}
        except (GoneError, TypeError, ValueError):
            raise NodeError(f"the server must be an Orthanc, got another one at {self.url}. Correct the URL.") from None

    def studies(self) -> list[str]:
        """Return the identifiers of all studies."""
        with _understood("/studies"):
            return [str(one) for one in self._request("GET", "/studies").json()]

    def last_change(self) -> int:
        """Return the number of the latest change."""
        with _understood("/changes?last"):
            return int(self._request("GET", "/changes?last").json()["Last"])

    def changes(self, since: int) -> Changes:
        """Return which studies changed after the change of a number."""
        found: dict[str, None] = {}  # a set in the order of the changes
        while True:
            with _understood("/changes"):
                page = self._request("GET", f"/changes?since={since}&limit={_CHANGES}").json()
                for one in page["Changes"]:
                    if one["ResourceType"] == "Study" and one["ChangeType"] in ("StableStudy", "UpdatedMetadata"):
                        found[one["ID"]] = None
                since = int(page["Last"])
                if page["Done"]:
                    return Changes(tuple(found), since)

    def study(self, study: str) -> StoredStudy:
        """Return whether a study is still arriving, by the server's own clock.

        Raises:
            GoneError: it is not there.
        """
        with _understood("/studies"):
            answer = self._request("GET", f"/studies/{study}").json()
            now = self._request("GET", "/tools/now").text
            quiet = datetime.strptime(now, _TIME_FORMAT) - datetime.strptime(answer["LastUpdate"], _TIME_FORMAT)
            return StoredStudy(bool(answer["IsStable"]), quiet.total_seconds())

    def series(self, study: str) -> tuple[StoredSeries, ...]:
        """Return the series of a study.

        Raises:
            GoneError: it is not there.
        """
        with _understood("/studies/.../series"):
            answer = self._request("GET", f"/studies/{study}/series?expand").json()
            return tuple(
                StoredSeries(str(one["MainDicomTags"].get("Modality", "")).strip(), tuple(one["Instances"]))
                for one in answer
            )

    def download(self, instance: str, path: Path) -> None:
        """Write the DICOM file of an instance.

        Raises:
            GoneError: it is not there.
        """
        answer = self._request("GET", f"/instances/{instance}/file")
        if not answer.headers.get("Content-Type", "").startswith("application/dicom"):
            raise ServerFaultError(
                "the server's answer must be a DICOM file, got another one for GET /instances/.../file."
            )
        path.write_bytes(answer.content)

    def store(self, file: bytes, *, study: str) -> None:
        """Store a DICOM file in a study, which does nothing where it is there already.

        Raises:
            NodeError: the server files it under another study, and it is taken out again; or the server filters it.
        """
        with _understood("/instances"):
            answer = self._request("POST", "/instances", data=file).json()
            number, parent, status = answer["ID"], answer["ParentStudy"], answer["Status"]
        if status not in ("Success", "AlreadyStored"):
            raise NodeError(f"a report must be one that the server takes, got {status}. See the server's filters.")
        if parent == study:
            return
        if status == "Success":
            self._delete(number)
        raise NodeError(
            f"a report must be filed under the study of its images, {study}, got {parent}. Compare PatientID and "
            "StudyInstanceUID."
        )

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether the server has an instance."""
        return bool(self._instances_of(sop_instance_uid))

    def take_back(self, sop_instance_uid: str) -> None:
        """Delete an instance wherever it is; a study of nothing else goes with it."""
        for number in self._instances_of(sop_instance_uid):
            self._delete(number)

    def _instances_of(self, sop_instance_uid: str) -> list[str]:
        with _understood("/tools/lookup"):
            found = self._request("POST", "/tools/lookup", data=sop_instance_uid.encode()).json()
            return [str(one["ID"]) for one in found if one["Type"] == "Instance"]

    def _delete(self, instance: str) -> None:
        with contextlib.suppress(GoneError):
            self._request("DELETE", f"/instances/{instance}")

    def metadata(self, study: str) -> tuple[str, str | None]:
        """Return the value kept with a study, '' if none, and the revision to give to `put_metadata`."""
        answer = self._request("GET", _place(study), allowed=(HTTPStatus.OK, HTTPStatus.NOT_FOUND))
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return "", None
        answer.encoding = "utf-8"
        return answer.text, answer.headers.get("ETag")

    def put_metadata(self, study: str, value: str, *, revision: str | None) -> bool:
        """Write the value kept with a study if nobody did since `metadata` returned the revision.

        Returns:
            Whether it was written. A server without `CheckRevisions` writes always.

        Raises:
            GoneError: the study is not there.
        """
        headers = {} if revision is None else {"If-Match": revision}
        allowed = (HTTPStatus.OK, HTTPStatus.CONFLICT)
        answer = self._request("PUT", _place(study), data=value.encode(), headers=headers, allowed=allowed)
        return answer.status_code == HTTPStatus.OK

    def _request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        allowed: tuple[int, ...] = (HTTPStatus.OK,),
    ) -> requests.Response:
        """Return the server's answer; wait while the server is away, and ask again after a wrong answer."""
        for tries in range(1, _MORE_TRIES + 2):
            answer = self._patiently(method, path, data, headers)
            is_gone = answer.status_code == HTTPStatus.NOT_FOUND and _is_of_orthanc(answer)
            if answer.status_code in allowed and (is_gone or answer.status_code != HTTPStatus.NOT_FOUND):
                return answer
            if is_gone:
                raise GoneError(f"{method} {path}: not there")
            if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise NodeError(
                    f"user and password must be ones that the server accepts, got HTTP {answer.status_code} from "
                    f"{self.url}. Give --user and --password-file, and set RemoteAccessAllowed for another machine."
                )
            if tries <= _MORE_TRIES:
                time.sleep(self.backoff.wait_s(tries))
        raise ServerFaultError(
            f"the server's answer must be HTTP {allowed[0]}, got {answer.status_code} for {method} {path}. "
            "See the server's log and the room on its disk."
        )

    def _patiently(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str] | None
    ) -> requests.Response:
        """Return the first answer of a server that is there."""
        since, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                answer = self._session.request(
                    method, self.url + path, data=data, headers=headers, timeout=_TIMEOUT_S, allow_redirects=False
                )
                if answer.status_code not in _AWAY:
                    self._was_there = True
                    return answer
                trouble = f"HTTP {answer.status_code}"
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                if isinstance(error, requests.exceptions.SSLError) and not self._was_there:
                    raise NodeError(
                        "the server's certificate must be trusted, got one that is not from "
                        f"{self.url}. Give --ca-file."
                    ) from error
                trouble = type(error).__name__
            self._pause(trouble, wait_s=self.backoff.wait_s(tries), since=since)

    def _pause(self, trouble: str, *, wait_s: float, since: float) -> None:
        """Wait before the next try, or give up."""
        self.outages += 1
        patience_s = self.backoff.patience_s
        if patience_s is not None and time.monotonic() - since + wait_s > patience_s:
            raise NodeError(
                f"the server must answer within {patience_s:g} s, got {trouble} from {self.url}. Start it, or correct "
                "the URL."
            )
        logger.warning("%s does not answer (%s); trying again in %g s", self.url, trouble, wait_s)
        time.sleep(wait_s)


@contextlib.contextmanager
def _understood(path: str) -> Iterator[None]:
    """Make an answer that is none of Orthanc's, say the page of a proxy, a `ServerFaultError`."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ServerFaultError(
            f"the server's answer must be Orthanc's, got {type(error).__name__} for {path}. See what stands between."
        ) from None


def _is_of_orthanc(answer: requests.Response) -> bool:
    """Return whether a 404 is Orthanc's own, which says so or nothing, rather than that of a proxy before it."""
    return not answer.content or b"Orthanc" in answer.content


def checked_url(url: str) -> str:
    """Return a server's URL without a slash at the end.

    Raises:
        ValueError: it is not http or https, or holds more than a host, a port and a path. The message never repeats a
            URL that may hold a password.

    >>> checked_url("http://127.0.0.1:8042/")
    'http://127.0.0.1:8042'
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError:
        raise ValueError("URL must be valid, got one that cannot be read. Write http://HOST:PORT.") from None
    if "@" in url or parts.username is not None:
        raise ValueError("URL must hold no user or password, got one with '@'. Give --user and --password-file.")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"URL must begin with http:// or https:// and a host, got {url!r}. Write http://HOST:PORT.")
    if parts.query or parts.fragment:
        raise ValueError("URL must end after its path, got one with '?' or '#'. Write http://HOST:PORT.")
    return url.rstrip("/")


def _place(study: str) -> str:
    return f"/studies/{study}/metadata/{METADATA_NUMBER}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
