"""The ensembles' test logits of an experiment in one small file for each pair of classes, or for the cohort.

    python benchmarks/compact_logits.py EXPERIMENT_DIR OUTPUT_DIR

Writes OUTPUT_DIR/logits-PAIR.npz or logits-prostate.npz: `RATIO/NAME` holds the float32 mean logits of an ensemble,
`RATIO/ids` the ids of the test images or studies in that order, the first `RATIO/at_ratio` of which are the test set
at the class ratio, `RATIO/labels` their labels. Figures and intervals can be computed from it again; weights are not
kept.
"""

import argparse
import csv
from pathlib import Path

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    for pair in sorted({file.parents[2] for file in options.experiment.glob("*/*/*/predictions.csv")}):
        arrays: dict[str, np.ndarray] = {}
        for file in sorted(pair.glob("*/*/predictions.csv")):
            ratio, name = file.parts[-3:-1]
            with file.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            arrays[f"{ratio}/{name}"] = np.array([float(row["logit"]) for row in rows], dtype=np.float32)
            arrays[f"{ratio}/ids"] = np.array([row["sample_id"] for row in rows])
            arrays[f"{ratio}/labels"] = np.array([int(row["label"]) for row in rows], dtype=np.uint8)
            arrays[f"{ratio}/at_ratio"] = np.array(sum(row["split"] == "test" for row in rows))
        np.savez_compressed(options.output / f"logits-{pair.name.removeprefix('cifar10-')}.npz", **arrays)


if __name__ == "__main__":
    main()
