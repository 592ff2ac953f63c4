"""Files are whole or as they were, whatever fails meanwhile."""

import hashlib
from pathlib import Path

import pytest

from prostate_alm.whole_files import partial_folder, replacing, sha256_of_file, write_text_atomically


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    write_text_atomically(path, "old\r\nlines\n")
    assert path.read_bytes() == b"old\r\nlines\n"

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            assert path.read_bytes() == b"old\r\nlines\n"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [one.name for one in tmp_path.iterdir()] == ["one.txt"]
    assert path.read_bytes() == b"old\r\nlines\n"


def test_a_folder_that_a_kill_left_is_begun_anew_and_one_that_failed_is_gone(tmp_path: Path) -> None:
    (tmp_path / ".study.partial").mkdir()
    (tmp_path / ".study.partial" / "left").touch()
    with partial_folder(tmp_path / "study") as folder:
        assert list(folder.iterdir()) == []
        folder.rename(tmp_path / "study")
    with pytest.raises(OSError, match="full"), partial_folder(tmp_path / "other") as folder:
        raise OSError("full")
    assert [one.name for one in tmp_path.iterdir()] == ["study"]


def test_the_checksum_is_that_of_hashlib(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one buffer
    (tmp_path / "one").write_bytes(content)
    assert sha256_of_file(tmp_path / "one") == hashlib.sha256(content).hexdigest()
