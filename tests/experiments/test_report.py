from pathlib import Path

import pytest
from paper_experiments import rows_of, started

from prostate_alm.experiments.report import write_report


def test_the_report_in_words_holds_all_tables_and_says_that_nothing_is_missing(whole: Path) -> None:
    text = (whole / "report.md").read_text(encoding="utf-8")
    for number in (2, 4, 5, 6, 8):
        assert f"## Table {number}. " in text
    assert "| ALM with A-FL | 95.38 (95.38) | 31.4 (31.4) | 16.5 (16.5) | 12.4 (12.4) |" in text  # table 2, 1:9
    assert "| W-BCE | weight 9 (9) |" in text
    assert "| ALM with CB-BCE | mu0 0.2 (0.2), rho 4 (4), delta 2 (2) |" in text
    assert "| BCE | – |" in text  # a loss without parameters
    assert "Nothing: every cell of every table rests on all members." in text
    assert rows_of(whole / "missing.csv") == []


def test_a_report_before_the_first_result_names_every_cell_as_missing(tmp_path: Path) -> None:
    root = started(tmp_path / "out")
    write_report([root], tmp_path / "report")
    missing = rows_of(tmp_path / "report" / "missing.csv")
    assert {row["reason"] for row in missing} == {"not trained yet"}
    assert len(missing) == 5 * 51
    assert not list((tmp_path / "report").glob("*.png"))
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| ALM with A-FL | – (95.38) | – (31.4) | – (16.5) | – (12.4) |" in text
    assert "No loss has both ensembles yet." in text


def test_a_folder_that_is_no_experiment_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^folder must be that of an experiment, got no plan\.json in"):
        write_report([tmp_path], tmp_path / "report")
    assert not (tmp_path / "report").exists()
