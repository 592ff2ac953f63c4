"""An ensemble of ten CIFAR-10 members with two processes against one.

    python benchmarks/ensemble_jobs.py DATASET_DIR [--members 10] [--epochs 50]

Runs `prostate-alm ensemble train bundles/cifar10 --jobs N` for N = 2 and N = 1 in folders of their own, and N = 1 on
one core: a single process has all cores for its threads otherwise. Prints the seconds of the whole command, imports,
evaluation and MLflow included, and how much faster two processes are.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "cifar10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--members", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=50, help="of each member (default: %(default)s)")
    options = parser.parse_args()
    two = run(options, jobs=2, cores=None)
    print(f"--jobs 2:              {two:6.1f} s, {two / options.members:5.1f} s a member")
    for name, cores in (("--jobs 1:            ", None), ("--jobs 1, on one core:", {0})):
        one = run(options, jobs=1, cores=cores)
        print(
            f"{name} {one:6.1f} s, {one / options.members:5.1f} s a member, {one / two:.2f} times as long", flush=True
        )


def run(options: argparse.Namespace, *, jobs: int, cores: set[int] | None) -> float:
    command = [sys.executable, "-m", "prostate_alm.cli", "ensemble", "train", str(BUNDLE), "--jobs", str(jobs)]
    command += ["--members", str(options.members), "--dataset_dir", str(options.dataset_dir.resolve())]
    command += ["--alm_epochs", str(options.epochs)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            if cores is not None:
                os.sched_setaffinity(process.pid, cores)  # its children inherit it
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with code {process.returncode}")
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
