"""An ensemble of ten CIFAR-10 members with two processes against one.

    python benchmarks/ensemble_jobs.py DATASET_DIR [--members 10] [--epochs 100]

Runs `prostate-alm ensemble train bundles/cifar10 --jobs N` for N = 2, 1 in folders of their own and prints the seconds
of the whole command, imports and evaluation included, and the ratio.
"""

import argparse
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
    parser.add_argument("--epochs", type=int, default=100, help="of each member (default: %(default)s)")
    options = parser.parse_args()
    seconds = {jobs: run(options, jobs) for jobs in (2, 1)}
    for jobs, duration in seconds.items():
        print(f"--jobs {jobs}: {duration:6.1f} s, {duration / options.members:5.1f} s a member")
    print(f"ratio {seconds[1] / seconds[2]:.2f}")


def run(options: argparse.Namespace, jobs: int) -> float:
    command = [sys.executable, "-m", "prostate_alm.cli", "ensemble", "train", str(BUNDLE), "--jobs", str(jobs)]
    command += ["--members", str(options.members), "--dataset_dir", str(options.dataset_dir.resolve())]
    command += ["--alm_epochs", str(options.epochs), "--schedule#patience", str(options.epochs)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
