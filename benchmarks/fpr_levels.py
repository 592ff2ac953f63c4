"""False positive rates of evaluated ensembles at any true positive rates, with paired bootstrap intervals.

    python benchmarks/fpr_levels.py BASELINE_DIR ALM_DIR [--tpr 0.98 0.95 0.92]

Reads the `predictions.csv` of two ensembles on the same test samples, all positives of the test files included.
"""

import argparse
import csv
from functools import partial
from pathlib import Path

import numpy as np

from prostate_alm.method.bootstrap import bootstrap_interval
from prostate_alm.method.metrics import auc, fpr_at_tpr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("baseline", type=Path)
    parser.add_argument("constrained", type=Path)
    parser.add_argument("--tpr", type=float, nargs="+", default=[0.98, 0.95, 0.92])
    options = parser.parse_args()
    first, second = (read(folder / "predictions.csv") for folder in (options.baseline, options.constrained))
    if first.keys() != second.keys():
        parser.error(f"ensembles must have the same test samples, got others in {options.constrained}.")
    labels = np.array([label for label, _ in first.values()])
    scores = np.array([[first[key][1], second[key][1]] for key in first])  # (N, 2)
    metrics = {"AUC": auc} | {f"FPR at {100 * tpr:g} % TPR": partial(fpr_at_tpr, tpr=tpr) for tpr in options.tpr}
    print(f"{'':20} {'baseline':>9} {'with ALM':>9} {'difference, 95 % interval':>28}")
    for name, metric in metrics.items():
        interval = bootstrap_interval(labels, scores, metric=partial(difference, metric))
        values = [100 * metric(labels, column) for column in scores.T]
        bounds = f"{100 * interval.estimate:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
        print(f"{name:20} {values[0]:9.1f} {values[1]:9.1f} {bounds:>28}")


def read(path: Path) -> dict[str, tuple[int, float]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["sample_id"]: (int(row["label"]), float(row["logit"])) for row in csv.DictReader(stream)}


def difference(metric, labels, pair):
    return metric(labels, pair[:, 1]) - metric(labels, pair[:, 0])


if __name__ == "__main__":
    main()
