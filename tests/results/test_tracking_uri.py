"""Which store is meant, read as SQLAlchemy reads it."""

from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from prostate_alm.results.tracking_uri import DEFAULT_URI, resolve_uri, sqlite_path


def test_the_argument_goes_before_the_environment_and_that_before_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert resolve_uri("none") == "none"
    assert resolve_uri(None) == resolve_uri("") == "http://server:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_uri(None) == DEFAULT_URI


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "sqlite:////var/store.db", "sqlite:///a/b c.db"])
def test_the_file_of_a_store_is_that_of_sqlalchemy(uri: str) -> None:
    assert sqlite_path(uri) == Path(str(make_url(uri).database))


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite:///", "http://server:5000", "none", "file:./mlruns"])
def test_other_stores_have_none(uri: str) -> None:
    assert sqlite_path(uri) is None
