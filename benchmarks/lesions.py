"""Members of the lesions bundle with and without the constraint: false positives per case at high lesion sensitivity.

    OMP_NUM_THREADS=1 python benchmarks/lesions.py MANIFEST OUTPUT_DIR [--losses bce] [--members 3] [--set mu0=100]

Each member is trained by the bundle as it is, from the first step with the constraint or without, and leaves its maps
of the test studies; a member that is there is not trained again, so that a stopped run goes on. An ensemble is the mean
of its members' maps. Intervals are of 2000 resamples of the test studies, paired between with and without. The table
of what OUTPUT_DIR holds goes to standard output, or to a CSV file with `--csv`; `--members 0` only makes the table.
`--set` overrides keys of the bundle, of the members with the constraint only: a folder for each choice, to which the
files of the baselines may be linked. `--pool` makes each row the mean over the cohorts of other such folders, too, and
the last rows are the mean over all losses: a resample draws among the studies of all cohorts, and takes what all losses
say of a study together.
"""

import argparse
import csv
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.bundle import ConfigWorkflow

from prostate_alm.method.bootstrap import interval_over_cases
from prostate_alm.method.lesion_metrics import (
    Detections,
    false_positives_at_sensitivity,
    lesion_average_precision,
)
from prostate_alm.method.lesions import case_logits
from prostate_alm.method.metrics import auc
from prostate_alm.shipped import shipped_bundle
from prostate_alm.training.lesion_scores import LesionMetrics, detections_of

SENSITIVITIES = (1.0, 0.95, 0.9)


Figure = Callable[[Sequence["Case"], int], float]
"""Of one of the two ensembles, 0 or 1."""


class Case(NamedTuple):
    """What two ensembles said of a study."""

    label: int
    logits: tuple[float, float]
    detections: tuple[Detections, Detections]


class Study(NamedTuple):
    """What the ensembles of each loss said of a study, and whose cohort it is of."""

    cohort: int
    label: int
    cases: tuple[Case, ...]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--losses", nargs="+", default=["dice_bce", "bce"])
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--pool", nargs="+", type=Path, default=[], metavar="DIR")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    overrides = {key: float(value) for key, value in (pair.split("=") for pair in options.overrides)}
    for member, loss, alm in itertools.product(range(options.members), options.losses, (False, True)):
        file = maps_of(options.output_dir, loss, alm, member)
        if not file.exists():
            given = {"loss": loss, "alm": alm, "member": member, "alm_epochs": options.epochs}
            train(options.manifest, file, given | (overrides if alm else {}))
            print(file.stem, "trained", file=sys.stderr, flush=True)
    folders = [options.output_dir, *options.pool]
    together = [options.losses] if len(options.losses) > 1 else []
    rows = [row for losses in [*([loss] for loss in options.losses), *together] for row in compared(folders, losses)]
    if not rows:
        raise SystemExit(f"{options.output_dir} must hold a member with and one without the constraint, got neither")
    with options.csv.open("w", newline="") if options.csv else sys.stdout as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def maps_of(folder: Path, loss: str, alm: bool, member: int) -> Path:
    return folder / f"{loss}-{'alm' if alm else 'baseline'}-{member}.npz"


def train(manifest: Path, file: Path, given: dict[str, object]) -> None:
    places = {"output_dir": str(file.with_suffix("")), "cache_dir": str(file.parent / "cache"), "tracking_uri": "none"}
    workflow = ConfigWorkflow(
        config_file=str(shipped_bundle("lesions") / "train.json"),
        workflow_type="train",
        run_id="training",
        manifest=str(manifest),
        resume=True,
        **given,
        **places,
    )
    workflow.initialize()
    workflow.run()
    training = workflow.parser.get_parsed_content("member_training", instantiate=True)
    scores = training.evaluate(training.evaluated["test"])
    assert isinstance(scores, LesionMetrics)
    np.savez(
        file,
        ids=scores.sample_ids,
        labels=scores.labels,
        counts=[scores.counts[key] for key in scores.sample_ids],
        maps=scores.maps.numpy(),
        lesions=scores.lesions.numpy(),
    )


