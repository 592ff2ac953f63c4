"""Folders of watchers: whoever starts keeps its own, whoever was killed leaves nothing."""

import tempfile
import threading
from pathlib import Path

import pytest

from prostate_alm.delivery.orthanc.lease import spool_folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_watchers_that_start_together_do_not_take_each_other_for_dead(root: Path) -> None:
    lost: list[str] = []

    def start_often() -> None:
        for _ in range(150):
            try:
                with spool_folder() as folder:
                    (folder / "image").write_bytes(b"of a patient")
            except OSError as error:
                lost.append(repr(error))

    threads = [threading.Thread(target=start_often) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert lost == []
    assert list(root.iterdir()) == []


def test_what_a_killed_watcher_left_goes_with_the_next_start(root: Path) -> None:
    with spool_folder() as folder:
        left = folder.with_name(folder.name + "x")
    left.mkdir()
    (left / "lock").touch()
    (left / "image").touch()
    with spool_folder() as folder:
        assert list(root.iterdir()) == [folder]
