"""Cells and tables of the reports, in Markdown."""

from collections.abc import Iterable, Sequence

NONE = "–"
"""Where there is no figure."""


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    >>> print(grid(["loss"], [["BCE"]]))
    | loss |
    | --- |
    | BCE |
    """
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


def signed(value: float | None, column: str) -> str:
    """Return a difference in percentage points: two digits of an AUC, one of a rate.

    >>> signed(1.234, "auc"), signed(-1.234, "fpr_at_tpr95"), signed(None, "auc")
    ('+1.23', '-1.2', '–')
    """
    digits = 1 if column.startswith("fpr") else 2
    return NONE if value is None else f"{value:+.{digits}f}"
