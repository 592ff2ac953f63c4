"""Members of CIFAR-10 trained together, as one network, against one after another.

    python benchmarks/cifar10_together.py [--device cuda] [--precision bfloat16] [--members 1 2 5 10] [--epochs 5]

Trains the network of bundles/cifar10 with the constraint on random images: 450 for training in batches of 64, 150 for
validation after each epoch. The two ways are timed in turn, each once before to warm up. Prints the seconds of a step
of all members, the share of validation and of checkpoints included, and their ratio. The gain is for a GPU, which one
small network leaves idle; expect none on a CPU, where each member alone already uses all cores.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.tensors import TensorLoader, mirror_and_shift
from prostate_alm.method.lagrangian import AugmentedLagrangian, ConstrainedLoss
from prostate_alm.method.losses import make_loss
from prostate_alm.training.dtype import fastest_dtype
from prostate_alm.training.networks import CascadeNet
from prostate_alm.training.samples import Sample
from prostate_alm.training.together import train_together
from prostate_alm.training.trainer import Loaders, Schedule, TwoStageTraining

TRAIN, VALIDATION = 450, 150
BATCH_SIZE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--members", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each timing (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each way; the best counts")
    options = parser.parse_args()
    device = torch.device(options.device)
    dtype = fastest_dtype(device) if options.precision == "auto" else getattr(torch, options.precision)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    steps = options.epochs * -(-TRAIN // BATCH_SIZE)
    print(f"{name}, {dtype}, torch {torch.__version__}; {steps} steps a timing, best of {options.repeats}")
    print(f"{'members':>7} {'together, s':>12} {'in turn, s':>11} {'in turn / together':>19}")
    ways = (lambda group: list(train_together(group)), train_in_turn)
    for members in options.members:
        rounds = []
        for _ in range(options.repeats + 1):
            groups = [[make_training(k, device, dtype, options.epochs) for k in range(members)] for _ in ways]
            rounds.append([seconds_of(way, group, device) for way, group in zip(ways, groups, strict=True)])
        together, in_turn = (min(times) / steps for times in zip(*rounds[1:], strict=True))
        print(f"{members:7} {together:12.4f} {in_turn:11.4f} {in_turn / together:19.2f}", flush=True)


def seconds_of(
    way: Callable[[list[TwoStageTraining]], object], group: list[TwoStageTraining], device: torch.device
) -> float:
    start = time.perf_counter()
    way(group)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def train_in_turn(group: list[TwoStageTraining]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, training in enumerate(group):
            training.run(Path(folder) / f"{number}.pt")


def make_training(member: int, device: torch.device, dtype: torch.dtype, epochs: int) -> TwoStageTraining:
    torch.manual_seed(member)
    train, validation = (make_samples(name, count) for name, count in (("train", TRAIN), ("val", VALIDATION)))
    sampler = StratifiedBatchSampler([sample["label"] for sample in train], BATCH_SIZE, seed=member)
    loader = TensorLoader(train, sampler, augment=mirror_and_shift, device=str(device))
    seen = TensorLoader(validation, device=str(device))
    term = AugmentedLagrangian(
        [sample["sample_id"] for sample in train], margin=1.0, mu=0.2, rho=2.0, reduction="mean", multiplier_max=1.0
    )
    return TwoStageTraining(
        CascadeNet(2, (3,), features=(16, 32, 64, 128), pooling=[(2, 2)] * 4),
        ConstrainedLoss(make_loss("bce"), term),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.002, weight_decay=1e-4),
        loaders=Loaders(loader, seen, seen),
        schedule=Schedule(0, epochs, patience=epochs + 1, gradient_norm_max=1.0, seed=0, member=member),
        device=str(device),
        dtype=dtype,
        randomizers=[loader.set_seed],
    )


def make_samples(name: str, count: int) -> list[Sample]:
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    return [
        {"image": image, "label": int(number % 3 == 0), "sample_id": f"{name}-{number}"}
        for number, image in enumerate(images)
    ]


if __name__ == "__main__":
    main()
