"""The ensembles of an experiment on further test studies: what the constraint changes, with less chance in it.

    OMP_NUM_THREADS=1 python benchmarks/more_test_studies.py EXPERIMENT_DIR MANIFEST --trained-on JSON [--jobs 2]

Packs every finished ensemble, trained on the cohort JSON, applies it to the test studies of MANIFEST as `prostate-alm
sites` does, and prints, for each class ratio of the training, AUC and FPR in percent of each loss without and with the
constraint, and the mean difference with a 95 % bootstrap interval over the studies, the same resample for all losses.
The interval holds the chance of the test studies alone, not that of the training. What is done in EXPERIMENT_DIR is not
done again.
"""

import argparse
import csv
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prostate_alm.delivery.package.build import pack_ensemble
from prostate_alm.delivery.package.opened import open_package
from prostate_alm.delivery.package.trained import Origins
from prostate_alm.delivery.sites import evaluate_sites, write_predictions
from prostate_alm.method.bootstrap import bootstrap_interval
from prostate_alm.method.metrics import auc, fpr_at_tpr

METRICS: dict[str, Callable[[Any, Any], float]] = {
    "AUC": auc,
    "FPR at 90 % TPR": partial(fpr_at_tpr, tpr=0.90),
    "FPR at 95 % TPR": partial(fpr_at_tpr, tpr=0.95),
    "FPR at 100 % TPR": partial(fpr_at_tpr, tpr=1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--trained-on", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="ensembles at a time (default: %(default)s)")
    options = parser.parse_args()
    ensembles = [file.parent for file in sorted(options.experiment.glob("*/*/*/predictions.csv"))]
    if not ensembles:
        parser.error(f"EXPERIMENT_DIR must hold evaluated ensembles, got none in {options.experiment}.")
    with ProcessPoolExecutor(options.jobs) as pool:
        apply = partial(predictions, manifest=options.manifest, trained_on=options.trained_on)
        found = dict(zip(ensembles, pool.map(apply, ensembles), strict=True))
    for ratio in sorted({folder.parent for folder in ensembles}):
        print(table(ratio.name, {folder.name: found[folder] for folder in ensembles if folder.parent == ratio}))


def predictions(folder: Path, *, manifest: Path, trained_on: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels and mean logits (N,) of an ensemble on the test studies of a manifest."""
    pack, file = folder / "packed.zip", folder / f"site-{manifest.stem}.csv"
    if not pack.is_file():
        pack_ensemble(folder, pack, origins=Origins(manifest=trained_on))
    if not file.is_file():
        model = open_package(pack)
        write_predictions(evaluate_sites(model, [manifest])[1], model.card, file)
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return np.array([int(row["label"]) for row in rows]), np.array([float(row["logit"]) for row in rows])


def table(ratio: str, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Return one row for each loss and one of the mean; columns are `baseline -> with the constraint`."""
    losses = [name.removesuffix("-baseline") for name in found if name.endswith("-baseline")]
    pairs = {one: (f"{one}-baseline", f"{one}-alm") for one in losses if f"{one}-alm" in found}
    labels = next(iter(found.values()))[0]
    lines = [
        f"\n{ratio}: {labels.sum()} positives, {(1 - labels).sum()} negatives",
        f"| loss | {' | '.join(METRICS)} |",
    ]
    lines.append("|---" * (1 + len(METRICS)) + "|")
    for one in losses:
        scores = [found[name][1] for name in pairs.get(one, (f"{one}-baseline",))]
        cells = [" -> ".join(f"{100 * metric(labels, s):.1f}" for s in scores) for metric in METRICS.values()]
        lines.append(f"| {one} | {' | '.join(cells)} |")
    both = np.stack([found[name][1] for pair in pairs.values() for name in pair], axis=1)
    means = [bootstrap_interval(labels, both, metric=partial(mean_change, metric)) for metric in METRICS.values()]
    cells = [f"{100 * m.estimate:+.2f} [{100 * m.low:+.2f}, {100 * m.high:+.2f}]" for m in means]
    return "\n".join([*lines, f"| mean change | {' | '.join(cells)} |"])


def mean_change(metric: Callable[[Any, Any], float], labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean of metric(with the constraint) - metric(baseline); columns alternate between the two."""
    values = np.array([metric(labels, column) for column in scores.T])
    return float((values[1::2] - values[::2]).mean())


if __name__ == "__main__":
    main()
