"""A cohort that does not fit into memory: memory and time of an epoch, streamed from the disk and held.

    OMP_NUM_THREADS=1 python benchmarks/streaming.py FOLDER [--studies 1000 3000 10000] [--batches 40]

Writes images of the prostate bundle, noise of 4 x 46 x 46 x 22 voxels, into a volume cache in FOLDER: 60 different
ones, repeated, each copy at its own place on the disk. Then, for each number of studies, trains the bundle's network
for some steps, in a process of its own, with the images read batch by batch; and, with as many studies as fit, both
ways in one process, the two taking turns so that a busy machine disturbs both alike. RssAnon is the process's own
memory; RssFile are pages of files that it maps at that moment, which the kernel takes back when it needs them. Time is
that of the processor.
"""

import argparse
import hashlib
import multiprocessing
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Identity

from prostate_alm.data.sampling import StratifiedBatchSampler
from prostate_alm.data.tensors import TensorLoader, crop_mirror_and_scale
from prostate_alm.data.volume_cache import VolumeCache
from prostate_alm.training.networks import CascadeNet

SHAPE, SIZE, DIFFERENT, BATCH = (4, 46, 46, 22), (40, 40, 20), 60, 8
POSITIVE_SHARE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--studies", type=int, nargs="+", default=[1000, 3000, 10_000], help="(default: %(default)s)")
    parser.add_argument("--paired", type=int, default=1000, help="studies of the comparison (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=40, help="steps of each measurement (default: %(default)s)")
    options = parser.parse_args()
    write_cache(options.folder, max(*options.studies, options.paired))
    print("| studies | on the disk, GiB | ms a step | RssAnon, GiB | RssFile, GiB |\n|---|---|---|---|---|")
    alone = multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1)
    for count in options.studies:
        took, anon, file = alone.apply(streamed, (options.folder, count, options.batches))
        size = count * np.prod(SHAPE) * 4 / 2**30
        print(f"| {count} | {size:.2f} | {1e3 * took:.0f} | {anon:.2f} | {file:.2f} |", flush=True)
    held, read = alone.apply(paired, (options.folder, options.paired, options.batches))
    print(f"\n{options.paired} studies, in turns: {1e3 * held:.1f} ms a step held, {1e3 * read:.1f} ms streamed")
    print(f"streamed / held = {read / held:.3f}")
    alone.close()


def write_cache(folder: Path, studies: int) -> None:
    cache, random = VolumeCache(folder, [Identity()]), np.random.default_rng(0)
    cache.folder.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(samples(studies)):
        path = cache.path(sample)
        if path.exists():
            continue
        if number < DIFFERENT:
            np.save(path, random.normal(size=SHAPE).astype(np.float32))
        else:
            shutil.copyfile(cache.path(samples(DIFFERENT)[number % DIFFERENT]), path)


def samples(studies: int) -> list[dict[str, Any]]:
    return [
        {
            "volumes_sha256": (hashlib.sha256(str(number).encode()).hexdigest(),),
            "label": int(number % 10 < 10 * POSITIVE_SHARE),
            "sample_id": f"PHANTOM-{number:05d}",
        }
        for number in range(studies)
    ]


class Training:
    """The bundle's network, its batches, crops and optimizer; a call is one step."""

    def __init__(self, folder: Path, studies: int, *, in_memory_bytes: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        images = VolumeCache(folder, [Identity()]).images(samples(studies))
        batches = StratifiedBatchSampler([sample["label"] for sample in samples(studies)], BATCH, seed=0)
        self.loader = TensorLoader(
            images,
            batches,
            augment=lambda image, source: crop_mirror_and_scale(image, source, size=SIZE),
            in_memory_bytes=in_memory_bytes,
        )
        pooling = [[2, 2, 1], [2, 2, 2], [2, 2, 2]]
        self.network = CascadeNet(spatial_dims=3, path_channels=[1, 3], features=[8, 16, 32], pooling=pooling)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.002)
        self.loader.set_seed(0)
        self.batches = iter(self.loader)

    def __call__(self) -> float:
        """Return the processor seconds of a step."""
        start = time.process_time()
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.loader)
            batch = next(self.batches)
        logits = self.network(batch["image"])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["label"].float())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.process_time() - start


def streamed(folder: Path, studies: int, batches: int) -> tuple[float, float, float]:
    training = Training(folder, studies, in_memory_bytes=0)
    largest = {"RssAnon": 0.0, "RssFile": 0.0}
    took = []
    for _ in range(batches):
        took.append(training())
        largest = {name: max(value, resident_gib(name)) for name, value in largest.items()}
    return float(np.median(took)), largest["RssAnon"], largest["RssFile"]


def paired(folder: Path, studies: int, batches: int) -> tuple[float, float]:
    held = Training(folder, studies, in_memory_bytes=1 << 40)
    read = Training(folder, studies, in_memory_bytes=0)
    took = np.array([(held(), read()) for _ in range(batches)])
    return float(np.median(took[:, 0])), float(np.median(took[:, 1]))


def resident_gib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 2**20


if __name__ == "__main__":
    main()
