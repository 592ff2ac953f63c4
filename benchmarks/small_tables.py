"""The constraint on small tables that come with scikit-learn: a network of one hidden layer, five members, many seeds.

    OMP_NUM_THREADS=1 python benchmarks/small_tables.py [--seeds 8] [--first-seed 0] [--losses bce mbauc]

Each seed draws the training rows, at most 270 negatives and as many positives as the ratio says; all other rows are the
test set. Every run takes the same 40 epochs and its last state. Prints, in percent, the mean over seeds of AUC and FPR
without the constraint, and the change with the defaults of `AugmentedLagrangian`, ± two standard errors over the seeds.
"""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, make_classification
from torch import nn

from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.splits import member_seed
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import make_loss
from prostate_alm.method.metrics import auc, fpr_at_tpr

MEMBERS, EPOCHS, NEGATIVES = range(5), 40, 270
TPRS = (0.90, 0.95, 1.0)

Table = tuple[str, NDArray[np.float64], NDArray[np.int64], int]
"""Name, features (n, d), labels (n,), ratio of negatives to positives in training."""


def tables() -> Iterator[Table]:
    features, benign = load_breast_cancer(return_X_y=True)
    yield "malignant of 569, 1:9", features, 1 - benign, 9
    features, digits = load_digits(return_X_y=True)
    yield "eights of 1797 digits, 1:19", features, (digits == 8).astype(int), 19
    features, progress = load_diabetes(return_X_y=True)
    yield "upper quarter of 442 diabetics, 1:9", features, (progress > np.quantile(progress, 0.75)).astype(int), 9
    overlapping = {"n_informative": 5, "n_redundant": 2, "class_sep": 0.7, "flip_y": 0.05, "random_state": 0}
    yield "3000 rows that overlap, 1:9", *make_classification(3000, 20, **overlapping), 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--losses", nargs="+", default=["bce", "mbauc"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'table':36} {'loss':6} {'AUC':>16} {'FPR@90':>16} {'FPR@95':>16} {'FPR@100':>16}")
    for table in tables():
        for loss in options.losses:
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            pairs = [[ensemble(table, loss, seed, constrained=alm) for alm in (False, True)] for seed in seeds]
            without, with_ = np.array(pairs).transpose(1, 0, 2)  # (seeds, figures) each
            change = with_ - without
            error = 2 * change.std(axis=0, ddof=1) / np.sqrt(options.seeds)
            figures = zip(without.mean(axis=0), change.mean(axis=0), error, strict=True)
            cells = [f"{before:5.1f} {moved:+5.1f}±{spread:3.1f}" for before, moved, spread in figures]
            print(f"{table[0]:36} {loss:6} " + " ".join(f"{cell:>16}" for cell in cells), flush=True)


def ensemble(table: Table, loss: str, seed: int, *, constrained: bool) -> list[float]:
    """Return AUC and FPR at 90, 95 and 100 % TPR, in percent, of the mean logits of the members."""
    _, features, labels, ratio = table
    random = np.random.default_rng(seed)
    negatives, positives = (random.permutation(np.flatnonzero(labels == value)) for value in (0, 1))
    count = min(len(negatives) // 2, NEGATIVES)
    rows = np.concatenate([negatives[:count], positives[: max(5, min(round(count / ratio), len(positives) // 2))]])
    test = np.setdiff1d(np.arange(len(labels)), rows)
    mean, deviation = features[rows].mean(axis=0), features[rows].std(axis=0) + 1e-9
    scaled = torch.tensor((features - mean) / deviation, dtype=torch.float32)
    logits = [
        member(scaled, labels, rows, loss, seed=member_seed(seed, number), constrained=constrained)[test]
        for number in MEMBERS
    ]
    scores = np.mean(logits, axis=0)
    rates = [fpr_at_tpr(labels[test], scores, tpr) for tpr in TPRS]
    return [100 * value for value in (auc(labels[test], scores), *rates)]


def member(
    features: torch.Tensor,
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    loss: str,
    *,
    seed: int,
    constrained: bool,
) -> NDArray[np.float32]:
    """Return the logits of all rows of a table after training on some."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(features.shape[1], 32), nn.ReLU(), nn.Linear(32, 1))
    term = AugmentedLagrangian([str(row) for row in rows]) if constrained else None
    objective = ConstrainedLoss(make_loss(loss), term)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=1e-4)
    batches = StratifiedBatchSampler(labels[rows].tolist(), batch_size=64, seed=seed)
    target = torch.from_numpy(labels)
    for epoch in range(EPOCHS):
        batches.set_epoch(epoch)
        for places in batches:
            batch = rows[places]
            optimizer.zero_grad()
            objective(network(features[batch]), target[batch], [str(row) for row in batch]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if term is not None:
                term.update_multipliers()
    with torch.no_grad():
        return network(features).flatten().numpy()


if __name__ == "__main__":
    main()
