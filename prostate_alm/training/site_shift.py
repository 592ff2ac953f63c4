"""A trained ensemble on the studies of other sites: ranking, rates at its frozen threshold, calibration.

Threshold and calibration come from the training studies of the ensemble, through the members that had them for
validation, and are not touched: what changes from site to site is what a user of the packed model would see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prostate_alm.data.manifest import read_manifest
from prostate_alm.method.calibration import PlattScaling, calibration_quality, fit_platt
from prostate_alm.method.metrics import Interval, auc, bootstrap_interval, threshold_at_tpr
from prostate_alm.method.operating_point import binomial_interval
from prostate_alm.progress import Progress, silent
from prostate_alm.results.run_folder import METRICS, PREDICTIONS, RunFolder
from prostate_alm.training.ensemble import RESAMPLES, Scores, read_predictions, write_predictions
from prostate_alm.training.out_of_fold import OutOfFold, out_of_fold, read_validation_logits
from prostate_alm.training.scores import TPR_LEVELS_PERCENT
from prostate_alm.training.site_input import Site, TrainedOn, read_trained_on, sites_of
from prostate_alm.training.site_logits import member_logits
from prostate_alm.whole_files import sha256_of_file

SITES, POOLED = "sites", "pooled.json"
"""Folder of the results in that of the ensemble, and the file in it of all sites together."""

SHOWN_TPR_PERCENT = 95
"""The operating point of the table for a terminal: the default of a packed model."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Frozen:
    """What is fixed before a site is looked at: thresholds by target TPR in percent, and the calibration.

    `platt` is None where the logits do not rank validation studies, so that they have no probabilities.
    """

    thresholds: Mapping[int, float]
    platt: PlattScaling | None


