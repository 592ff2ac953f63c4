"""The table `predictions.csv` of a member or an ensemble: what it said on each sample."""

import csv
from collections.abc import Collection
from pathlib import Path

from prostate_alm.results.run_folder import EnsembleError

TEST = ("test", "test_extra")
"""Splits of the test samples; the second has the positives beyond the class ratio."""
CLASS, LOGIT = "class", "logit_"
"""Columns that several classes have besides: the number of the class, and the beginning of the names of its logits."""
_COLUMNS = frozenset(("sample_id", "split", "label", "logit"))

PredictionRow = dict[str, str]
"""A line of the table: `sample_id`, `split`, `label` (0 or 1), `logit`, and what else the table has."""


def class_logits(row: PredictionRow) -> list[float]:
    """Return the logits of several classes in a line; none where it is of two.

    >>> class_logits({"logit": "1", "logit_std": "0", "class": "1", "logit_0": "2", "logit_1": "3"})
    [2.0, 3.0]
    """
    names = [name for name in row if name.startswith(LOGIT) and name != "logit_std"]
    return [float(row[name]) for name in names] if CLASS in row else []


def read_rows(path: Path, *, splits: Collection[str]) -> list[PredictionRow]:
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
