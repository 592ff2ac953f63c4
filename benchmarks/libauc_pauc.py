"""Ours against the partial-AUC losses of LibAUC at 10^4 positives and 10^4 negatives, forward and backward.

LibAUC is no dependency. It needs a folder of its own, without its dependencies:

    python -m pip install --no-deps --target .libauc libauc
    python benchmarks/libauc_pauc.py .libauc
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from prostate_alm.method.constraint import ranking_violation
from prostate_alm.method.lagrangian import AugmentedLagrangian

SIZE = 10_000  # of either class


def forward_and_backward(logits: torch.Tensor, loss: Callable[[], torch.Tensor]) -> float:
    logits.grad = None
    start = time.perf_counter()
    loss().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where LibAUC was installed")
    sys.path.append(str(parser.parse_args().folder))
    from libauc.losses import pAUC_CVaR_Loss, pAUC_DRO_Loss, tpAUC_KL_Loss

    torch.set_num_threads(2)
    torch.manual_seed(0)
    labels = torch.cat([torch.ones(SIZE), torch.zeros(SIZE)])
    logits = (torch.randn(2 * SIZE) + labels).requires_grad_()
    index, ids = torch.arange(2 * SIZE), [str(row) for row in range(2 * SIZE)]
    cvar = pAUC_CVaR_Loss(data_len=2 * SIZE, pos_len=SIZE, device="cpu")
    dro = pAUC_DRO_Loss(data_len=2 * SIZE, device="cpu")
    two_way = tpAUC_KL_Loss(data_len=2 * SIZE, device="cpu")
    term = AugmentedLagrangian(ids, margin=1.0, mu=0.2, rho=2.0, reduction="mean")
    losses: dict[str, Callable[[], torch.Tensor]] = {
        "AugmentedLagrangian, the whole term": lambda: term(logits, labels, ids),
        "ranking_violation": lambda: ranking_violation(logits[:SIZE], logits[SIZE:], margin=1.0).sum(),
        "LibAUC pAUC_CVaR_Loss (one-way)": lambda: cvar(torch.sigmoid(logits), labels, index),
        "LibAUC pAUC_DRO_Loss (one-way)": lambda: dro(torch.sigmoid(logits), labels, index),
        "LibAUC tpAUC_KL_Loss (two-way)": lambda: two_way(torch.sigmoid(logits), labels, index),
    }
    taken = {name: float("inf") for name in losses}
    for _ in range(4):
        for name, loss in losses.items():
            taken[name] = min(taken[name], forward_and_backward(logits, loss))
    print(f"{'loss':<40} {'ms':>8} {'/ whole term':>14}")
    for name, value in taken.items():
        print(f"{name:<40} {value * 1e3:8.1f} {value / next(iter(taken.values())):14.1f}")


if __name__ == "__main__":
    main()
