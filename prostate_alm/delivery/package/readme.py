"""The model card in words: what a packed model was made from, what it can do, and what it cannot."""

from collections.abc import Iterable
from typing import Any

from prostate_alm.delivery.card import LesionNetworkSpec, ModelCard, StoredOperatingPoint
from prostate_alm.delivery.package.trained import TrainedEnsemble, rates_on_test
from prostate_alm.delivery.prediction import NOTICE
from prostate_alm.method.operating_point import binomial_interval, positives_for_guarantee
from prostate_alm.results.metric_names import METRIC_NAMES


def model_card_text(ensemble: TrainedEnsemble, card: ModelCard) -> str:
    """Return the model card as Markdown: `docs/README.md` of a pack."""
    parts = (
        f"# {card.name} {card.version}\n\n**{NOTICE}**",
        _what(ensemble, card),
        _data(ensemble, card),
        _test_figures(ensemble.metrics),
        _operating_points(ensemble, card),
        *_candidates(card),
        _limits(ensemble, card),
        _use(card),
    )
    return "\n\n".join(parts) + "\n"


def _what(ensemble: TrainedEnsemble, card: ModelCard) -> str:
    settings = ensemble.about.get("settings", {})
    trained = "under the augmented-Lagrangian constraint" if settings.get("alm", True) else "without the constraint"
    return (
        f"{card.members} networks with two paths, T2 and diffusion at b = "
        f"{_listed(f'{b:g}' for b in card.grid.b_values_s_per_mm2)} s/mm², trained {trained} with the loss "
        f"`{settings.get('loss', 'unknown')}`, each on another part of the cohort. {_logit(card)} "
        f"Volumes are resampled to {_by(card.grid.spacing_mm)} mm and cropped to "
        f"{_by(card.grid.image_size)} voxels around the {'centre' if card.gland is None else 'gland'}."
    )


def _logit(card: ModelCard) -> str:
    """Return what the model's logit is."""
    if isinstance(card.network, LesionNetworkSpec):
        return (
            "They are encoder-decoders with a logit for each voxel. A member's logit of a study is the soft maximum of "
            f"its map (T = {card.network.temperature:g}), the model's the mean of theirs."
        )
    if card.classes is None:
        return "The model's logit is the mean of theirs."
    names, critical = card.classes.names, card.classes.names[card.classes.critical]
    return (
        f"They tell {_listed(names)} apart, with a logit each; {critical} must not be missed. The model's logit is "
        f"the log-odds of {critical} against the others, of the mean of their logits. A study below the threshold is "
        "called the most probable of the others."
    )


def _data(ensemble: TrainedEnsemble, card: ModelCard) -> str:
    studies = ensemble.manifest.studies
    counts = {
        split: (sum(s.label for s in studies if s.split == split), sum(s.split == split for s in studies))
        for split in ("train", "test")
    }
    provenance = ensemble.manifest.provenance
    positive = card.label_definition if card.lesions else provenance.label_definition
    kind = "**The data are synthetic: the figures below say nothing about patients.**" if card.data_is_synthetic else ""
    lines = [
        "## Data",
        kind,
        "| | |\n|---|---|",
        f"| cohort | {card.data} |",
        f"| source | {provenance.source or 'not said'} |",
        f"| label 1 means | {positive or 'not said'} |",
        f"| licence of the data | {provenance.licence or 'not said'} |",
        *(f"| {split} | {total} studies, {positives} positive |" for split, (positives, total) in counts.items()),
    ]
    table = "\n".join(lines[2:])
    return "\n\n".join(part for part in (lines[0], kind, table) if part)


def _test_figures(metrics: dict[str, Any]) -> str:
    figures, intervals = metrics["ensemble"]["test"], metrics.get("intervals", {}).get("test", {})
    rates = ("fpr_at_tpr100", "fpr_at_tpr95", "fpr_at_tpr90", "rest_error_at_tpr95", "rest_error_at_tpr90")
    names = {key: METRIC_NAMES[key].words for key in ("auc", *rates)}
    names["balanced_accuracy"] = "balanced accuracy of the most probable class"
    rows = [
        f"| {name} | {100 * figures[key]:.1f} % | {_interval(intervals.get(key))} |"
        for key, name in names.items()
        if key in figures
    ]
    head = (
        f"## On the test studies\n\n{figures['positives']} positives, {figures['negatives']} negatives; "
        "intervals are 95 % bootstrap intervals over the studies.\n"
    )
    return "\n".join((head, "| | | interval |\n|---|---|---|", *rows))


