"""From the members of an ensemble to its figures: mean of the logits, intervals, comparison with the baseline."""

import csv
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prostate_alm.method.bootstrap import bootstrap_interval
from prostate_alm.method.class_metrics import critical_scores
from prostate_alm.method.metrics import (
    Floats,
    Interval,
    TooFewPositivesWarning,
    auc,
    delong_test,
    fpr_at_false_negatives,
    fpr_at_tpr,
)
from prostate_alm.results.folders import MemberFolder, finished_members
from prostate_alm.results.predictions import CLASS, TEST, PredictionRow, class_logits, read_rows
from prostate_alm.results.run_folder import (
    CONFIG,
    CONFUSION,
    ENSEMBLE,
    MEMBERS_TABLE,
    METRICS,
    PREDICTIONS,
    ROC_FIGURE,
    EnsembleError,
    RunFolder,
    changed_keys,
)
from prostate_alm.training import results
from prostate_alm.training.scores import TPR_LEVELS_PERCENT, ClassScores, Figure

MEMBERS_MIN = 2
RESAMPLES = 1000
METRICS_OF_TWO: dict[str, Callable[[Any, Any], float]] = {
    "auc": auc,
    **{f"fpr_at_tpr{level}": partial(fpr_at_tpr, tpr=level / 100) for level in TPR_LEVELS_PERCENT},
}


def _metrics_of(labels: "Floats") -> dict[str, Callable[[Any, Any], float]]:
    """Return what is measured on a test set: FPR at false negatives only where more positives are left."""
    at_false_negatives = {
        f"fpr_at_fn{count}": partial(fpr_at_false_negatives, false_negatives=count)
        for count in results.FALSE_NEGATIVES
        if count < labels.sum()
    }
    return METRICS_OF_TWO | at_false_negatives


@dataclass(frozen=True)
class Scores:
    """Test scores: ids, split (`test` or `test_extra`) and label of N samples, the logits of M members.

    Of several classes `labels` and `logits` are those of the first critical one, and `of_members` has all.
    """

    sample_ids: list[str]
    splits: list[str]
    labels: Floats  # (N,)
    logits: Floats  # (M, N)
    of_members: tuple[ClassScores, ...] = ()

    @property
    def class_scores(self) -> ClassScores | None:
        """The mean of the members' logits of several classes; None of two."""
        if not self.of_members:
            return None
        return replace(self.of_members[0], logits=np.mean([member.logits for member in self.of_members], axis=0))

    @property
    def mean(self) -> Floats:
        """Mean over the members, (N,), of several classes the log-odds of the mean: the logits of section 5.2."""
        classes = self.class_scores
        if classes is not None:
            return critical_scores(classes.logits, classes.critical[0])
        mean: Floats = self.logits.mean(axis=0)
        return mean

    def of(self, name: str, logits: Floats) -> tuple[Floats, Floats]:
        """Return labels and logits of the test set (`test`), or of all test samples (`test_all_positives`)."""
        chosen = np.array([name != "test" or split == "test" for split in self.splits])
        return self.labels[chosen], logits[chosen]

    @property
    def test_sets(self) -> list[str]:
        """Names of the test sets that `of` knows."""
        return ["test", "test_all_positives"] if "test_extra" in self.splits else ["test"]


