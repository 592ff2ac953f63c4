"""A packed model on the test studies of cohorts: ranking, rates at its thresholds, calibration, all as it is shipped.

Nothing is chosen on what is seen here: thresholds and calibration are those of the card, so that what changes from site
to site is what a user of the pack would see.
"""

import csv
import io
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prostate_alm.data.manifest import Manifest, StudyRecord, check_files, read_manifest
from prostate_alm.delivery.card import LesionsSpec, ModelCard
from prostate_alm.delivery.gland import crop_grid
from prostate_alm.delivery.package.cohort import read_volumes
from prostate_alm.delivery.package.lesions import detections_in
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.preprocess import cropped_channels, normalised_image
from prostate_alm.delivery.scores import calibrated, critical_logits, member_logits, study_logits
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.method.bootstrap import bootstrap_interval
from prostate_alm.method.calibration import PlattScaling, calibration_quality
from prostate_alm.method.lesion_metrics import Detections
from prostate_alm.method.metrics import Floats, Interval, auc
from prostate_alm.method.operating_point import binomial_interval
from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import sha256_of_file, write_text_atomically

_COLUMNS = ("site", "sample_id", "label", "logit", "logit_std", "probability")


class SiteError(ValueError):
    """A cohort that a model cannot be judged on; one line."""


@dataclass(frozen=True)
class Site:
    """The test studies of a cohort; `is_own` where it is the one that the model was trained on."""

    path: Path
    manifest: Manifest
    is_own: bool

    @property
    def name(self) -> str:
        """Name of the manifest's file without `.json`."""
        return self.path.stem

    @property
    def studies(self) -> tuple[StudyRecord, ...]:
        """The test studies."""
        return tuple(study for study in self.manifest.studies if study.split == "test")


@dataclass(frozen=True, eq=False)
class SiteScores:
    """What a model says of N studies: the logit that it decides on, and its deviation over the members.

    `detections` are what the candidates of a model of lesions found in each; none of other models.
    """

    labels: Floats  # (N,)
    logits: Floats  # (N,)
    ids: tuple[str, ...] = ()
    deviations: tuple[float, ...] = ()
    detections: tuple[Detections, ...] = ()


@dataclass(frozen=True)
class SitesReport:
    """Figures of `validation`, of each of the `sites` by name, and of the studies of all other sites in one list.

    `pooled` is None with fewer than two sites that are not the model's own.
    """

    model: dict[str, Any]
    validation: dict[str, Any]
    sites: dict[str, dict[str, Any]]
    pooled: dict[str, Any] | None


def evaluate_sites(
    model: PackedModel, manifests: Sequence[Path], *, progress: Progress = silent
) -> tuple[SitesReport, dict[str, SiteScores]]:
    """Return the figures of a packed model on the test studies of cohorts, and what it says of each study.

    Args:
        model: the pack. Of several classes its figures are those of the critical one; of lesions a case is positive
            where lesions were drawn, and there are figures of its candidates.
        manifests: at least one; the cohort of the training is known by its name and stands for the model's own site.
        progress: called with the studies done and in all.

    Returns:
        The report, and scores by site.

    Raises:
        SiteError: a cohort cannot be judged, or a volume changed; one line.
        ManifestError: a manifest cannot be read.
    """
    sites = read_sites(manifests, model.card)
    total, done, scores = sum(len(site.studies) for site in sites), 0, {}
    for site in sites:
        scores[site.name] = _scores_of(site, model, _shifted(progress, done, total))
        done += len(site.studies)
    card = model.card
    found = {site.name: _about(site, scores[site.name]) | figures_of(card, scores[site.name]) for site in sites}
    validation = SiteScores(np.array(card.validation.labels), np.array(card.validation.logits))
    others = [scores[site.name] for site in sites if not site.is_own]
    report = SitesReport(
        model={"name": card.name, "version": card.version, "sha256": model.identity.sha256, "trained_on": card.data},
        validation=figures_of(card, validation),
        sites=found,
        pooled=_pooled(card, others) if len(others) > 1 else None,
    )
    return report, scores


def read_sites(manifests: Sequence[Path], card: ModelCard) -> list[Site]:
    """Return the sites of cohorts, after checks that the model can be judged on their test studies.

    Only test studies count: those of a training split may serve to adapt a model to the site, and two models, trained
    here and there, are compared on the same studies.

    Args:
        manifests: of cohorts, at least one.
        card: of the model.

    Raises:
        SiteError: a cohort has other diffusion volumes, lacks a class, holds training studies of the model as far as
            its own cohort is among them, has a volume that changed, or the name of another.
        ManifestError: a manifest cannot be read.
    """
    sites = [_read_site(path, card) for path in manifests]
    twice = [name for name, count in Counter(site.name for site in sites).items() if count > 1]
    if twice:
        raise SiteError(f"manifests must have different names, got {twice[0]} twice. Give each once.")
    for site in sites:
        _require_same_channels(site, card)
        _require_both_classes([study.label for study in site.studies], site)
        _require_unseen(site, [one.manifest for one in sites if one.is_own])
    for site in sites:  # after all that is quick to say
        _require_unchanged_files(site)
    return sites


