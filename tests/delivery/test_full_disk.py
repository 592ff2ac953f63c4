"""A disk without room: each command ends with one line, and what is there is whole."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_alm.cli import main
from prostate_alm.whole_files import full_disk_line

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "prostate"
Fill = Callable[[int], Path]


def refused_for_room(arguments: list[str], disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {disk}")
    assert "no room left. What was finished is kept and whole: make room and run the same command again." in line


def test_a_cohort_of_phantoms_keeps_whole_studies_only_and_goes_on(
    small_disk: Path, fill_disk: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, ballast = small_disk / "cohort", fill_disk(5 << 10)  # of 3.4 MB each
    make = ["phantom", "make", "--output", str(cohort), "--studies", "2", "--seed", "1"]
    refused_for_room(make, small_disk, capsys)
    assert sorted(one.name for one in cohort.iterdir()) == ["PHANTOM-0001", "cohort.json"]
    ballast.unlink()
    assert main(make) == 0
    assert sorted(one.name for one in cohort.glob("PHANTOM*")) == ["PHANTOM-0001", "PHANTOM-0002"]


def test_predict_and_pack_leave_nothing_half_written(
    small_disk: Path, fill_disk: Fill, packed_file: Path, ensemble_folder: Path, phantom_study: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ballast = fill_disk(0)
    predict = ["predict", str(phantom_study), "--model", str(packed_file), "--output", str(small_disk / "answers")]
    refused_for_room(predict, small_disk, capsys)
    sources = ["--manifest", str(ensemble_folder / "cohort.json"), "--bundle", str(BUNDLE)]
    pack = ["pack", str(ensemble_folder), "--output", str(small_disk / "x.zip"), "--license", str(BUNDLE / "README.md")]
    refused_for_room([*pack, *sources], small_disk, capsys)
    assert [one.name for one in small_disk.rglob("*") if one.is_file()] == ["ballast"]
    ballast.unlink()
    assert main(predict) == 0


def test_other_errors_are_told_as_they_are_on_a_full_disk(
    small_disk: Path, fill_disk: Fill, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_disk(0)
    assert main(["manifest", "check", str(small_disk / "absent.json")]) == 2
    assert "no room" not in capsys.readouterr().err
    assert full_disk_line(ValueError("other"), [small_disk]) is None
    assert full_disk_line(RuntimeError("unexpected pos 64 vs 0"), [small_disk]) is not None
