"""An Orthanc server over its REST interface: the requests a watcher needs, tried again while the server is away."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Mapping
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

_AWAY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_TIMEOUT_S = (5.0, 120.0)  # to connect, and without a byte
_CHANGES = 1000  # in one answer
_TIME_FORMAT = "%Y%m%dT%H%M%S"  # of Orthanc, UTC


class NodeError(OSError):
    """The server refused a request, or stayed away longer than the patience; one line without identifiers."""


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
            return {"Version": "", **self._json("/system")}
        except (GoneError, TypeError, ValueError):
            raise NodeError(f"the server must be an Orthanc, got another one at {self.url}. Correct the URL.") from None

    def studies(self) -> list[str]:
        """Return the identifiers of all studies."""
        return list(self._json("/studies"))

    def last_change(self) -> int:
        """Return the number of the latest change."""
        return int(self._json("/changes?last")["Last"])

    def changes(self, since: int) -> Changes:
        """Return which studies changed after the change of a number."""
        found: dict[str, None] = {}  # a set in the order of the changes
        while True:
            page = self._json(f"/changes?since={since}&limit={_CHANGES}")
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
        answer = self._json(f"/studies/{study}")
        now = self._request("GET", "/tools/now").text
        quiet = datetime.strptime(now, _TIME_FORMAT) - datetime.strptime(answer["LastUpdate"], _TIME_FORMAT)
        return StoredStudy(bool(answer["IsStable"]), quiet.total_seconds())

    def series(self, study: str) -> tuple[StoredSeries, ...]:
        """Return the series of a study.

        Raises:
            GoneError: it is not there.
        """
        answer = self._json(f"/studies/{study}/series?expand")
        return tuple(
            StoredSeries(str(one["MainDicomTags"].get("Modality", "")).strip(), tuple(one["Instances"]))
            for one in answer
        )

    def download(self, instance: str, path: Path) -> None:
        """Write the DICOM file of an instance.

        Raises:
            GoneError: it is not there.
        """
        path.write_bytes(self._request("GET", f"/instances/{instance}/file").content)

    def store(self, file: bytes, *, study: str) -> None:
        """Store a DICOM file in a study, which does nothing where it is there already.

        Raises:
            NodeError: the server files it under another study; it is taken out again.
        """
        answer = self._request("POST", "/instances", data=file).json()
        if answer["ParentStudy"] == study:
            return
        if answer["Status"] == "Success":
            self._request("DELETE", f"/instances/{answer['ID']}")
        raise NodeError(
            f"a report must be filed under the study of its images, {study}, got {answer['ParentStudy']}. Compare "
            "PatientID and StudyInstanceUID."
        )

    def holds(self, sop_instance_uid: str) -> bool:
        """Return whether the server has an instance."""
        found = self._request("POST", "/tools/lookup", data=sop_instance_uid.encode()).json()
        return any(one["Type"] == "Instance" for one in found)

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

    def _json(self, path: str) -> Any:
        return self._request("GET", path).json()

    def _request(
        self,
        method: str,
        path: str,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        allowed: tuple[int, ...] = (HTTPStatus.OK,),
    ) -> requests.Response:
        """Return the server's answer; wait while the server is away."""
        answer = self._patiently(method, path, data, headers)
        if answer.status_code in allowed:
            return answer
        if answer.status_code == HTTPStatus.NOT_FOUND:
            raise GoneError(f"{method} {path}: not there")
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise NodeError(
                f"user and password must be ones that the server accepts, got HTTP {answer.status_code} from "
                f"{self.url}. Give --user and --password-file, and set RemoteAccessAllowed if it is another machine."
            )
        raise NodeError(
            f"the server's answer must be HTTP {allowed[0]}, got {answer.status_code} for {method} {path}. "
            "See the server's log."
        )

    def _patiently(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str] | None
    ) -> requests.Response:
        """Return the first answer of a server that is there."""
        wait_s, since = self.backoff.first_s, time.monotonic()
        while True:
            try:
                answer = self._session.request(
                    method, self.url + path, data=data, headers=headers, timeout=_TIMEOUT_S, allow_redirects=False
                )
                if answer.status_code not in _AWAY:
                    return answer
                trouble = f"HTTP {answer.status_code}"
            except requests.exceptions.SSLError as error:
                raise NodeError(
                    f"the server's certificate must be trusted, got one that is not from {self.url}. Give --ca-file."
                ) from error
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                trouble = type(error).__name__
            self._pause(trouble, wait_s=wait_s, since=since)
            wait_s = min(2 * wait_s, self.backoff.longest_s)

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