def _read_site(path: Path, card: ModelCard) -> Site:
    manifest = read_manifest(path)
    is_own = manifest.name == card.data
    if card.lesions is None:
        return Site(path, manifest, is_own)
    from prostate_alm.training.lesion_member import drawn_cohort  # waits for MONAI, as no other model need

    if all(study.lesions is None for study in manifest.studies):
        raise SiteError(
            f"studies of a site must have lesions that were drawn for a model of lesions, got none of "
            f"{len(manifest.studies)} in {path}. Build the manifest with --masks DIR."
        )
    return Site(path, drawn_cohort(manifest, path.parent)[0], is_own)


def _require_same_channels(site: Site, card: ModelCard) -> None:
    wanted, given = card.grid.b_values_s_per_mm2, site.manifest.b_values_s_per_mm2
    if given != wanted:
        found = _in_words(given or site.manifest.diffusion_channels)
        raise SiteError(
            f"diffusion of a site must be that of the model, {_in_words(wanted)}, got {found} in {site.path}. "
            "Build the manifest again for these; b-values that were not acquired are computed."
        )


def _in_words(channels: Sequence[float] | Sequence[str]) -> str:
    return f"[{', '.join(one if isinstance(one, str) else f'b {one:g} s/mm2' for one in channels)}]"


def _require_both_classes(labels: Sequence[float], site: Site) -> None:
    positives, count = int(sum(labels)), len(labels)
    if not 0 < positives < count:
        raise SiteError(
            f"test studies of a site must be of both classes, got {positives} positive of {count} in {site.path}. "
            "Change the column `split` of the labels and build the manifest again."
        )


def _require_unseen(site: Site, own: Sequence[Manifest]) -> None:
    training = (study for manifest in own for study in manifest.studies if study.split == "train")
    seen = {file.sha256 for study in training for file in (study.t2, study.dwi)}
    known = [study.id for study in site.studies if {study.t2.sha256, study.dwi.sha256} & seen]
    if known:
        raise SiteError(
            f"test studies of a site must not be training studies of the model, got {len(known)} of "
            f"{len(site.studies)} with the same volumes in {site.path}, the first is {known[0]}. Make them training "
            "studies by the column `split` of the labels, and build the manifest again."
        )


def _require_unchanged_files(site: Site) -> None:
    faults = check_files(site.manifest.model_copy(update={"studies": site.studies}), site.path)
    if faults:
        more = f" ({len(faults) - 1} more volumes)" if len(faults) > 1 else ""
        raise SiteError(f"{faults[0]}{more}")


def _scores_of(site: Site, model: PackedModel, progress: Progress) -> SiteScores:
    """Return what the model says of a site, without the studies that it refuses because of their gland."""
    answered: list[tuple[str, int, _Said]] = []
    for done, study in enumerate(site.studies, start=1):
        try:
            answered.append((study.id, study.label, _said_of(study, site, model)))
        except StudyRefused:
            continue
        finally:
            progress(done, len(site.studies))
    labels = [label for _, label, _ in answered]
    _require_both_classes(labels, site)
    return SiteScores(
        labels=np.array(labels, dtype=np.float64),
        logits=np.array([said.logit for _, _, said in answered]),
        ids=tuple(name for name, _, _ in answered),
        deviations=tuple(said.deviation for _, _, said in answered),
        detections=tuple(said.detections for _, _, said in answered if said.detections is not None),
    )


@dataclass(frozen=True, eq=False)
class _Said:
    """What a model says of one study; see `SiteScores`."""

    logit: float
    deviation: float
    detections: Detections | None


def _said_of(study: StudyRecord, site: Site, model: PackedModel) -> _Said:
    """Return what `predict_folder` would say of the study, from the volumes of its manifest."""
    card, folder = model.card, site.path.parent
    volumes = read_volumes(study, folder, site.manifest.b_values_s_per_mm2)
    grid = crop_grid(card.grid, volumes.t2, spec=card.gland, localiser=model.localiser).grid
    image = normalised_image(cropped_channels(volumes, grid), grid)
    outputs = member_logits(model.network, image[None])[0]
    logit, of_members = critical_logits(study_logits(outputs, card.network), card.classes)
    deviation = statistics.stdev(of_members) if len(of_members) > 1 else 0.0
    if card.lesions is None:
        return _Said(logit, deviation, None)
    return _Said(logit, deviation, detections_in(outputs, volumes.t2, study, folder=folder, grid=grid))


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    """Return a progress of one site that counts the studies of all."""
    return lambda done, _: progress(before + done, total)


def _about(site: Site, scores: SiteScores) -> dict[str, Any]:
    return {
        "manifest_sha256": sha256_of_file(site.path),
        "is_own": site.is_own,
        "studies": len(scores.ids),
        "studies_refused": len(site.studies) - len(scores.ids),
        "training_studies_left_out": len(site.manifest.studies) - len(site.studies),
        "studies_with_computed_b_values": sum(any(study.b_values_computed) for study in site.studies),
    }