def evaluate_ensemble(folder: Path, *, baseline: Path | None = None) -> dict[str, Any]:
    """Combine the finished members of an ensemble and write its results beside them.

    Writes `ensemble.json` (unless training did), `predictions.csv`, `members.csv`, `roc.png` and, last, `metrics.json`:
    the ensemble's figures with 95 % bootstrap intervals over the test samples, mean and standard deviation over the
    members, and the difference to the baseline with DeLong's test.

    Args:
        folder: holds `member-00`, `member-01`, ...
        baseline: folder of the evaluated ensemble to compare with; None for none.

    Returns:
        The content of `metrics.json`.

    Raises:
        EnsembleError: fewer than two finished members, members of different settings or test samples, or a baseline
            that was evaluated on other samples.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewPositivesWarning)  # the results state the number of positives
        return _evaluate(folder, baseline=baseline)


def _evaluate(folder: Path, *, baseline: Path | None) -> dict[str, Any]:
    members = _require_members(folder)
    about = _describe(folder, members)
    scores = _read_scores(list(members.values()), about["settings"])
    reference = (baseline.name, _read_baseline(scores, baseline, about["settings"])) if baseline else None
    expected = about.get("members", len(members))
    content: dict[str, Any] = {
        "members": list(members),
        "failed": sorted(set(range(expected)) - set(members)),
        "ensemble": _figures(scores),
        "intervals": {
            name: _intervals(*scores.of(name, scores.mean)) | _class_intervals(scores.class_scores)
            for name in scores.test_sets
        },
        **_member_statistics([member.read_json(METRICS) for member in members.values()]),
        "against_baseline": reference and {"baseline": reference[0], **compare_scores(scores, reference[1])},
    }
    write_predictions(folder / PREDICTIONS, scores)
    results.write_confusion(folder / CONFUSION, scores.class_scores)
    _write_members(folder / MEMBERS_TABLE, members)
    _draw(folder / ROC_FIGURE, scores, reference=reference)
    RunFolder(folder).write_json(METRICS, content)  # last: it says that the ensemble is evaluated
    return content


def _require_members(folder: Path) -> dict[int, MemberFolder]:
    members = finished_members(folder) if folder.is_dir() else {}
    if len(members) < MEMBERS_MIN:
        raise EnsembleError(
            f"an ensemble must have at least {MEMBERS_MIN} finished members, got {len(members)} in {folder}. "
            "Train more with: prostate-alm ensemble train"
        )
    return members


def _describe(folder: Path, members: Mapping[int, MemberFolder]) -> dict[str, Any]:
    """Return what the members have in common; write it where the training of the ensemble did not."""
    configs = {number: member.read_json(CONFIG) for number, member in members.items()}
    settings = [{k: v for k, v in config["settings"].items() if k != "member"} for config in configs.values()]
    common = settings[0]
    for number, other in zip(configs, settings, strict=True):
        changed = changed_keys(other, common)
        if changed:
            key = changed[0]
            raise EnsembleError(
                f"members of an ensemble must have the same settings, got {key} = {other.get(key)!r} in "
                f"{members[number].path} and {common.get(key)!r} in {next(iter(members.values())).path}. "
                "Train the member again with --overwrite true, or move it away."
            )
    about = RunFolder(folder).read_json(ENSEMBLE)
    if not about:
        first = next(iter(configs.values()))
        kept = {key: first[key] for key in ("bundle", "experiment", "overrides", "versions") if key in first}
        about = kept | {"data": folder.parent.name, "name": folder.name, "settings": common}
        RunFolder(folder).write_json(ENSEMBLE, about)
    return about


def _read_scores(members: Sequence[MemberFolder], settings: Mapping[str, Any]) -> Scores:
    tables = [read_rows(member.file(PREDICTIONS), splits=TEST) for member in members]
    keys = [[(row["sample_id"], row["split"], row["label"]) for row in table] for table in tables]
    for member, own in zip(members, keys, strict=True):
        if own != keys[0]:
            raise EnsembleError(
                f"members of an ensemble must have the same test samples, got others in {member.path} than in "
                f"{members[0].path}. Were they trained on different data? Train them again."
            )
    logits = np.array([[float(row["logit"]) for row in table] for table in tables])
    ids, splits, labels = zip(*keys[0], strict=True)
    classes = tuple(of_classes for table in tables if (of_classes := _class_scores(table, settings)))
    return Scores(list(ids), list(splits), np.array(labels, dtype=float), logits, classes)


def _class_scores(rows: Sequence[PredictionRow], settings: Mapping[str, Any]) -> ClassScores | None:
    """Return the logits of several classes in a table of predictions; None where it has those of two."""
    if CLASS not in rows[0]:
        return None
    logits = np.array([class_logits(row) for row in rows])
    classes = np.array([int(row[CLASS]) for row in rows])
    return ClassScores(classes, logits, tuple(settings["critical"]), bool(settings["ordered"]))


def read_predictions(path: Path, settings: Mapping[str, Any]) -> Scores:
    """Return the test scores that an ensemble wrote, its mean logits as the only row (1, N); `test_extra` left out.

    Args:
        path: `predictions.csv` of an evaluated ensemble.
        settings: its members' settings.
    """
    rows = read_rows(path, splits=("test",))
    labels = np.array([float(row["label"]) for row in rows])
    logits = np.array([[float(row["logit"]) for row in rows]])
    of_classes = _class_scores(rows, settings)
    own = () if of_classes is None else (of_classes,)
    return Scores([row["sample_id"] for row in rows], ["test"] * len(rows), labels, logits, own)


def _figures(scores: Scores) -> dict[str, dict[str, float]]:
    labels, logits = scores.of("test", scores.mean)
    figures = {"test": results.summarise(labels, logits) | results.class_figures(scores.class_scores)}
    if "test_extra" in scores.splits:
        extra = scores.mean[np.array(scores.splits) == "test_extra"]
        figures |= results.summarise_extra(labels, logits, extra_logits=extra)
    return figures


def _intervals(labels: Floats, logits: Floats) -> dict[str, list[float]]:
    found = {
        name: bootstrap_interval(labels, logits, metric=metric, resamples=RESAMPLES)
        for name, metric in _metrics_of(labels).items()
    }
    return {name: [interval.low, interval.high] for name, interval in found.items()}


def _class_intervals(scores: ClassScores | None) -> dict[str, list[float]]:
    found = {} if scores is None else _class_bootstrap(scores, [scores], lambda metric: metric)
    return {name: [interval.low, interval.high] for name, interval in found.items()}


def _class_bootstrap(
    first: ClassScores, scores: Sequence[ClassScores], of_columns: Callable[[Figure], Figure]
) -> dict[str, Interval]:
    """Return the intervals of the figures of each critical class; the columns of all `scores` side by side."""
    found = {}
    for critical in first.critical:
        reduced = [one.of(critical) for one in scores]
        columns = np.hstack([own for _, own in reduced])
        for name, metric in first.metrics_of(critical).items():
            found[name] = bootstrap_interval(reduced[0][0], columns, metric=of_columns(metric), resamples=RESAMPLES)
    return found


def _member_statistics(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over the members of each figure that all have, by split."""
    mean: dict[str, Any] = {}
    deviation: dict[str, Any] = {}
    for split, figures in metrics[0].items():
        common = [key for key in figures if all(key in member.get(split, {}) for member in metrics)]
        values = {key: np.array([member[split][key] for member in metrics]) for key in common}
        mean[split] = {key: float(value.mean()) for key, value in values.items()}
        deviation[split] = {key: float(value.std(ddof=1)) for key, value in values.items()}
    return {"member_mean": mean, "member_std": deviation}


