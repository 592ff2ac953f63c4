"""Experiments of the CIFAR-10 plan whose ensembles have the paper's own figures."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prostate_alm.experiments.paper_tables import RATE_COLUMNS, Key, paper_table
from prostate_alm.experiments.plan import Plan, start_or_continue
from prostate_alm.method.losses import LOSSES as ALL_LOSSES

SHIPPED = Path(__file__).parents[2] / "bundles" / "cifar10" / "experiments" / "paper.json"
PLAN = json.loads(SHIPPED.read_text(encoding="utf-8"))
LOSSES = [loss for loss in ALL_LOSSES if loss != "ldam"]
TABLE_OF = {(0, 1): "table2", (6, 7): "table5"}


def started(root: Path, **changes: Any) -> Path:
    root.mkdir(parents=True)
    (root.parent / "train.json").write_text("{}", encoding="utf-8")
    plan = Plan.model_validate(PLAN | {"bundle": str(root.parent / "train.json")} | changes)
    start_or_continue(plan, root)
    return root


def write_ensemble(root: Path, pair: tuple[int, int], ratio: int, loss: str, training: str, **changes: Any) -> None:
    """Write an ensemble whose figures are the paper's own; so what the report says of them is known."""
    folder = root / f"cifar10-{pair[0]}-{pair[1]}" / f"1-{ratio}" / f"{loss}-{training}"
    rates = {c: paper_table(TABLE_OF[pair])[Key(ratio, loss, training, c)] / 100 for c in RATE_COLUMNS}
    figures = {column.removeprefix("test_"): rate for column, rate in rates.items()}
    members = {c: paper_table("table4")[Key(ratio, loss, training, f"member_auc_{c}")] / 100 for c in ("mean", "std")}
    whole = {c: paper_table("table6")[Key(ratio, loss, training, c)] / 100 for c in RATE_COLUMNS}
    positives = {column.removeprefix("test_"): rate for column, rate in whole.items()}
    own = {"auc_difference": 0.01, "p_value": 0.03, "auc_difference_low": -0.002, "auc_difference_high": 0.02}
    metrics = {
        "members": list(range(10)),
        "failed": [],
        "ensemble": {"test": figures, "test_all_positives": positives, "test_draws": figures},
        "intervals": {"test": {key: [rate - 0.01, rate + 0.02] for key, rate in figures.items()}},
        "member_mean": {"test": {"auc": members["mean"]}},
        "member_std": {"test": {"auc": members["std"]}},
        "against_baseline": {"test": own, "test_all_positives": own} if training == "alm" else None,
    } | changes
    parameters = {
        key.column: value
        for key, value in paper_table("table8").items()
        if key[:2] == (ratio, loss) and key.arm in ("baseline", training)
    }
    write_files(folder, metrics, parameters)


def write_files(folder: Path, metrics: Mapping[str, Any], parameters: Mapping[str, float]) -> None:
    """Write what an ensemble of an experiment leaves: its figures and the parameters that were chosen."""
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "selection.json").write_text(json.dumps({"parameters": parameters}), encoding="utf-8")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def all_cells() -> Iterator[tuple[tuple[int, int], int, str, str]]:
    for pair in TABLE_OF:
        for ratio in (2, 9, 19):
            for loss in LOSSES:
                yield pair, ratio, loss, "baseline"
                if loss != "mbauc":
                    yield pair, ratio, loss, "alm"