def evaluate_sites(
    folder: Path,
    manifests: Sequence[Path],
    *,
    bundle: Path | None = None,
    trained_on: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Apply the members of an evaluated ensemble to the test studies of other manifests and write results per site.

    Writes `sites/NAME/predictions.csv` and `sites/NAME/metrics.json` for each manifest and, of two or more,
    `sites/pooled.json`, into the folder of the ensemble; its own results stay as they are. The network computes in the
    precision that the members were validated in, so that thresholds and logits are of one kind.

    Args:
        folder: of an evaluated ensemble of the prostate bundle.
        manifests: other cohorts of the same diffusion volumes, at least one.
        bundle: folder of the ensemble's bundle; None for the one that is shipped.
        trained_on: manifest that the ensemble was trained on; None to look for it by its name in `data`,
            `data_manifest` and beside the other manifests.
        progress: called with the studies done and in all.

    Returns:
        `trained_on` (figures on the ensemble's own test studies), `sites` (by name) and `pooled` (None for one site).

    Raises:
        EnsembleError: ensemble, bundle or manifests do not belong together, a volume changed, or a site cannot be
            judged; one line. Nothing is written then.
        ManifestError: a manifest cannot be read.
    """
    cohorts = [(path, read_manifest(path)) for path in manifests]
    own = read_trained_on(folder, bundle=bundle, manifest=trained_on, near=manifests)
    sites = sites_of(own, cohorts, output=folder / SITES)
    frozen = freeze(out_of_fold(read_validation_logits(own.members, own.manifest), own.manifest))
    total, done, scores = sum(len(site.studies) for site in sites), 0, {}
    for site in sites:
        logits = member_logits(own, site, progress=_shifted(progress, done, total))
        done += len(site.studies)
        scores[site.name] = Scores([s.id for s in site.studies], ["test"] * len(site.studies), site.labels, logits)
    found = {site.name: _about(own, site) | figures_of(frozen, scores[site.name]) for site in sites}
    pooled = _pooled(frozen, list(scores.values()), names=list(scores)) if len(sites) > 1 else None
    _write(folder / SITES, scores, found, pooled)
    at_home = {"manifest": own.manifest.name} | figures_of(frozen, read_predictions(folder / PREDICTIONS, {}))
    return {"trained_on": at_home, "sites": found, "pooled": pooled}


def freeze(found: OutOfFold) -> Frozen:
    """Return thresholds and calibration of an ensemble from its out-of-fold logits.

    Each threshold is the greatest that finds the target share of the positives there, as in a packed model.

    Args:
        found: one mean logit for each training study that some member had for validation.
    """
    thresholds = {
        level: threshold_at_tpr(found.labels, found.logits, level / 100) for level in sorted(TPR_LEVELS_PERCENT)
    }
    try:
        return Frozen(thresholds, fit_platt(found.labels, found.logits))
    except ValueError:  # an ensemble that ranks at random is a result, e.g. of shuffled labels, and no fault
        return Frozen(thresholds, None)


def figures_of(frozen: Frozen, scores: Scores) -> dict[str, Any]:
    """Return ranking, rates at the frozen thresholds and calibration, each with its 95 % interval.

    Args:
        frozen: thresholds and calibration.
        scores: of N samples, both classes among them.

    Returns:
        `positives`, `negatives`, `auc` (bootstrap over the samples), `operating_points` (exact intervals of Clopper
        and Pearson) and `calibration` (None without probabilities; its `slope` None where the classes are separated).
    """
    labels, logits = scores.labels, scores.mean
    positive, negative = logits[labels == 1], logits[labels == 0]
    area = bootstrap_interval(labels, logits, metric=auc, resamples=RESAMPLES)
    points = [
        {
            "target_tpr": level / 100,
            "threshold": threshold,
            "tpr": asdict(binomial_interval(int((positive >= threshold).sum()), len(positive))),
            "fpr": asdict(binomial_interval(int((negative >= threshold).sum()), len(negative))),
        }
        for level, threshold in frozen.thresholds.items()
    ]
    platt = frozen.platt
    return {
        "positives": len(positive),
        "negatives": len(negative),
        "auc": asdict(area),
        "operating_points": points,
        "calibration": None if platt is None else asdict(calibration_quality(labels, platt.probability(logits))),
    }


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    """Return a progress of one site that counts the studies of all."""
    return lambda done, _: progress(before + done, total)


def _about(own: TrainedOn, site: Site) -> dict[str, Any]:
    return {
        "manifest": site.name,
        "manifest_sha256": sha256_of_file(site.path),
        "trained_on": own.manifest.name,
        "trained_on_sha256": own.sha256,
        "members": list(own.numbers),
        "studies": len(site.studies),
        "training_studies_left_out": site.training_studies,
        "studies_with_computed_b_values": sum(any(study.b_values_computed) for study in site.studies),
    }


def _pooled(frozen: Frozen, scores: Sequence[Scores], *, names: list[str]) -> dict[str, Any]:
    """Return the figures of the studies of all sites in one list: a shift between sites counts as wrong ranking."""
    together = Scores(
        [key for one in scores for key in one.sample_ids],
        [split for one in scores for split in one.splits],
        np.concatenate([one.labels for one in scores]),
        np.concatenate([one.logits for one in scores], axis=1),
    )
    return {"sites": names} | figures_of(frozen, together)


def _write(
    output: Path, scores: Mapping[str, Scores], found: Mapping[str, dict[str, Any]], pooled: dict[str, Any] | None
) -> None:
    for name, figures in found.items():
        folder = RunFolder(output / name)
        folder.path.mkdir(parents=True, exist_ok=True)
        write_predictions(folder.file(PREDICTIONS), scores[name])
        folder.write_json(METRICS, figures)  # last: it says that the predictions are complete
    if pooled is not None:
        RunFolder(output).write_json(POOLED, pooled)


def to_text(report: Mapping[str, Any]) -> str:
    """Return the figures of an ensemble across sites as a table for a terminal, rates in percent.

    Args:
        report: what `evaluate_sites` returns.
    """
    own = report["trained_on"]
    rows = [(f"{own['manifest']} (own)", own), *report["sites"].items()]
    rows += [("pooled", report["pooled"])] if report["pooled"] else []
    width = max(len(name) for name, _ in rows)
    columns = ("AUC", f"TPR at {SHOWN_TPR_PERCENT} %", f"FPR at {SHOWN_TPR_PERCENT} %")
    head = f"{'':{width}} {'pos':>5} {'neg':>5}" + "".join(f" {name:>19}" for name in columns)
    lines = [head + f" {'ECE':>6} {'slope':>18} {'intercept':>19} {'Brier':>6}"]
    return "\n".join(lines + [f"{name:{width}} {_row(figures)}" for name, figures in rows])


def _row(figures: Mapping[str, Any]) -> str:
    point = next(p for p in figures["operating_points"] if round(100 * p["target_tpr"]) == SHOWN_TPR_PERCENT)
    cells = "".join(f" {_percent(Interval(**value)):>19}" for value in (figures["auc"], point["tpr"], point["fpr"]))
    return f"{figures['positives']:>5} {figures['negatives']:>5}{cells}{_calibration(figures['calibration'])}"


def _percent(value: Interval) -> str:
    return f"{100 * value.estimate:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"


def _calibration(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return f" {'-':>6} {'-':>18} {'-':>19} {'-':>6}"
    slope, intercept = found["slope"], Interval(**found["intercept"])
    shown = "-" if slope is None else "{estimate:.2f} [{low:.2f}, {high:.2f}]".format(**slope)
    around = f"{intercept.estimate:+.2f} [{intercept.low:+.2f}, {intercept.high:+.2f}]"
    return f" {found['expected_calibration_error']:>6.3f} {shown:>18} {around:>19} {found['brier']:>6.3f}"