def compare_scores(scores: Scores, other: Scores) -> dict[str, Any]:
    """Return the differences to a baseline: DeLong's test, paired bootstrap intervals.

    A test set with a single sample of a class is left out: it has no variance, and nothing can be compared.
    """
    comparison: dict[str, Any] = {}
    for name in scores.test_sets:
        labels, ours = scores.of(name, scores.mean)
        if min(labels.sum(), len(labels) - labels.sum()) < 2:
            continue
        theirs = other.of(name, other.mean)[1]
        test = delong_test(labels, ours, theirs)
        both = np.stack([ours, theirs], axis=1)
        comparison[name] = {"auc_difference": test.auc_a - test.auc_b, "z": test.z, "p_value": test.p_value}
        found = {
            key: bootstrap_interval(labels, both, metric=partial(_difference, metric), resamples=RESAMPLES)
            for key, metric in _metrics_of(labels).items()
        }
        ours_of_classes, theirs_of_classes = scores.class_scores, other.class_scores
        if ours_of_classes is not None and theirs_of_classes is not None:
            pair = [ours_of_classes, theirs_of_classes]
            found |= _class_bootstrap(ours_of_classes, pair, lambda metric: partial(_class_difference, metric))
        for key, interval in found.items():
            comparison[name] |= {f"{key}_difference": interval.estimate, f"{key}_difference_low": interval.low}
            comparison[name] |= {f"{key}_difference_high": interval.high}
    return comparison


def _class_difference(metric: Figure, labels: Floats, columns: Floats) -> float:
    ours, theirs = np.hsplit(columns, 2)
    return metric(labels, ours) - metric(labels, theirs)


def _difference(metric: Callable[[Any, Any], float], labels: Floats, pair: Floats) -> float:
    return float(metric(labels, pair[:, 0]) - metric(labels, pair[:, 1]))


def _read_baseline(scores: Scores, baseline: Path, settings: Mapping[str, Any]) -> Scores:
    path = baseline / PREDICTIONS
    if not path.is_file():
        raise EnsembleError(
            f"baseline must be an evaluated ensemble, got {baseline} without {PREDICTIONS}. "
            f"Evaluate it first: prostate-alm ensemble evaluate {baseline}"
        )
    by_id = {row["sample_id"]: row for row in read_rows(path, splits=TEST)}
    if set(by_id) != set(scores.sample_ids):
        raise EnsembleError(
            f"baseline must be evaluated on the same {len(scores.sample_ids)} test samples, got {len(by_id)} in "
            f"{path}, not the same ones. Compare ensembles of the same data."
        )
    rows = [by_id[key] for key in scores.sample_ids]
    of_classes = _class_scores(rows, settings)
    logits = np.array([[float(row["logit"]) for row in rows]])
    return replace(scores, logits=logits, of_members=() if of_classes is None else (of_classes,))


def write_predictions(path: Path, scores: Scores) -> None:
    """Write one row per sample: mean and standard deviation of the members' logits with all their digits.

    Of several classes the class and the mean logits of all follow, as in the members' tables.
    """
    spread = scores.logits.std(axis=0, ddof=1)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        classes = scores.class_scores
        writer.writerow(("sample_id", "split", "label", "logit", "logit_std", *results.class_columns(classes)))
        columns = (scores.sample_ids, scores.splits, scores.labels, scores.mean, spread, results.class_cells(classes))
        for key, split, label, logit, deviation, cells in zip(*columns, strict=False):
            writer.writerow((key, split, int(label), repr(float(logit)), repr(float(deviation)), *cells))


def _write_members(path: Path, members: Mapping[int, MemberFolder]) -> None:
    rows = []
    for number, member in members.items():
        figures = member.read_json(METRICS)
        rows.append(
            {"member": number} | {f"{split}_{key}": v for split, own in figures.items() for key, v in own.items()}
        )
    results.write_history(path, rows)


def _draw(path: Path, scores: Scores, *, reference: tuple[str, Scores] | None) -> None:
    name = scores.test_sets[-1]  # all positives where there are more than in the test set: a smoother curve
    labels, mean = scores.of(name, scores.mean)
    curves = {"ensemble": mean}
    if reference is not None:
        curves[reference[0]] = scores.of(name, reference[1].mean)[1]
    results.draw_ensemble_roc(path, labels, curves, members=[scores.of(name, row)[1] for row in scores.logits])
