"""What the constraint on maps adds to a training step of the lesions bundle, in processor time, both in turns.

    OMP_NUM_THREADS=1 python benchmarks/lesion_step.py [--steps 20]

The bundle's network, Dice + BCE and AdamW on a batch of 8 noise images of 40 x 40 x 20 voxels, three with a lesion.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from monai.bundle import ConfigParser

from prostate_alm.method.lagrangian import ConstrainedLoss
from prostate_alm.method.lesions import LesionConstraint
from prostate_alm.shipped import shipped_bundle
from prostate_alm.training.map_losses import make_map_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    torch.set_num_threads(1)
    plain, constrained = stepper(None), stepper(LesionConstraint([f"{row}/lesion-1" for row in range(3)], mu=1000.0))
    times = [(seconds(plain), seconds(constrained)) for _ in range(steps + 2)][2:]
    without, with_ = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"step {1e3 * without:.0f} ms, with the constraint {1e3 * with_:.0f} ms: {100 * (with_ / without - 1):+.1f} %"
    )


def stepper(term: LesionConstraint | None) -> Callable[[], None]:
    parser = ConfigParser(ConfigParser.load_config_file(shipped_bundle("lesions") / "train.json"))
    network = parser.get_parsed_content("network_def")
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.002)
    loss = ConstrainedLoss(make_map_loss("dice_bce"), term)
    image, lesions = torch.randn(8, 4, 40, 40, 20), torch.zeros(8, 1, 40, 40, 20, dtype=torch.long)
    lesions[:3, :, 10:16, 12:18, 8:12] = 1

    def step() -> None:
        optimizer.zero_grad()
        loss(network(image), lesions, [str(row) for row in range(8)]).backward()
        optimizer.step()
        if term is not None:
            term.update_multipliers()

    return step


def seconds(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


if __name__ == "__main__":
    main()