def compared(folders: Sequence[Path], losses: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield a row for each figure, the mean over cohorts and losses: without, with, the change, and its interval."""
    members, studies = studies_in(folders, losses)
    if not members:
        return
    positive = [study.label == 1 for study in studies]
    words_of = {"cohorts": str(len(folders)), "loss": " ".join(losses), "members": str(members)}
    for name, figure in figures().items():
        without, with_ = (mean_figure(studies, figure=figure, which=which) for which in (0, 1))
        row = words_of | {"figure": name, "without": words(without), "with": words(with_)}
        try:
            change = interval_over_cases(studies, partial(mean_change, figure=figure), positive=positive)
        except ValueError:  # infinite in both
            yield row | {"change": "", "low": "", "high": ""}
        else:
            yield row | {"change": words(with_ - without), "low": words(change.low), "high": words(change.high)}


def studies_in(folders: Sequence[Path], losses: Sequence[str]) -> tuple[int, list[Study]]:
    """Return how many members are there with and without the constraint, of all losses, and what they say together."""
    numbers = set.intersection(*(numbers_in(folder, loss) for folder, loss in itertools.product(folders, losses)))
    studies = []
    for cohort, folder in enumerate(folders if numbers else ()):
        said = zip(*(cases_of(folder, loss, tuple(sorted(numbers))) for loss in losses), strict=True)
        studies += [Study(cohort, cases[0].label, cases) for cases in said]
    return len(numbers), studies


def numbers_in(folder: Path, loss: str) -> set[int]:
    """Return the members of a loss that are there with and without the constraint."""
    arms = [folder.glob(f"{loss}-{kind}-*.npz") for kind in ("baseline", "alm")]
    return set.intersection(*({int(path.stem.rpartition("-")[2]) for path in paths} for paths in arms))


def mean_figure(studies: Sequence[Study], *, figure: Figure, which: int) -> float:
    """Return the mean of a figure over cohorts and losses."""
    cohorts = [[study.cases for study in studies if study.cohort == cohort] for cohort in {s.cohort for s in studies}]
    return float(np.mean([figure(cases, which) for cohort in cohorts for cases in zip(*cohort, strict=True)]))


def mean_change(studies: Sequence[Study], *, figure: Figure) -> float:
    return mean_figure(studies, figure=figure, which=1) - mean_figure(studies, figure=figure, which=0)


def figures() -> dict[str, Figure]:
    at = {f"fp_per_case_at_sens{round(100 * s)}": partial(false_positives, sensitivity=s) for s in SENSITIVITIES}
    return at | {"lesion_ap": precision, "case_auc": case_auc}


def false_positives(cases: Sequence[Case], which: int, *, sensitivity: float) -> float:
    return false_positives_at_sensitivity([case.detections[which] for case in cases], sensitivity)


def precision(cases: Sequence[Case], which: int) -> float:
    return lesion_average_precision([case.detections[which] for case in cases])


def case_auc(cases: Sequence[Case], which: int) -> float:
    return auc(np.array([case.label for case in cases]), np.array([case.logits[which] for case in cases]))


@cache
def cases_of(folder: Path, loss: str, members: tuple[int, ...]) -> list[Case]:
    """Return what the ensembles without the constraint and with it say of each study."""
    read = [[np.load(maps_of(folder, loss, alm, member)) for member in members] for alm in (False, True)]
    first = read[0][0]
    means = [np.mean([one["maps"] for one in files], axis=0) for files in read]  # (N, 1, X, Y, Z)
    logits = [case_logits(torch.from_numpy(mean).double()).flatten().tolist() for mean in means]
    found = [
        [
            detections_of(one[0], lesions[0], count=int(count))
            for one, lesions, count in zip(mean, first["lesions"], first["counts"], strict=True)
        ]
        for mean in means
    ]
    rows = zip(first["labels"].tolist(), zip(*logits, strict=True), zip(*found, strict=True), strict=True)
    return [Case(int(label), pair, detections) for label, pair, detections in rows]


def words(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "inf" if value > 0 else "-inf"


if __name__ == "__main__":
    main()
