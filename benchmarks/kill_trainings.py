"""Trainings killed at random moments, parent and workers: are all files equal? python benchmarks/kill_trainings.py 20.

An ensemble (`ensemble train`, two workers) and a plan (`experiment run`) are trained once without and once with N kills
each, on a stand-in of CIFAR-10. After each kill the same command goes on. At the end predictions, histories, figures
and tables are compared byte for byte.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from prostate_alm.data.cifar10 import write_stand_in

COMPARED = ("predictions.csv", "metrics.json", "history.csv", "members.csv", "results.json", "results.csv")
BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "cifar10"
SETTINGS = {"train_majority": 40, "validation_majority": 20, "batch_size": 16, "pretrain_epochs": 10, "alm_epochs": 20}
FIRST_S, LAST_S = 1.0, 14.0  # of a kill after the start: from the imports to the middle of the members


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, help="of each command")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        images = write_stand_in(Path(folder, "images"), images_per_class=60)
        for name, command in commands(images, Path(folder)).items():
            root, start, kills, rounds = Path(folder, name), time.monotonic(), 0, 0
            different: list[str] = []
            run(command, root / "whole")
            while kills < options.kills:  # a training may be done before it was killed often enough
                rounds += 1
                kills += kill_and_go_on(command, root / f"killed-{rounds}", kills=options.kills - kills, draw=draw)
                different += differences(root / "whole", root / f"killed-{rounds}")
            files = sum(path.name in COMPARED for path in (root / "whole").rglob("*"))
            print(
                f"{name}: {kills} kills in {rounds} trainings and {time.monotonic() - start:.0f} s, "
                f"{files} files of each compared, different: {different or 'none'}",
                flush=True,
            )
            failed |= bool(different) or not files
    sys.exit(failed)


def commands(images: Path, folder: Path) -> dict[str, list[str]]:
    """Return the two commands; `@` stands for the folder of the results."""
    settings = SETTINGS | {"dataset_dir": str(images), "device": "cpu"}
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    plan = {
        "name": "kills", "bundle": str(BUNDLE / "train.json"), "dataset": "cifar10", "pairs": [[0, 1]], "ratios": [2],
        "losses": {"bce": {}}, "alm": {"mu0_rho": [[3.0, 2]], "delta": 1.0}, "members": 2, "seed": 0,
        "settings": SETTINGS,
    }  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    ensemble = ["ensemble", "train", str(BUNDLE), "--members", "3", "--jobs", "2", "--output", "@", *flags]
    experiment = ["experiment", "run", str(folder / "plan.json"), "--output", "@", "--jobs", "2"]
    return {
        "ensemble train": [*ensemble, "--tracking_uri", "sqlite:///@.db"],
        "experiment run": [*experiment, "--dataset_dir", str(images), "--device", "cpu"],
    }


def run(command: list[str], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(_argv(command, output), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[:2]} must succeed, got {done.returncode}: {done.stderr[-2000:]}")


def _argv(command: list[str], output: Path) -> list[str]:
    return [sys.executable, "-m", "prostate_alm.cli", *(part.replace("@", str(output)) for part in command)]


def kill_and_go_on(command: list[str], output: Path, *, kills: int, draw: random.Random) -> int:
    """Kill the command, its parent or one of its workers, until it was killed often enough or is done."""
    output.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    while done < kills:
        process = subprocess.Popen(_argv(command, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(FIRST_S, LAST_S))
            break
        except subprocess.TimeoutExpired:
            done += _kill(process.pid, draw)
            process.wait()
    run(command, output)
    return done


def _kill(parent: int, draw: random.Random) -> int:
    children = [int(one) for one in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    target = draw.choice([parent, *children])
    subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(target)], capture_output=True)
    return 1


def differences(whole: Path, killed: Path) -> list[str]:
    """Return the files that differ, or are in one of the folders only."""
    names = {path.relative_to(root) for root in (whole, killed) for path in root.rglob("*") if path.name in COMPARED}
    return sorted(str(name) for name in names if _content(whole / name) != _content(killed / name))


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


if __name__ == "__main__":
    main()
