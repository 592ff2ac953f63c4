"""What harmonised b-values cost: the same synthetic studies acquired at other b-values than the model's.

    OMP_NUM_THREADS=1 python benchmarks/site_shift.py WORK_DIR [--studies 60] [--members 2] [--epochs 60 40]

Run from the repository root. Makes one cohort twice, acquired at 100/600/1000 and at 50/400/800 s/mm² (checked: same
labels, same T2 volumes), builds both manifests at the model's b-values, trains an ensemble on the first and applies it
to the test studies of both; and, for what harmonisation is worth, to the second cohort's images as they were acquired,
under a manifest that says that they were the model's b-values. Prints figures per site, and the paired differences to
the first with 95 % intervals: the AUC by DeLong's test and a bootstrap over studies, FPR and TPR at the threshold of
the ensemble's own validation. What is done in WORK_DIR is not done again; another number of studies needs another
folder.
"""

import argparse
import csv
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prostate_alm.data.build import build_manifest
from prostate_alm.data.manifest import Manifest, read_manifest, write_manifest
from prostate_alm.method.metrics import auc, bootstrap_interval, delong_test

ACQUIRED, OTHER, AS_ACQUIRED = "b-100-600-1000", "b-50-400-800", "b-50-400-800-as-acquired"
B_VALUES = {ACQUIRED: ("100", "600", "1000"), OTHER: ("50", "400", "800")}
MODEL = tuple(float(b) for b in B_VALUES[ACQUIRED])
TARGET_TPR = 0.95
ENSEMBLE = Path("outputs", "prostate", ACQUIRED, "bce-alm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--studies", type=int, default=60, help="of each cohort (default: %(default)s)")
    parser.add_argument("--test-share", type=float, default=0.5, help="(default: %(default)s)")
    parser.add_argument("--members", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, nargs=2, default=(60, 40), help="of both stages (default: 60 40)")
    parser.add_argument("--difficulty", type=float, default=0.25, help="of the phantom (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="of the phantom (default: %(default)s)")
    options = parser.parse_args()
    manifests = {name: make_site(options, name) for name in B_VALUES}
    require_same_studies(*(read_manifest(path) for path in manifests.values()))
    folder = train(options, manifests[ACQUIRED])
    unharmonised = make_unharmonised(options)
    print(run("ensemble", "evaluate", folder, "--manifest", manifests[OTHER], "--manifest", unharmonised))
    for site in (OTHER, AS_ACQUIRED):
        metrics = json.loads((folder / "sites" / site / "metrics.json").read_text())
        print(f"\n{site} - {ACQUIRED}, {to_text(*paired(folder, site), metrics)}")


def run(*arguments: object) -> str:
    """Run a command of prostate-alm as a user does and return what it prints."""
    command = [sys.executable, "-m", "prostate_alm.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_site(options: argparse.Namespace, name: str) -> Path:
    dicom, manifest = options.work_dir / f"dicom-{name}", options.work_dir / f"{name}.json"
    if not manifest.is_file():
        settings = ("--studies", options.studies, "--seed", options.seed, "--difficulty", options.difficulty)
        run("phantom", "make", "--output", dicom, *settings, "--b-values", *B_VALUES[name])
        split = ("--test-share", options.test_share, "--source", "synthetic studies of prostate-alm")
        run("manifest", "build", dicom, "--labels", dicom / "labels.csv", "--output", manifest, *split)
    return manifest


def make_unharmonised(options: argparse.Namespace) -> Path:
    """Build the second cohort at its own b-values, and write a manifest that takes them for the model's."""
    dicom, path = options.work_dir / f"dicom-{OTHER}", options.work_dir / f"{AS_ACQUIRED}.json"
    if not path.is_file():
        own = tuple(float(b) for b in B_VALUES[OTHER])
        built = options.work_dir / f"{AS_ACQUIRED}-true.json"
        labels, share = dicom / "labels.csv", options.test_share
        build_manifest(dicom, labels, output=built, b_values_s_per_mm2=own, test_share=share, overwrite=True, workers=2)
        write_manifest(read_manifest(built).model_copy(update={"b_values_s_per_mm2": MODEL, "name": path.stem}), path)
    return path


def require_same_studies(first: Manifest, second: Manifest) -> None:
    """Stop where the cohorts differ in more than their diffusion: ids, labels, splits, T2 voxels."""
    pairs = list(zip(first.studies, second.studies, strict=True))
    same = [(a.id, a.label, a.split, a.t2.sha256) == (b.id, b.label, b.split, b.t2.sha256) for a, b in pairs]
    diffusion = [a.dwi.sha256 != b.dwi.sha256 for a, b in pairs]
    if not all(same) or not all(diffusion):
        raise SystemExit("the cohorts must differ in their diffusion alone")
    print(f"{len(pairs)} studies: same labels, splits and T2 voxels, other diffusion; second site at computed b-values")


def train(options: argparse.Namespace, manifest: Path) -> Path:
    folder: Path = options.work_dir / ENSEMBLE
    if not (folder / "metrics.json").is_file():
        epochs = ("--pretrain_epochs", options.epochs[0], "--alm_epochs", options.epochs[1])
        where = ("--manifest", manifest, "--output", options.work_dir / "outputs", "--tracking_uri", "none")
        run("ensemble", "train", "bundles/prostate", "--members", options.members, *where, *epochs)
    return folder


def paired(folder: Path, site: str) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) and the logits (N, 2) of the same test studies, acquired at the model's b-values and not."""
    here, there = (read_rows(path / "predictions.csv") for path in (folder, folder / "sites" / site))
    labels = np.array([here[key][0] for key in here])
    return labels, np.array([(here[key][1], there[key][1]) for key in here])


def read_rows(path: Path) -> dict[str, tuple[int, float]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["sample_id"]: (int(row["label"]), float(row["logit"])) for row in csv.DictReader(stream)}


def to_text(labels: np.ndarray, logits: np.ndarray, metrics: dict[str, Any]) -> str:
    point = next(p for p in metrics["operating_points"] if abs(p["target_tpr"] - TARGET_TPR) < 1e-9)
    test = delong_test(labels, logits[:, 1], logits[:, 0])
    differences = {
        "AUC": difference_of_auc,
        "TPR": partial(difference_of_rate, threshold=point["threshold"], label=1),
        "FPR": partial(difference_of_rate, threshold=point["threshold"], label=0),
    }
    lines = [f"{labels.sum()} positives and {(1 - labels).sum()} negatives, points of percent:"]
    for name, difference in differences.items():
        found = bootstrap_interval(labels, logits, metric=difference)
        lines.append(f"{name} {100 * found.estimate:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]")
    moved = logits[:, 1] - logits[:, 0]
    spread = logits[:, 0].std()
    lines.append(
        f"p = {test.p_value:.2g} (DeLong); logits move by {moved.mean():+.3f} ± {moved.std():.3f} of {spread:.3f}"
    )
    return "\n".join(lines)


def difference_of_auc(labels: np.ndarray, logits: np.ndarray) -> float:
    return auc(labels, logits[:, 1]) - auc(labels, logits[:, 0])


def difference_of_rate(labels: np.ndarray, logits: np.ndarray, *, threshold: float, label: int) -> float:
    called = logits[np.asarray(labels) == label] >= threshold
    return float(called[:, 1].mean() - called[:, 0].mean())


if __name__ == "__main__":
    main()
