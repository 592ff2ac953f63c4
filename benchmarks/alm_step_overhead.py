"""What the term adds to a CIFAR-10 training step of 64 images: python benchmarks/alm_step_overhead.py.

Three convolutions (32, 64, 128) with ReLU and max-pooling, float32, SGD; 16 positives among the 64. The step is timed
in turns with the base loss alone and with ConstrainedLoss and update_multipliers, so that a busy machine disturbs both.
The parts that the term adds are then timed by themselves: their sum does not drown in the noise of the convolutions.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import make_loss

BATCH, POSITIVES = 64, 16


def make_network() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 1))


class Step:
    def __init__(self, *, constrained: bool) -> None:
        torch.manual_seed(0)
        self.network = make_network()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9, weight_decay=2e-4)
        self.images = torch.randn(BATCH, 3, 32, 32)
        self.labels = (torch.arange(BATCH) < POSITIVES).long()
        self.ids = [f"train/{row:05d}" for row in range(BATCH)]
        term = AugmentedLagrangian(self.ids, margin=1.0, mu=0.2, rho=2.0, reduction="mean", multiplier_max=1.0)
        self.loss = ConstrainedLoss(make_loss("bce"), term if constrained else None)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.loss(self.network(self.images), self.labels, self.ids).backward()
        self.optimizer.step()
        if self.loss.term is not None:
            self.loss.term.update_multipliers()

    def loss_only(self, logits: Tensor) -> None:
        logits.grad = None
        self.loss(logits, self.labels, self.ids).backward()
        if self.loss.term is not None:
            self.loss.term.update_multipliers()


def seconds(call, *arguments: Tensor, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call(*arguments)
    return (time.perf_counter() - start) / repeats


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(2)
    plain, constrained = Step(constrained=False), Step(constrained=True)
    logits = torch.randn(BATCH, 1, requires_grad=True)
    pairs = [(seconds(plain, repeats=2), seconds(constrained, repeats=2)) for _ in range(42)][2:]
    alone = min(pair[0] for pair in pairs)
    parts = [[seconds(step.loss_only, logits, repeats=20) for step in (plain, constrained)] for _ in range(100)]
    without, with_term = (min(part) for part in zip(*parts, strict=True))
    added = with_term - without
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    print(f"step without the term            {alone * 1e3:8.2f} ms (quickest of {len(pairs)})")
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"step with / without, in turns    {ratio:8.3f}    (median of {len(pairs)})")
    print(f"the term by itself               {added * 1e3:8.2f} ms, forward, backward and update (quickest of 100)")
    print(f"the term / the step              {100 * added / alone:8.2f} %   bar <= 5 %")


if __name__ == "__main__":
    main()
