"""The one reader of `predictions.csv`."""

from pathlib import Path

import pandas
import pytest

from prostate_alm.results.predictions import TEST, read_rows
from prostate_alm.results.run_folder import EnsembleError


def test_rows_are_those_that_pandas_reads(write_member, tmp_path: Path) -> None:
    path = write_member(tmp_path / "bce-alm", 0) / "predictions.csv"
    table = pandas.read_csv(path, dtype=str)
    expected = table[table["split"].isin(TEST)].to_dict("records")
    assert read_rows(path, splits=TEST) == expected
    assert {row["split"] for row in expected} == set(TEST)


@pytest.mark.parametrize(
    "text",
    [
        "sample_id,split,label\na,test,1\n",
        "sample_id,split,label,logit\na,test,1,high\n",
        "sample_id,split,label,logit\na,test,,0.5\n",
        "sample_id,split,label,logit\na,test\n",
    ],
    ids=["no logit", "logit in words", "no label", "cut line"],
)
def test_another_table_is_refused_in_a_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    path.write_text(text)
    with pytest.raises(EnsembleError, match="predictions must have label, logit, sample_id, split, got others in"):
        read_rows(path, splits=TEST)
