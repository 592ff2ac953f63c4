"""The figures of the paper's tables (1, 3, 7: prostate; 2, 4, 5, 6, 8: CIFAR-10) and the effect of ALM in them."""

import json
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

from prostate_alm.experiments.plan import Task, in_numbers
from prostate_alm.method.bootstrap import RATES
from prostate_alm.results.metric_names import METRIC_NAMES, MetricName

RATE_COLUMNS = ("test_auc", *RATES)
"""Columns of tables 2, 5 and 6, in percent."""

COHORT_COLUMNS = ("test_auc", "fpr_at_fn0", "fpr_at_fn1")
"""Columns of table 1, in percent."""

CLASS_COLUMNS = ("test_auc", *(f"rest_error_at_tpr{tpr}" for tpr in (80, 90, 95)), "fpr_at_tpr95", "balanced_accuracy")
"""Columns where all classes are told apart and one is critical, in percent; the paper has no such table."""


def metric_of(column: str) -> MetricName:
    """Return what a column is called."""
    return METRIC_NAMES[column.removeprefix("test_")]


def loss_names() -> MappingProxyType[str, str]:
    """Return the names of the losses as the tables print them, by their names in the code, in the paper's order.

    Those of several classes come last.

    >>> loss_names()["cb_bce"]
    'CB-BCE'
    """
    from prostate_alm.method.class_losses import CLASS_LOSSES  # loads torch, which takes a second
    from prostate_alm.method.losses import LOSSES

    return MappingProxyType({name: name.upper().replace("_", "-") for name in (*LOSSES, *CLASS_LOSSES)})


def rate_columns(pair: Task | None) -> tuple[str, ...]:
    """Return the columns by which ensembles are compared: those of table 2 for two classes, of table 1 for a cohort."""
    if pair is None:
        return COHORT_COLUMNS
    return RATE_COLUMNS if len(pair) == 2 else CLASS_COLUMNS


class Key(NamedTuple):
    """A cell of a table: class ratio 1:`ratio`, loss, `baseline` or `alm`, column."""

    ratio: int
    loss: str
    arm: str
    column: str


@lru_cache
def paper_table(name: str) -> MappingProxyType[Key, float]:
    """Return a table of the paper; AUCs and rates in percent, parameters as they are.

    Args:
        name: table1 to table8.

    >>> paper_table("table2")[Key(9, "a_fl", "alm", "test_auc")]
    95.38
    """
    text = files("prostate_alm.experiments").joinpath("paper_tables.json").read_text(encoding="utf-8")
    table = json.loads(text)[name]
    figures: dict[Key, float] = {}
    for class_ratio, loss, arm, *cells in table["rows"]:
        ratio = int(class_ratio.removeprefix("1:"))
        named = cells[0] if isinstance(cells[0], dict) else dict(zip(table["columns"], cells, strict=True))
        figures |= {Key(ratio, loss, arm, column): in_numbers(cell, ratio) for column, cell in named.items()}
    return MappingProxyType(figures)


def paper_effects(name: str, ratio: int, column: str) -> dict[str, float]:
    """Return ALM minus baseline of each loss that the table has with both.

    Args:
        name: table1, table2, table5 or table6.
        ratio: N of the class ratio 1:N.
        column: one of `rate_columns`.

    Returns:
        Differences in percentage points by loss; empty for a class ratio that the paper does not have.

    >>> round(paper_effects("table2", 2, "test_auc")["bce"], 2)
    0.74
    """
    table = paper_table(name)
    with_both = [loss for loss in loss_names() if Key(ratio, loss, "alm", column) in table]
    return {
        loss: table[Key(ratio, loss, "alm", column)] - table[Key(ratio, loss, "baseline", column)] for loss in with_both
    }
