"""What harmonised b-values cost: the same synthetic studies acquired at other b-values than the model's.

    OMP_NUM_THREADS=1 python benchmarks/site_shift.py WORK_DIR RECIPE [--members 3] [--NAME VALUE ...]

Run from the repository root; what is not an option here is a setting of the bundle. Makes the cohort of RECIPE in
WORK_DIR, acquired at the model's 100/600/1000 s/mm², and the same studies acquired at 50/400/800 (checked: same labels,
same T2 volumes), whose b-values are computed. Trains and packs an ensemble on the first and applies it to the test
studies of both; and, for what harmonisation is worth, to the second cohort's images as they were acquired, under a
manifest that says that they were the model's b-values. Prints figures per site, and the paired differences to the first
with 95 % intervals: the AUC by DeLong's test and a bootstrap over studies, FPR and TPR at the threshold of the pack.
What is done in WORK_DIR is not done again; another recipe needs another folder.
"""

import argparse
import csv
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from prostate_alm.data.manifest import Manifest, read_manifest, write_manifest
from prostate_alm.data.synthetic import SyntheticCohort, ensure_cohort, make_from_recipe, read_recipe
from prostate_alm.delivery.package.described import describe_package
from prostate_alm.method.bootstrap import bootstrap_interval
from prostate_alm.method.metrics import auc, delong_test

OTHER, AS_ACQUIRED = "b-50-400-800", "b-50-400-800-as-acquired"
OTHER_B_VALUES = (50.0, 400.0, 800.0)
TARGET_TPR = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--members", type=int, default=3, help="(default: %(default)s)")
    options, settings = parser.parse_known_args()
    here = make_from_recipe(options.recipe, options.work_dir)
    harmonised, as_acquired = make_other_site(options.work_dir, read_recipe(options.recipe).cohort)
    require_same_studies(read_manifest(here), read_manifest(harmonised))
    pack, table = train(here, options.members, settings), options.work_dir / "sites.csv"
    print(run("sites", pack, here, harmonised, as_acquired, "--output", table, "--overwrite"))
    logits, threshold = read_rows(table), describe_package(pack).card.operating_point(TARGET_TPR).threshold
    for site in (OTHER, AS_ACQUIRED):
        print(f"\n{site} - {here.stem}, {to_text(*paired(logits, here.stem, site), threshold)}")


def run(*arguments: object) -> str:
    """Run a command of prostate-alm as a user does and return what it prints."""
    command = [sys.executable, "-m", "prostate_alm.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def make_other_site(work_dir: Path, cohort: SyntheticCohort) -> tuple[Path, Path]:
    """Make the cohort at other b-values; return its manifests: the model's, computed, and the acquired in disguise."""
    other = cohort.model_copy(update={"b_values_s_per_mm2": OTHER_B_VALUES})
    own = ensure_cohort(work_dir / f"{OTHER}-own.json", other)
    dicom_dir = own.with_name(f"{own.stem}-dicom")
    harmonised, as_acquired = (work_dir / f"{name}.json" for name in (OTHER, AS_ACQUIRED))
    if not harmonised.is_file():
        split = ("--test-share", cohort.test_share)
        run("manifest", "build", dicom_dir, "--labels", dicom_dir / "labels.csv", "--output", harmonised, *split)
    if not as_acquired.is_file():
        disguise = {"b_values_s_per_mm2": cohort.b_values_s_per_mm2, "name": as_acquired.stem}
        write_manifest(read_manifest(own).model_copy(update=disguise), as_acquired)
    return harmonised, as_acquired


def require_same_studies(first: Manifest, second: Manifest) -> None:
    """Stop where the cohorts differ in more than their diffusion: ids, labels, splits, T2 voxels."""
    pairs = list(zip(first.studies, second.studies, strict=True))
    same = [(a.id, a.label, a.split, a.t2.sha256) == (b.id, b.label, b.split, b.t2.sha256) for a, b in pairs]
    diffusion = [a.dwi.sha256 != b.dwi.sha256 for a, b in pairs]
    if not all(same) or not all(diffusion):
        raise SystemExit("the cohorts must differ in their diffusion alone")
    print(f"{len(pairs)} studies: same labels, splits and T2 voxels, other diffusion; second site at computed b-values")


def train(manifest: Path, members: int, settings: list[str]) -> Path:
    """Return the pack of an ensemble of a cohort; train and pack what is not there."""
    outputs, pack = manifest.parent / "outputs", manifest.with_name(f"{manifest.stem}.zip")
    folder = outputs / "prostate" / manifest.stem / "bce-alm"
    if not (folder / "metrics.json").is_file():
        where = ("--manifest", manifest, "--output", outputs, "--tracking_uri", "none")
        run("ensemble", "train", "bundles/prostate", "--members", members, *where, *settings)
    if not pack.is_file():
        run("pack", folder, "--manifest", manifest, "--output", pack)
    return pack


def paired(logits: dict[str, dict[str, tuple[int, float]]], own: str, site: str) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,) and the logits (N, 2) of the same test studies, acquired at the model's b-values and not."""
    here, there = logits[own], logits[site]
    labels = np.array([here[key][0] for key in here])
    return labels, np.array([(here[key][1], there[key][1]) for key in here])


def read_rows(path: Path) -> dict[str, dict[str, tuple[int, float]]]:
    """Return label and logit of each study by site."""
    found: dict[str, dict[str, tuple[int, float]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(row["site"], {})[row["sample_id"]] = int(row["label"]), float(row["logit"])
    return found


def to_text(labels: np.ndarray, logits: np.ndarray, threshold: float) -> str:
    test = delong_test(labels, logits[:, 1], logits[:, 0])
    differences = {
        "AUC": difference_of_auc,
        "TPR": partial(difference_of_rate, threshold=threshold, label=1),
        "FPR": partial(difference_of_rate, threshold=threshold, label=0),
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
