"""Speed and memory of ranking_violation, forward and backward: python benchmarks/ranking_violation.py.

Every number is a ratio of times measured in turns on the same scores, so that a busy machine disturbs both sides.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from prostate_alm.method.constraint import ranking_violation

MARGIN = 1.0
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def broadcast(positive: Tensor, negative: Tensor) -> Tensor:
    return torch.relu(MARGIN - (positive[:, None] - negative[None, :])).sum(1)


def ours(positive: Tensor, negative: Tensor) -> Tensor:
    return ranking_violation(positive, negative, margin=MARGIN)


def step(form: Callable[[Tensor, Tensor], Tensor], positive: Tensor, negative: Tensor) -> Callable[[], None]:
    def run() -> None:
        positive.grad = negative.grad = None
        form(positive, negative).sum().backward()

    return run


def in_turns(
    first: Callable[[], object], second: Callable[[], object], *, rounds: int, repeats: int
) -> tuple[float, float]:
    """Return the seconds of one call of each, timed alternately: of the quickest round, the least disturbed one."""
    times: tuple[list[float], list[float]] = ([], [])
    for call in (first, second):
        call()
    for _ in range(rounds):
        for call, kept in zip((first, second), times, strict=True):
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            kept.append((time.perf_counter() - start) / repeats)
    return min(times[0]), min(times[1])


def scores(p: int, n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    positive = torch.randn(p, generator=generator) + 1.0
    negative = torch.randn(n, generator=generator)
    return positive.requires_grad_(), negative.requires_grad_()


def resident_bytes(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def peak_extra_bytes(call: Callable[[], object]) -> int:
    """Return the peak of the resident memory above the memory before the call (Linux)."""
    before = resident_bytes("VmRSS")
    CLEAR.write_text("5")  # resets the peak
    call()
    return resident_bytes("VmHWM") - before


def line(what: str, ratio: float, bar: str, detail: str) -> None:
    print(f"{what:<58} {ratio:8.2f}   {bar:<8} {detail}")


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(2)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")

    positive, negative = scores(100_000, 1_000_000)
    large = step(ours, positive, negative)
    memory = peak_extra_bytes(large) / (4 * 1_100_000)  # first, while the allocator holds no spare memory

    print(f"{'':<58} {'ratio':>8}   {'bar':<8}")
    p, n = scores(16, 48)
    fast, slow = in_turns(step(ours, p, n), step(broadcast, p, n), rounds=100, repeats=100)
    line("P=16, N=48: ours / broadcast", fast / slow, "<= 1.3", f"{fast * 1e6:.0f} / {slow * 1e6:.0f} us")
    for size in (50, 100, 200, 1000):
        p, n = scores(size, size)
        fast, slow = in_turns(step(ours, p, n), step(broadcast, p, n), rounds=30, repeats=10)
        line(f"P=N={size}: broadcast / ours", slow / fast, "", f"{slow * 1e6:.0f} / {fast * 1e6:.0f} us")
    p, n = scores(10_000, 10_000)
    fast, slow = in_turns(step(ours, p, n), step(broadcast, p, n), rounds=3, repeats=1)
    line("P=N=10^4: broadcast / ours", slow / fast, ">= 100", f"{slow * 1e3:.0f} / {fast * 1e3:.1f} ms")
    together = torch.cat([positive, negative]).detach()
    fast, slow = in_turns(large, lambda: torch.sort(together), rounds=7, repeats=1)
    line(
        "P=10^5, N=10^6: ours / torch.sort of the scores",
        fast / slow,
        "<= 3",
        f"{fast * 1e3:.0f} / {slow * 1e3:.0f} ms",
    )
    line("P=10^5, N=10^6: peak extra memory / input", memory, "<= 8", "resident set, first call, gradients included")


if __name__ == "__main__":
    main()