def figures_of(card: ModelCard, scores: SiteScores) -> dict[str, Any]:
    """Return ranking, rates at the thresholds of a card and its calibration, each with its 95 % interval.

    Args:
        card: of the model.
        scores: of studies of both classes.

    Returns:
        `positives`, `negatives`, `auc` (bootstrap over the studies), `operating_points` (exact intervals of Clopper and
        Pearson), `calibration` (its `slope` None where the classes are separated), and, of a model of lesions,
        `lesion_points`.
    """
    labels, logits = scores.labels, scores.logits
    positive, negative = logits[labels == 1], logits[labels == 0]
    points = [
        {
            "target_tpr": point.target_tpr,
            "threshold": point.threshold,
            "tpr": asdict(binomial_interval(int((positive >= point.threshold).sum()), len(positive))),
            "fpr": asdict(binomial_interval(int((negative >= point.threshold).sum()), len(negative))),
        }
        for point in card.operating_points
    ]
    stated = PlattScaling(**card.calibration.model_dump()).probability(logits)
    return {
        "positives": len(positive),
        "negatives": len(negative),
        "auc": asdict(bootstrap_interval(labels, logits, metric=auc)),
        "operating_points": points,
        "calibration": asdict(calibration_quality(labels, stated)),
        **({"lesion_points": _lesion_points(card.lesions, scores.detections)} if card.lesions and scores.ids else {}),
    }


def _lesion_points(lesions: LesionsSpec, cases: Sequence[Detections]) -> list[dict[str, Any]]:
    """Return what the candidates at each threshold of a card find of the lesions, and what they tell besides."""
    found = np.concatenate([case.found for case in cases])
    others = np.concatenate([case.false_positives for case in cases])
    return [
        {
            "target_sensitivity": point.target_sensitivity,
            "threshold": point.threshold,
            "lesions": len(found),
            "sensitivity": asdict(binomial_interval(int((found >= point.threshold).sum()), len(found))),
            "false_positives_per_case": float((others >= point.threshold).sum() / len(cases)),
        }
        for point in lesions.points
    ]


def _pooled(card: ModelCard, scores: Sequence[SiteScores]) -> dict[str, Any]:
    """Return the figures of the studies of all sites in one list: a shift between sites counts as wrong ranking."""
    together = SiteScores(
        labels=np.concatenate([one.labels for one in scores]),
        logits=np.concatenate([one.logits for one in scores]),
        ids=tuple(name for one in scores for name in one.ids),
        detections=tuple(case for one in scores for case in one.detections),
    )
    return figures_of(card, together)


def write_predictions(scores: Mapping[str, SiteScores], card: ModelCard, path: Path) -> None:
    """Write a table of all studies: site, id, label, logit, its deviation over the members, probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for site, one in scores.items():
        for name, label, logit, deviation in zip(one.ids, one.labels, one.logits, one.deviations, strict=True):
            writer.writerow((site, name, int(label), logit, deviation, calibrated(logit, card.calibration)))
    write_text_atomically(path, text.getvalue())


def to_text(report: SitesReport, card: ModelCard) -> str:
    """Return the figures as a table for a terminal, rates in percent at the threshold that is the model's default."""
    target = card.operating_point().target_tpr
    named = [("validation", report.validation)]
    named += [(f"{name} (own)" if one["is_own"] else name, one) for name, one in report.sites.items()]
    named += [("pooled", report.pooled)] if report.pooled else []
    rates = (f"TPR at {100 * target:g} %", f"FPR at {100 * target:g} %")
    rows: list[tuple[str, ...]] = [("", "pos", "neg", "AUC", *rates, "ECE", "slope", "intercept", "Brier")]
    rows += [(name, *_cells(one, target)) for name, one in named]
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], widths, strict=True))])
        for row in rows
    ]
    return "\n".join(lines + [_of_lesions(name, one, target) for name, one in named if "lesion_points" in one])


def _cells(figures: Mapping[str, Any], target: float) -> tuple[str, ...]:
    point = next(one for one in figures["operating_points"] if one["target_tpr"] == target)
    found = figures["calibration"]
    return (
        str(figures["positives"]),
        str(figures["negatives"]),
        *(_percent(Interval(**value)) for value in (figures["auc"], point["tpr"], point["fpr"])),
        f"{found['expected_calibration_error']:.3f}",
        "-" if found["slope"] is None else "{estimate:.2f} [{low:.2f}, {high:.2f}]".format(**found["slope"]),
        "{estimate:+.2f} [{low:+.2f}, {high:+.2f}]".format(**found["intercept"]),
        f"{found['brier']:.3f}",
    )


def _of_lesions(name: str, figures: Mapping[str, Any], target: float) -> str:
    point = next(one for one in figures["lesion_points"] if one["target_sensitivity"] == target)
    return (
        f"{name}: candidates find {_percent(Interval(**point['sensitivity']))} % of {point['lesions']} lesions, with "
        f"{point['false_positives_per_case']:.2f} false positives a case"
    )


def _percent(value: Interval) -> str:
    return f"{100 * value.estimate:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
