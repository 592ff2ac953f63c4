from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prostate_alm.results import run_folder
from prostate_alm.results.run_folder import RunFolderError

CONFIG = {"settings": {"member": 0}, "manifest_sha256": "ab"}


def test_a_new_folder_is_claimed_with_its_configuration(tmp_path: Path) -> None:
    run_folder.require_new(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    folder = run_folder.claim(tmp_path / "new", CONFIG)
    assert folder.read_json(run_folder.CONFIG) == CONFIG
    assert not folder.is_finished
    assert not folder.file(run_folder.CHECKPOINT).exists()


def test_a_folder_with_files_is_never_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for refuse in (run_folder.require_new, lambda path: run_folder.require_resumable(path, CONFIG)):
        with pytest.raises(RunFolderError, match="output_dir must be a new or empty folder"):
            refuse(tmp_path)
    with pytest.raises(RunFolderError, match=r"must hold a run's config\.json to be overwritten"):
        run_folder.require_overwritable(tmp_path)


def test_a_config_that_monai_put_there_before_the_run_is_no_file_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "config_20261129_120000.json").write_text("{}")
    run_folder.require_new(tmp_path)


def test_overwriting_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run_folder.claim(tmp_path, CONFIG)
    (tmp_path / run_folder.METRICS).write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    run_folder.require_overwritable(tmp_path)
    folder = run_folder.claim(tmp_path, CONFIG | {"manifest_sha256": "cd"})
    assert not folder.is_finished
    assert folder.read_json(run_folder.CONFIG)["manifest_sha256"] == "cd"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_opens_the_same_run(tmp_path: Path) -> None:
    run_folder.claim(tmp_path, CONFIG)
    (tmp_path / run_folder.CHECKPOINT).write_bytes(b"")
    run_folder.require_resumable(tmp_path, CONFIG)
    folder = run_folder.claim(tmp_path, CONFIG, resume=True)
    assert folder.file(run_folder.CHECKPOINT).is_file()
    assert not folder.is_finished


def test_resuming_where_nothing_is_starts_anew(tmp_path: Path) -> None:
    run_folder.require_resumable(tmp_path / "run", CONFIG)
    assert run_folder.claim(tmp_path / "run", CONFIG, resume=True).read_json(run_folder.CONFIG) == CONFIG


def test_resuming_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    run_folder.claim(tmp_path, CONFIG)
    with pytest.raises(RunFolderError, match=r"got another manifest_sha256 .*'cd', was 'ab'"):
        run_folder.require_resumable(tmp_path, CONFIG | {"manifest_sha256": "cd"})


def test_runs_are_numbered_after_the_highest(tmp_path: Path) -> None:
    assert run_folder.next_run_path(tmp_path / "none").name == "run-001"
    for name in ("run-002", "run-011", "run-x", "other"):
        (tmp_path / name).mkdir()
    assert run_folder.next_run_path(tmp_path).name == "run-012"


def test_runs_that_begin_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda _: run_folder.next_run_path(tmp_path), range(64)))
    assert len(set(paths)) == 64


def test_the_latest_run_with_the_same_configuration_is_found(tmp_path: Path) -> None:
    for member in (0, 1, 0, 2):
        run_folder.claim(run_folder.next_run_path(tmp_path), {"member": member})
    assert run_folder.latest_run_path(tmp_path, {"member": 0}) == tmp_path / "run-003"
    assert run_folder.latest_run_path(tmp_path, {"member": 7}) is None


def test_one_process_trains_in_a_folder_at_a_time(tmp_path: Path) -> None:
    folder = run_folder.claim(tmp_path / "run", CONFIG)
    held = folder.lock()
    with held, pytest.raises(RunFolderError, match="output_dir must not be in use by another process"):
        run_folder.RunFolder(tmp_path / "run").lock()
    with run_folder.RunFolder(tmp_path / "run").lock():  # it is free again, though `held` is still there
        pass
