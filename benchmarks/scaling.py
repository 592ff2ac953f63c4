"""How the cost grows with the work: scores, members, studies. In processor seconds: a busy machine disturbs them less.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py scores
    OMP_NUM_THREADS=1 python benchmarks/scaling.py members
    OMP_NUM_THREADS=1 python benchmarks/scaling.py studies MODEL.zip [--studies 1 10 100]

`scores`: `ranking_violation` forward and backward beside the broadcast form, and `auc`; one score in ten is a positive.
`members`: the logits of one study by the prostate bundle's network. `studies`: the commands `manifest build` and
`predict`, one process each, on synthetic studies that are made before and not timed. The last column tells how many
times more the step to this row costs; beside how many times more work it is.
"""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ranking_violation import broadcast, ours, scores, step

from prostate_alm.method.metrics import auc
from prostate_alm.phantom.cohort import make_cohort
from prostate_alm.results.mean_logits import MeanLogits
from prostate_alm.training.networks import CascadeNet

LARGEST_BROADCAST = 20_000
LEAST_COHORT = 10  # a manifest needs both classes in training and in test
ROUND_S = 0.05
ROUNDS = 5


def processor_seconds(call: Callable[[], object]) -> float:
    """Return the processor seconds of one call: of the quickest of some rounds, each of many calls if need be."""
    call()
    repeats, rounds = 1, []
    while len(rounds) < ROUNDS:
        start = time.process_time()
        for _ in range(repeats):
            call()
        took = time.process_time() - start
        if took < ROUND_S and not rounds:
            repeats *= 4
        else:
            rounds.append(took / repeats)
    return min(rounds)


def time_scores(_: argparse.Namespace) -> None:
    print(
        f"{'scores':>9} {'ours, ms':>10} {'broadcast, ms':>14} {'auc, ms':>9} {'ours, ns a score':>17} {'growth':>17}"
    )
    before = 0.0
    for size in (100, 1_000, 10_000, 100_000, 1_000_000):
        positive, negative = scores(size // 10, size - size // 10)
        labels = np.repeat([1, 0], [len(positive), len(negative)])
        ranked = torch.cat([positive, negative]).detach().numpy()
        own = processor_seconds(step(ours, positive, negative))
        other = processor_seconds(step(broadcast, positive, negative)) if size <= LARGEST_BROADCAST else None
        area = processor_seconds(lambda labels=labels, ranked=ranked: auc(labels, ranked))
        pairs = f"{other * 1e3:14.3f}" if other else f"{'-':>14}"
        print(
            f"{size:9} {own * 1e3:10.3f} {pairs} {area * 1e3:9.3f} {own / size * 1e9:17.0f} "
            f"{growth(own, before, 10 if before else 0):>17}",
            flush=True,
        )
        before = own


def time_members(_: argparse.Namespace) -> None:
    print(f"{'members':>9} {'ms a study':>11} {'growth':>17}")
    before, last = 0.0, 0
    for members in (1, 2, 5, 10):
        torch.manual_seed(0)
        pooling = [[2, 2, 1], [2, 2, 2], [2, 2, 2]]
        networks = [
            CascadeNet(spatial_dims=3, path_channels=[1, 3], features=[8, 16, 32], pooling=pooling)
            for _ in range(members)
        ]
        ensemble = MeanLogits(networks).eval()
        image = torch.randn(1, 4, 40, 40, 20)
        with torch.inference_mode():
            took = processor_seconds(lambda ensemble=ensemble, image=image: ensemble(image))
        print(f"{members:9} {took * 1e3:11.1f} {growth(took, before, members / last if last else 0):>17}", flush=True)
        before, last = took, members


def time_studies(options: argparse.Namespace) -> None:
    sizes = sorted(options.studies)
    print(f"{'studies':>9} {'command':>15} {'seconds':>9} {'a study, s':>11} {'peak, MiB':>10} {'growth':>17}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = make_cohort(folder / "cohort", studies=max(sizes))
        for label, least, command in (
            ("manifest build", LEAST_COHORT, build_command),
            ("predict", 1, predict_command(options.model)),
        ):
            before, last = 0.0, 0
            for size in (size for size in sizes if size >= least):
                part = first_studies(cohort, folder / f"{label}-{size}", size=size)
                took, peak_mib = command_cost(command(part, folder / f"{label}-{size}-out"))
                factor = size / last if last else 0
                print(
                    f"{size:9} {label:>15} {took:9.2f} {took / size:11.3f} {peak_mib:10.0f} "
                    f"{growth(took, before, factor):>17}",
                    flush=True,
                )
                before, last = took, size


def growth(now: float, before: float, work: float) -> str:
    return f"x {now / before:.1f} for x {work:g}" if before else "-"


def first_studies(cohort: Path, target: Path, *, size: int) -> Path:
    """Return a folder with the first studies of a cohort and their labels."""
    rows = (cohort / "labels.csv").read_text(encoding="utf-8").splitlines()[: size + 1]
    for row in rows[1:]:
        study = row.split(",")[0]
        shutil.copytree(cohort / study, target / study, copy_function=os.link)
    target.with_suffix(".csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return target


def build_command(part: Path, output: Path) -> list[str]:
    return ["manifest", "build", str(part), "--labels", str(part.with_suffix(".csv")), "--output", f"{output}.json"]


def predict_command(model: Path) -> Callable[[Path, Path], list[str]]:
    return lambda part, output: ["predict", str(part), "--model", str(model), "--output", str(output)]


def command_cost(arguments: list[str]) -> tuple[float, float]:
    """Return the processor seconds of a command and its peak memory in MiB, the largest of all commands so far."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "prostate_alm.cli", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, after.ru_maxrss / 2**10  # KiB on Linux


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    kinds.add_parser("scores").set_defaults(action=time_scores)
    kinds.add_parser("members").set_defaults(action=time_members)
    studies = kinds.add_parser("studies")
    studies.add_argument("model", type=Path, help="a packed model")
    studies.add_argument("--studies", type=int, nargs="+", default=[1, 10, 100], help="sizes (default: 1 10 100)")
    studies.set_defaults(action=time_studies)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; load of the machine before: {os.getloadavg()[0]:.1f}")
    options.action(options)


if __name__ == "__main__":
    main()
