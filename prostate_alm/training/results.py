"""What a trained member leaves behind: figures, predictions, a ROC curve and the weights."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from prostate_alm.method.metrics import auc, fpr_at_false_negatives
from prostate_alm.training.scores import RankingMetrics, fpr_at_high_tpr

matplotlib.rcParams["svg.hashsalt"] = "prostate-alm"

FALSE_NEGATIVES = (0, 1)


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


def write_predictions(path: Path, splits: Mapping[str, RankingMetrics]) -> None:
    """Write one row per sample: `sample_id`, `split`, `label` and `logit` with all its digits."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("sample_id", "split", "label", "logit"))
        for split, scores in splits.items():
            for row in zip(scores.sample_ids, scores.labels, scores.logits, strict=True):
                writer.writerow((row[0], split, int(row[1]), repr(float(row[2]))))


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
    fpr, tpr = roc_points(labels, logits)
    axes.axhspan(0.9, 1.0, color="tab:orange", alpha=0.15, label="TPR of 90 % and more")
    axes.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":")
    axes.plot(fpr, tpr, color="tab:blue", label=f"test, AUC {auc(labels, logits):.3f}")
    positives = int(labels.sum())
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        title=f"{positives} positives, {len(labels) - positives} negatives",
    )
    axes.set_aspect("equal")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def roc_points(labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return FPR and TPR at each threshold (score >= threshold), from (0, 0) to (1, 1).

    >>> fpr, tpr = roc_points(np.array([0, 1, 1, 0]), np.array([0.1, 0.8, 0.3, 0.3]))
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    order = np.argsort(-logits, kind="stable")
    ranked, scores = labels[order], logits[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true_positives = np.append(0, np.cumsum(ranked)[last_of_tie])
    false_positives = np.append(0, np.cumsum(1 - ranked)[last_of_tie])
    return false_positives / max(false_positives[-1], 1), true_positives / max(true_positives[-1], 1)