def _operating_points(ensemble: TrainedEnsemble, card: ModelCard) -> str:
    first = card.operating_points[0]
    rows = [_point_row(ensemble, card, point) for point in card.operating_points]
    folds = ensemble.out_of_fold.folds
    return "\n".join(
        (
            "## Operating points",
            "",
            f"A logit at or above the threshold is positive. Thresholds were chosen on {first.positives} positive and "
            f"{first.negatives} negative training studies by the logits of members that had them for validation "
            f"(the mean over {folds.min()} to {folds.max()} members, {folds.mean():.1f} in the mean; each study counts "
            "once), never on test studies. Intervals are exact at 95 %.",
            "",
            "| target TPR | threshold [interval] | guaranteed | TPR there | FPR there | TPR, test | FPR, test |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            "The TPR there reaches its target because the threshold was chosen for it. *Guaranteed* is the greatest "
            "threshold whose TPR is at least the target with 95 % confidence, – where that would need more positives"
            f"{_needed_positives(card)}. An interval is open (…) on the side that the positives cannot bound.",
        )
    )


def _point_row(ensemble: TrainedEnsemble, card: ModelCard, point: StoredOperatingPoint) -> str:
    found, positives, called, negatives = rates_on_test(ensemble, point.threshold)
    default = " (default)" if point.target_tpr == card.default_target_tpr else ""
    guaranteed = "–" if point.threshold_guaranteed is None else f"{point.threshold_guaranteed:.3f}"
    cells = (
        f"{100 * point.target_tpr:g} %{default}",
        f"{point.threshold:.3f} [{_bound(point.threshold_low)}, {_bound(point.threshold_high)}]",
        guaranteed,
        _rate(point.tpr, point.tpr_low, point.tpr_high),
        _rate(point.fpr, point.fpr_low, point.fpr_high),
        _counted(found, positives),
        _counted(called, negatives),
    )
    return "| " + " | ".join(cells) + " |"


def _candidates(card: ModelCard) -> list[str]:
    """Return the thresholds of candidates and what they found on validation; nothing of a model without lesions."""
    spec = card.lesions
    if spec is None:
        return []
    rows = [
        f"| {100 * point.target_sensitivity:g} % | {point.threshold:.3f} | "
        f"{_rate(point.sensitivity, point.sensitivity_low, point.sensitivity_high)} | "
        f"{point.false_positives_per_case:.2f} |"
        for point in spec.points
    ]
    lines = (
        "## Candidates of lesions",
        "",
        "A candidate is a peak of the mean map; those whose logit is at or above the threshold are told. Thresholds "
        f"rest on {spec.lesions} lesions in {spec.cases} training studies, by the maps of members that had these for "
        f"validation: each is the highest that still finds its share of them. {spec.missed} lesions were found by no "
        "candidate. Intervals are exact at 95 %, over lesions.",
        "",
        "| target | threshold | lesions found there | false positives a study |",
        "|---|---|---|---|",
        *rows,
    )
    return ["\n".join(lines)]


def _needed_positives(card: ModelCard) -> str:
    needed = [(point.target_tpr, positives_for_guarantee(point.target_tpr)) for point in card.operating_points]
    words = [f"{number} for {100 * target:g} %" for target, number in needed if number is not None]
    return f" ({_listed(words)})" if words else ""


def _limits(ensemble: TrainedEnsemble, card: ModelCard) -> str:
    point = card.operating_point()
    reached = round(point.tpr * point.positives)
    lines = [
        f"- {reached} of {point.positives} positives lie at or above the default threshold. A new one of the same "
        f"population does with a chance of {100 * reached / (point.positives + 1):.0f} % ({reached} of "
        f"{point.positives + 1}), whatever the target.",
        "- Each member was kept at its best validation epoch, which flatters its validation logits, and those are "
        "spread more than the mean of all members: compare with the TPR and FPR on test studies above.",
        f"- Probabilities hold where {100 * card.calibration.prevalence:.0f} % of the studies are positive, as in "
        "validation.",
        "- A study from another scanner, protocol or population than those of the cohort may be answered wrongly "
        "without a warning.",
        f"- A low probability does not rule out disease, and {_where(card)}.",
    ]
    if not ensemble.studies.recomputed and set(ensemble.dtypes) != {"float32"}:
        lines.append(
            f"- Validation logits are those that training recorded in {_listed(ensemble.dtypes)}; prediction computes "
            "in float32, so that a study at the threshold may fall on the other side of it."
        )
    return "## Limits\n\n" + "\n".join(lines)


def _where(card: ModelCard) -> str:
    if card.lesions is None:
        return "no part of the answer says where a lesion is"
    return "a study without candidates may have a lesion"


def _use(card: ModelCard) -> str:
    return (
        "## Use\n\n"
        f"    prostate-alm predict STUDY --model {card.name}.zip --output answers\n\n"
        "`sha256sum --check SHA256SUMS` in the unpacked folder compares its files with those that were packed."
    )


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f} %"


def _rate(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _counted(count: int, total: int) -> str:
    interval = binomial_interval(count, total)
    return f"{count}/{total} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _bound(value: float | None) -> str:
    return "…" if value is None else f"{value:.3f}"


def _by(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
