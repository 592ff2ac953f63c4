"""One rank of the distributed tests: ``gloo_worker.py RANK WORLD FOLDER``; what it found goes to FOLDER/RANK.pt."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from prostate_alm.method.batch import base_weight
from prostate_alm.method.critical import CriticalClasses
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import make_loss

SAMPLES, STEPS = 41, 50


def cohort():
    """Features, labels and ids; every fourth sample is positive."""
    x = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(3))
    labels = (torch.arange(SAMPLES) % 4 == 0).long()
    return x, labels, [f"study-{i}" for i in range(SAMPLES)]


def rows_of_step(step: int) -> list[list[int]]:
    """Rows of rank 0 and rank 1; sizes are uneven, and now and then a rank has none or no positive."""
    rows = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(step))[:16].tolist()
    if step % 5 == 4:
        return [rows, []]
    if step % 5 == 3:
        return [[row for row in rows if row % 4], [row for row in rows if row % 4 == 0]]
    cut = (8, 11, 3)[step % 5]
    return [rows[:cut], rows[cut:]]


def take_step(step, rank, model, loss, optimizer, samples) -> None:
    """Descend once on the rows of a rank, of both without one, and update the multipliers."""
    x, labels, ids = samples
    both = rows_of_step(step)
    rows = both[0] + both[1] if rank is None else both[rank]
    optimizer.zero_grad()
    loss(model(x[rows].double()), labels[rows], [ids[row] for row in rows]).backward()
    optimizer.step()
    loss.term.update_multipliers()


def train(rank: int | None) -> dict:
    """Train for 50 steps as one rank, or (None) as the one process that sees the rows of both."""
    torch.manual_seed(7)
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    model = network if rank is None else DistributedDataParallel(network)
    x, labels, ids = cohort()
    own_ids = ids if rank != 1 else ids[::-1]  # the order of the ids may differ between ranks
    term = AugmentedLagrangian(own_ids, margin=1.0, mu=0.2, rho=2.0, reduction="mean", multiplier_max=5.0)
    loss = ConstrainedLoss(make_loss("bce"), term)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for step in range(STEPS):
        take_step(step, rank, model, loss, optimizer, (x, labels, ids))
        if step % 10 == 9:
            term.observe_validation(0.9 - 0.01 * step)
    return {
        "network": network.state_dict(),
        "multipliers": dict(term.multipliers),
        "mu": term.mu,
    }


def train_classes(rank: int | None) -> dict:
    """Train as `train` does, four classes of which two are critical, each ranked against each other one."""
    torch.manual_seed(8)
    network = nn.Linear(6, 4).double()
    model = network if rank is None else DistributedDataParallel(network)
    x, _, ids = cohort()
    labels = torch.arange(SAMPLES) % 4
    term = CriticalClasses(ids, {3: {}, 1: {"margin": 2.0}}, classes=4, ordered=True, against="each", mu=0.2)
    loss = ConstrainedLoss(nn.CrossEntropyLoss(), term)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for step in range(STEPS // 2):
        take_step(step, rank, model, loss, optimizer, (x, labels, ids))
    return {
        "network": network.state_dict(),
        "multipliers": {name: dict(one.multipliers) for name, one in term.terms.items()},
    }


def error_of_classes(label: int) -> str:
    """Return type and message of the error that a batch with this label raises on this rank."""
    try:
        CriticalClasses(["a"], [1], classes=3)(torch.zeros(2, 3), torch.tensor([1, label]), ["a", "n"])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def padded(rank: int) -> float:
    """Return the term where rank 1 repeats a positive and a negative of rank 0, as a distributed sampler pads."""
    x, labels, ids = cohort()
    rows = [[0, 1, 2, 3], [4, 5, 0, 1]][rank]
    term = AugmentedLagrangian.as_printed(ids, mu=0.2, rho=2.0)
    return term(x[rows, 0], labels[rows], [ids[row] for row in rows]).item()


def empty_everywhere() -> float:
    """Return the term of a step in which no rank has a row."""
    term = AugmentedLagrangian.as_printed(["a"], mu=0.2, rho=2.0)
    return term(torch.zeros(0, requires_grad=True), torch.zeros(0), []).item()


def weight_of(rank: int) -> float:
    """Return the weight of 1 row on rank 0 and 3 rows on rank 1, on a device that gloo cannot read."""
    return base_weight(1 + 2 * rank, device=torch.device("meta"))


def error_of(logits: list[float], ids: list[str], mu: float = 0.2) -> str:
    """Return type and message of the error that a batch of one positive and one negative raises on this rank."""
    term = AugmentedLagrangian.as_printed(["a", "b"], mu=mu, rho=2.0)
    try:
        term(torch.tensor(logits), torch.tensor([1, 0]), ids)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def main(rank: int, world: int, folder: Path) -> None:
    """Run every scenario and save what came out."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world, timeout=timedelta(seconds=30)
    )
    found = {
        "trained": train(rank),
        "trained classes": train_classes(rank),
        "label": error_of_classes(2 + rank),
        "padded": padded(rank),
        "empty": empty_everywhere(),
        "weight": weight_of(rank),
        "nan": error_of([float("nan") if rank else 0.0, 0.0], ["a", "n"]),
        "unknown id": error_of([0.0, 0.0], ["a" if rank else "x", "n"]),
        "mu": error_of([0.0, 0.0], ["ab"[rank], "n"], mu=0.2 + 0.1 * rank),
        "afterwards": error_of([0.0, 0.0], ["ab"[rank], f"n{rank}"]),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
