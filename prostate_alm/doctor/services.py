"""Servers: MLflow and Orthanc. One request each, a second of patience, no retries."""

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import requests

from prostate_alm.delivery.orthanc.client import checked_url
from prostate_alm.doctor.findings import Finding, Level
from prostate_alm.doctor.installation import check_folder, check_sqlite_store
from prostate_alm.results.tracking_uri import NO_TRACKING

TIMEOUT_S = 1.0
"""To connect, and without a byte."""

DEFAULT_ORTHANC = "http://127.0.0.1:8042"
_LOG_LATER = "Start it. Results stay on disk meanwhile; log them later with: prostate-alm track sync"
_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


@dataclass(frozen=True)
class Node:
    """An Orthanc server; `is_named` tells one that the user asked for from the usual place."""

    url: str = DEFAULT_ORTHANC
    is_named: bool = False
    login: tuple[str, str] | None = None


def check_tracking(uri: str) -> list[Finding]:
    """Say whether the store of MLflow can be used.

    Args:
        uri: see `tracking_uri.resolve_uri`. A password in it is not repeated.
    """
    scheme = urlsplit(uri).scheme
    if uri == NO_TRACKING:
        return [Finding("tracking", "note", "MLFLOW_TRACKING_URI is none: nothing is logged to MLflow")]
    if scheme == "sqlite":
        return [check_sqlite_store(uri)]
    if scheme in ("http", "https"):
        return [_mlflow_server(uri.rstrip("/"))]
    if scheme in ("", "file"):
        return [check_folder("tracking", Path(urlsplit(uri).path), needed_gb=0, comfortable_gb=0)]
    return [Finding("tracking", "note", f"{_shown(uri)} is not checked here", "Try it: mlflow experiments search")]


def _mlflow_server(uri: str) -> Finding:
    name, place = "tracking", _shown(uri)
    try:
        answer = requests.get(f"{uri}/health", timeout=TIMEOUT_S)
    except requests.RequestException as error:
        return Finding(name, "problem", f"MLflow at {place} does not answer ({type(error).__name__})", _LOG_LATER)
    if answer.status_code in _REFUSED:
        advice = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD if they are not."
        return Finding(name, "note", f"{place} wants a user and a password", advice)
    if answer.status_code != HTTPStatus.OK or answer.text.strip() != "OK":
        found = f"{place} answers, but not as MLflow does (HTTP {answer.status_code})"
        return Finding(name, "problem", found, "Correct MLFLOW_TRACKING_URI.")
    return Finding(name, "ok", f"MLflow answers at {place}")


def check_orthanc(node: Node) -> list[Finding]:
    """Say whether an Orthanc server answers; one that is absent is a problem only when it was asked for.

    Args:
        node: the server, and how to log in.

    Raises:
        ValueError: its URL cannot be used.
    """
    url = checked_url(node.url)
    try:
        with requests.Session() as session:
            session.trust_env = False  # as the watcher: neither a proxy nor a .netrc comes between
            answer = session.get(f"{url}/system", timeout=TIMEOUT_S, auth=node.login)
    except requests.RequestException as error:
        found = f"no server at {url} ({type(error).__name__})"
        return [Finding("orthanc", _level(node), found, "Needed for `prostate-alm watch` only, see docs/pacs.md.")]
    return [_orthanc_answer(url, answer, level_if_wrong=_level(node))]


def _level(node: Node) -> Level:
    return "problem" if node.is_named else "note"


def _orthanc_answer(url: str, answer: requests.Response, *, level_if_wrong: Level) -> Finding:
    name = "orthanc"
    if answer.status_code in _REFUSED:
        advice = "Set PROSTATE_ALM_USER and PROSTATE_ALM_PASSWORD, see docs/pacs.md."
        return Finding(
            name, level_if_wrong, f"{url} wants another user or password (HTTP {answer.status_code})", advice
        )
    try:
        system = answer.json()
        version = str(system["Version"])
    except (ValueError, KeyError, TypeError):
        found = f"{url} answers, but not as Orthanc does (HTTP {answer.status_code})"
        return Finding(name, level_if_wrong, found, "Give its address: --orthanc URL")
    if not system.get("CheckRevisions", False):
        advice = 'Set "CheckRevisions": true, or let one watcher only run on it.'
        return Finding(name, "note", f"Orthanc {version} at {url}, without CheckRevisions", advice)
    return Finding(name, "ok", f"Orthanc {version} at {url}")


def _shown(uri: str) -> str:
    """Return a URI without user and password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
