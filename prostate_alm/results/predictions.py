"""The table `predictions.csv` of a member or an ensemble: what it said on each sample."""

import csv
from collections.abc import Collection
from pathlib import Path

from prostate_alm.results.run_folder import EnsembleError

TEST = ("test", "test_extra")
"""Splits of the test samples; the second has the positives beyond the class ratio."""
_COLUMNS = frozenset(("sample_id", "split", "label", "logit"))

Row = dict[str, str]
"""A line of the table: `sample_id`, `split`, `label` (0 or 1), `logit`, and what else the table has."""


def read_rows(path: Path, *, splits: Collection[str]) -> list[Row]:
    """Return the samples of some splits, in the order of the file.

    Raises:
        EnsembleError: the table is another one, or a label or logit is no number.
        FileNotFoundError: there is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["split"] in splits]
        for row in rows:
            int(row["label"]), float(row["logit"]), row["sample_id"]
    except (KeyError, TypeError, ValueError) as error:
        raise EnsembleError(
            f"predictions must have {', '.join(sorted(_COLUMNS))}, got others in {path}. Train it again."
        ) from error
    return rows
