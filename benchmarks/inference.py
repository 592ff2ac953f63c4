"""Speed and memory of `prostate-alm predict`, beside dcm2niix on the same folder.

python benchmarks/inference.py MODEL.zip STUDY_DIR [--archive 100]

STUDY_DIR is the folder of a real study. Each figure is given in seconds of the clock and of the processor: the same on
a machine that does nothing else, since one study is answered by one thread; on a busy one only the second is a measure.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prostate_alm.phantom.cohort import make_cohort

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
IN_PROCESS = """
import json, sys, time
from pathlib import Path

def clock():
    return time.perf_counter(), time.process_time()

def since(start):
    return [now - then for now, then in zip(clock(), start)]

start = clock()
import torch
from prostate_alm.delivery.answers import write_answer
from prostate_alm.delivery.package.opened import open_package
from prostate_alm.delivery.predict import predict_folder
from prostate_alm.imaging.volume import load_study
torch.set_num_threads(1)
model = open_package(Path(sys.argv[1]))
times = {"start": [since(start)], "load": [], "study": []}
for _ in range(int(sys.argv[4])):
    start = clock()
    load_study(Path(sys.argv[2]))
    times["load"].append(since(start))
    start = clock()
    write_answer(predict_folder(Path(sys.argv[2]), model).answer, Path(sys.argv[3]))
    times["study"].append(since(start))
print(json.dumps(times | {"members": model.identity.members, "finds_lesions": model.card.lesions is not None}))
"""


@dataclass(frozen=True)
class Seconds:
    """What something took, by the clock and of the processor."""

    clock: float
    processor: float

    def __str__(self) -> str:
        return f"{self.clock:8.2f} s {self.processor:8.2f} s"


def typical(pairs: Iterable[Sequence[float]]) -> Seconds:
    """Return the medians of several runs."""
    clock, processor = zip(*pairs, strict=True)
    return Seconds(statistics.median(clock), statistics.median(processor))


def run(*arguments: object) -> tuple[Seconds, str]:
    """Return what a command took and what it printed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(list(map(str, arguments)), env=ENVIRONMENT, capture_output=True, text=True, check=True)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Seconds(clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), done.stdout


def command(model: Path, output: Path, *arguments: object) -> Seconds:
    """Return what one `prostate-alm predict` took."""
    head = (sys.executable, "-m", "prostate_alm.cli", "predict")
    return run(*head, *arguments, "--model", model, "--output", output)[0]


def row(name: str, value: object, bar: str = "") -> None:
    print(f"{name:52}{value!s:>22}   {bar}")


def single(model: Path, study: Path, folder: Path, *, repeats: int) -> None:
    """Print start, one study and its reading, beside dcm2niix."""
    times = json.loads(run(sys.executable, "-c", IN_PROCESS, model, study, folder, repeats)[1].splitlines()[-1])
    load = typical(times["load"])
    row("start: imports, model opened", typical(times["start"]), "< 10 s")
    bar = "< 2 s" if times["finds_lesions"] else "< 6 s"
    row(f"folder to JSON, {times['members']} members, after the start", typical(times["study"]), bar)
    row("reading, selecting, resampling the study", load, "< 1 s")
    converted = folder / "dcm2niix"
    converted.mkdir()
    convert = (Path(sys.executable).with_name("dcm2niix"), "-z", "n", "-w", 1, "-o", converted, study)
    took = [run(*convert)[0] for _ in range(repeats)]
    niix = typical((one.clock, one.processor) for one in took)
    row("dcm2niix on the same folder", niix)
    row("ratio", f"{load.clock / niix.clock:10.1f} {load.processor / niix.processor:10.1f}", "<= 4")
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # KiB on Linux
    row("largest memory of a process", f"{peak_gib:.2f} GiB", "< 3 GiB")


def many(model: Path, folder: Path, *, studies: int) -> None:
    """Print the time of an archive with one and with two processes."""
    cohort = make_cohort(folder / "cohort", studies=studies)
    one = command(model, folder / "one", cohort)
    two = command(model, folder / "two", cohort, "--jobs", 2)
    row(f"{studies} synthetic studies, --jobs 1", one)
    row(f"{studies} synthetic studies, --jobs 2", two)
    row("throughput of two processes over one", f"{one.clock / two.clock:.2f}", ">= 1.7")
    row("the same command again: nothing to do", command(model, folder / "two", cohort, "--jobs", 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("study", type=Path)
    parser.add_argument("--archive", type=int, default=100, metavar="N", help="synthetic studies; 0 for none")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    row("", f"{'clock':>10} {'processor':>10}", "bar")
    with tempfile.TemporaryDirectory() as name:
        single(options.model, options.study, Path(name), repeats=options.repeats)
        if options.archive:
            many(options.model, Path(name), studies=options.archive)


if __name__ == "__main__":
    main()
