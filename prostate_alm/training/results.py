"""What a trained member leaves behind: figures, predictions, a ROC curve and the weights."""

import csv
import itertools
import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ignite.engine import Engine, Events
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prostate_alm.method.metrics import TooFewPositivesWarning, auc, fpr_at_false_negatives, roc_points
from prostate_alm.results.predictions import CLASS, LOGIT
from prostate_alm.training.scores import ClassScores, RankingMetrics, fpr_at_high_tpr

logger = logging.getLogger(__name__)

matplotlib.rcParams["svg.hashsalt"] = "prostate-alm"

CONFUSION_TPR_PERCENT = 95
FALSE_NEGATIVES = (0, 1)
TEST_DRAWS = 100


def summarise(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Return the paper's figures: AUC, FPR at 100, 95 and 90 % TPR, FPR at 0 and 1 false negatives, and the counts.

    `fpr_at_fn1` is absent when there is one positive only.

    Args:
        labels: (N,), 0 or 1.
        logits: (N,), larger for positives.
    """
    positives = int(labels.sum())
    return {
        "auc": auc(labels, logits),
        **fpr_at_high_tpr(labels, logits),
        **{
            f"fpr_at_fn{count}": fpr_at_false_negatives(labels, logits, count)
            for count in FALSE_NEGATIVES
            if count < positives
        },
        "positives": positives,
        "negatives": len(labels) - positives,
    }


def summarise_splits(splits: Mapping[str, RankingMetrics]) -> dict[str, dict[str, float]]:
    """Return the figures of each evaluation of a member: what goes into `metrics.json`.

    `validation` and `test` are splits. Where the test set keeps a class ratio and so leaves out positives
    (`test_extra`), there are also `test_all_positives`, and `test_draws`: the mean over 100 test sets with as many
    positives as `test`, each drawn at random.

    Args:
        splits: scores by name of the split.
    """
    figures = {name: _figures(splits[name]) for name in ("validation", "test")}
    if "test_extra" in splits:
        test, extra = splits["test"], splits["test_extra"]
        figures |= summarise_extra(test.labels, test.logits, extra_logits=extra.logits)
    return figures


def _figures(scores: RankingMetrics) -> dict[str, float]:
    return summarise(scores.labels, scores.logits) | class_figures(scores.class_scores) | scores.lesion_figures()


def class_figures(scores: ClassScores | None) -> dict[str, float]:
    """Return the figures that several classes have besides those of two; none of two."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TooFewPositivesWarning)  # results state the number of positives
        return {} if scores is None else scores.figures()


def summarise_extra(labels: np.ndarray, logits: np.ndarray, *, extra_logits: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the figures with all positives, and the mean figures over draws with as many positives as the test set.

    Args:
        labels: (N,), 0 or 1, of the test set.
        logits: (N,) of the test set.
        extra_logits: (E,) of the positives that the test set leaves out.
    """
    negative, positive = logits[labels == 0], np.concatenate([logits[labels == 1], extra_logits])
    positives = int(labels.sum())

    def figures(chosen: np.ndarray) -> dict[str, float]:
        truth = np.concatenate([np.zeros(len(negative)), np.ones(len(chosen))])
        return summarise(truth, np.concatenate([negative, chosen]))

    random = np.random.default_rng(0)
    draws = [figures(random.choice(positive, positives, replace=False)) for _ in range(TEST_DRAWS)]
    mean = {key: float(np.mean([draw[key] for draw in draws])) for key in draws[0]}
    return {"test_all_positives": figures(positive), "test_draws": mean}


def log_figures(split: str, figures: Mapping[str, float]) -> None:
    """Log the figures of a split in one line.

    Args:
        split: its name.
        figures: what `summarise` returned.
    """
    logger.info(
        "%s AUC %.3f, FPR %.1f %% at 95 %% TPR, %.1f %% at 100 %% TPR (%d positives, %d negatives)",
        split,
        figures["auc"],
        100 * figures["fpr_at_tpr95"],
        100 * figures["fpr_at_tpr100"],
        figures["positives"],
        figures["negatives"],
    )


class LogFigures:
    """Log the figures of an evaluation when it is over.

    Args:
        metrics: of the evaluator.
        split: name of what is evaluated.
    """

    def __init__(self, metrics: RankingMetrics, split: str) -> None:
        self._metrics, self._split = metrics, split

    def attach(self, evaluator: Engine) -> None:
        """Act at the end of `evaluator`."""
        evaluator.add_event_handler(Events.COMPLETED, self)

    def __call__(self, evaluator: Engine) -> None:
        """Act at the event."""
        log_figures(self._split, summarise(self._metrics.labels, self._metrics.logits))


def write_predictions(path: Path, splits: Mapping[str, RankingMetrics]) -> None:
    """Write one row per sample: `sample_id`, `split`, `label` and `logit` with all its digits.

    Of several classes these are whether it is of the first critical one, and its log-odds; `class` and the logits of
    all classes follow, `logit_0` and so on.
    """
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sample_id", "split", "label", "logit", *class_columns(splits["test"].class_scores)))
        for split, scores in splits.items():
            rows = zip(scores.sample_ids, scores.labels, scores.logits, class_cells(scores.class_scores), strict=False)
            for key, label, logit, cells in rows:
                writer.writerow((key, split, int(label), repr(float(logit)), *cells))


def class_columns(scores: ClassScores | None) -> list[str]:
    """Return the names of the columns that several classes have in a table of predictions; none of two."""
    return [] if scores is None else [CLASS, *(f"{LOGIT}{k}" for k in range(scores.logits.shape[1]))]


def class_cells(scores: ClassScores | None) -> Iterable[list[str]]:
    """Return what stands in those columns for each sample."""
    if scores is None:
        return itertools.repeat([])
    pairs = zip(scores.classes, scores.logits, strict=True)
    return ([str(int(one)), *(repr(float(logit)) for logit in logits)] for one, logits in pairs)


def write_confusion(path: Path, scores: ClassScores | None) -> None:
    """Write who is called what where each critical class is found at CONFUSION_TPR_PERCENT; nothing of two classes."""
    if scores is None:
        return
    table = scores.confusion(tpr_percent=CONFUSION_TPR_PERCENT)
    rows = [{CLASS: k} | {f"called_{j}": int(count) for j, count in enumerate(row)} for k, row in enumerate(table)]
    write_history(path, rows)


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write the per-epoch figures; a column is empty where a stage does not have it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def draw_roc(path: Path, labels: np.ndarray, logits: np.ndarray) -> None:
    """Draw the ROC curve with the region of high TPR, where this project operates, shaded."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    _prepare_roc_axes(axes, labels)
    axes.plot(*roc_points(labels, logits), color="tab:blue", label=f"test, AUC {auc(labels, logits):.3f}")
    axes.set_aspect("equal")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def draw_ensemble_roc(
    path: Path, labels: np.ndarray, curves: Mapping[str, np.ndarray], *, members: Sequence[np.ndarray]
) -> None:
    """Draw the ROC curves of an ensemble, of what it is compared with and of its members; beside it, TPR above 85 %.

    Args:
        path: PNG to write.
        labels: (N,), 0 or 1.
        curves: name -> logits (N,); the first is the ensemble.
        members: logits (N,) of each member.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, lowest in zip(figure.subplots(1, 2), (0.0, 0.85), strict=True):
        _prepare_roc_axes(axes, labels)
        for number, member in enumerate(members):
            label = "members" if number == 0 else None
            axes.plot(*roc_points(labels, member), color="tab:blue", alpha=0.25, linewidth=0.8, label=label)
        for (name, logits), style in zip(curves.items(), _CURVES, strict=False):
            axes.plot(*roc_points(labels, logits), label=f"{name}, AUC {100 * auc(labels, logits):.2f} %", **style)
        axes.set_ylim(lowest - 0.01 * (1 - lowest), 1 + 0.01 * (1 - lowest))
    axes.set_title("high true positive rates")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=100)


_CURVES: tuple[dict[str, Any], ...] = (
    {"color": "tab:blue", "linewidth": 2},
    {"color": "black", "linewidth": 1.5, "linestyle": "--"},
)


def _prepare_roc_axes(axes: Axes, labels: np.ndarray) -> None:
    positives = int(labels.sum())
    axes.axhspan(0.9, 1.0, color="tab:orange", alpha=0.15, label="TPR of 90 % and more")
    axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":")
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        title=f"{positives} positives, {len(labels) - positives} negatives",
    )
