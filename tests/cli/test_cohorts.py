"""The commands about cohorts of others: one is written as BIDS, read again, and nothing is replaced."""

import json
from pathlib import Path

import pytest
from command_line import the_error
from noise import write_noise

from prostate_alm.cli import main
from prostate_alm.data.manifest import read_manifest


def test_a_cohort_is_exported_and_imported_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, bids = write_noise(tmp_path / "mine.json", seed=0, studies=6, test_every=2), tmp_path / "bids"
    assert main(["manifest", "export", str(path), "--bids", str(bids), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"bids": str(bids), "studies": 6}
    assert main(["manifest", "export", str(path), "--bids", str(bids)]) == 2
    assert "must be absent or empty, got " in the_error(capsys)
    again = ["manifest", "import", "bids", str(bids), "--output", str(tmp_path / "again.json"), "--workers", "1"]
    assert main([*again, "--test-share", "0.5"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 6 are positive (33.3 %)"
    labels = [[study.label for study in read_manifest(one).studies] for one in (path, tmp_path / "again.json")]
    assert labels[0] == labels[1]


def test_what_is_no_collection_is_refused_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("prostatex", "picai", "fastmri", "prostate158", "bids"):
        assert main(["manifest", "import", name, str(tmp_path), "--output", str(tmp_path / "a.json")]) == 2
        assert the_error(capsys)
    assert list(tmp_path.iterdir()) == []
