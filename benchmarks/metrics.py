"""Speed of AUC, FPR at TPR and DeLong's test on 10^6 scores: python benchmarks/metrics.py."""

import argparse
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from prostate_alm.method.metrics import auc, delong_test, fpr_at_tpr, partial_auc_above_tpr

SIZE = 1_000_000


def seconds(calls: list[Callable[[], object]], *, rounds: int = 5) -> list[float]:
    """Return the seconds of the quickest round of each call; the calls take turns."""
    times = np.empty((rounds, len(calls)))
    for row in times:
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            row[index] = time.perf_counter() - start
    return list(times.min(axis=0))


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    random = np.random.default_rng(0)
    print(f"{'positives':<10} {'call':<34} {'ms':>8} {'/ roc_curve':>12}   bar")
    for share in (0.5, 0.05):
        labels = (random.random(SIZE) < share).astype(int)
        scores = random.normal(size=SIZE) + labels
        other = scores + random.normal(size=SIZE)
        calls: dict[str, Callable[[], object]] = {
            "sklearn roc_curve": lambda y=labels, s=scores: roc_curve(y, s),
            "sklearn roc_auc_score": lambda y=labels, s=scores: roc_auc_score(y, s),
            "auc": lambda y=labels, s=scores: auc(y, s),
            "fpr_at_tpr": lambda y=labels, s=scores: fpr_at_tpr(y, s, 0.98),
            "partial_auc_above_tpr": lambda y=labels, s=scores: partial_auc_above_tpr(y, s, 0.9),
            "delong_test": lambda y=labels, a=scores, b=other: delong_test(y, a, b),
        }
        bars = {"auc": "<= 1 x", "fpr_at_tpr": "<= 1 x", "delong_test": "< 2000 ms"}
        taken = dict(zip(calls, seconds(list(calls.values())), strict=True))
        for name, value in taken.items():
            ratio = value / taken["sklearn roc_curve"]
            print(f"{share:<10.0%} {name:<34} {value * 1e3:8.0f} {ratio:12.2f}   {bars.get(name, '')}")


if __name__ == "__main__":
    main()
