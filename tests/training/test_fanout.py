"""Members in processes, each with the bundle command itself, on a stand-in of CIFAR-10."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.results.run_folder import RunFolder
from prostate_alm.training.fanout import MemberTask, TaskEnd, run_tasks, standing
from prostate_alm.training.fanout_worker import run_bundle_command

CONFIG_FILE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10" / "train.json"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=40)


def make_tasks(images: Path, folder: Path, count: int, **more: Any) -> list[MemberTask]:
    common = {
        "dataset_dir": images,
        "train_majority": 20,
        "validation_majority": 10,
        "batch_size": 16,
        "pretrain_epochs": 1,
        "alm_epochs": 1,
        "tracking_uri": "none",
        "loss": "s_fl",
        "loss_parameters": {"gamma": 1.0},
    }
    numbers = range(count)
    return [MemberTask(CONFIG_FILE, folder / f"member-{k:02d}", {**common, "member": k, **more}) for k in numbers]


def by_member(outcomes: list[TaskEnd]) -> dict[str, str | None]:
    return {outcome.task.output_dir.name: outcome.failure for outcome in outcomes}


@pytest.mark.filterwarnings("ignore:parsing config_file")
@pytest.mark.parametrize(("jobs", "threads"), [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_members_do_not_disturb_each_other(images: Path, tmp_path: Path, jobs: int, threads: int) -> None:
    tasks = make_tasks(images, tmp_path / "first", 3, threads=threads)
    (tmp_path / "first" / "member-01").mkdir(parents=True)
    (tmp_path / "first" / "member-01" / "notes.txt").write_text("mine")  # a folder that no member may take
    outcomes = by_member(list(run_tasks(tasks, jobs=jobs)))
    assert sorted(outcomes) == [task.output_dir.name for task in tasks]
    failure = outcomes.pop("member-01")
    assert failure is not None
    assert failure.startswith("output_dir must be a new or empty folder")
    assert set(outcomes.values()) == {None}
    for task in (tasks[0], tasks[2]):
        config = json.loads((task.output_dir / "config.json").read_text())
        assert config["settings"]["member"] == task.overrides["member"]
        assert config["settings"]["loss_parameters"] == {"gamma": 1.0}
        assert "test AUC" in task.log_file.read_text()

    # in another order and in one process, this one: the same numbers; and what has results is not run again
    alone = make_tasks(images, tmp_path / "second", 3, threads=threads)
    for task in (alone[2], alone[0]):
        assert run_bundle_command(task.arguments(), task.log_file) is None
    before = (tasks[0].output_dir / "metrics.json").stat().st_mtime_ns
    assert by_member(list(run_tasks(tasks[:1], jobs=1))) == {"member-00": None}
    assert (tasks[0].output_dir / "metrics.json").stat().st_mtime_ns == before
    for number in (0, 2):
        for file in ("predictions.csv", "metrics.json", "history.csv"):
            contents = [(part[number].output_dir / file).read_bytes() for part in (tasks, alone)]
            assert contents[0] == contents[1], (number, file)


def running(tasks: list[MemberTask]) -> subprocess.Popen[bytes]:
    """Start a process that runs tasks and prints how they ended."""
    script = (
        "import sys, pickle; from prostate_alm.training.fanout import run_tasks\n"
        "for outcome in run_tasks(pickle.load(sys.stdin.buffer), jobs=1):\n"
        "    print(outcome.task.output_dir.name, outcome.failure, flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(pickle.dumps(tasks))
    process.stdin.close()
    return process


@pytest.mark.slow
def test_a_process_whose_parent_is_killed_ends_at_once_and_leaves_the_folder_free(images: Path, tmp_path: Path) -> None:
    (long,) = make_tasks(images, tmp_path, 1, alm_epochs=100_000)
    with running([long]) as parent:
        worker = training_process(parent.pid, long.log_file)
        parent.kill()
        deadline = time.monotonic() + 20  # it would train for hours
        while Path(f"/proc/{worker}/cmdline").is_file() and Path(f"/proc/{worker}/cmdline").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with RunFolder(long.output_dir).lock():
        pass


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:parsing config_file")
def test_a_process_that_dies_is_replaced_and_changes_no_number_of_others(images: Path, tmp_path: Path) -> None:
    # the first member trains long enough to be killed in the middle; the second takes a new process
    long, short = (make_tasks(images, tmp_path, 2, alm_epochs=n) for n in (100_000, 1))
    with running([long[0], short[1]]) as process:
        assert process.stdout is not None
        os.kill(training_process(process.pid, long[0].log_file), signal.SIGKILL)
        lines = process.stdout.read().decode().splitlines()
    assert lines == ["member-00 the process ended with code -9 (out of memory?)", "member-01 None"]
    assert not (long[0].output_dir / "metrics.json").exists()
    alone = make_tasks(images, tmp_path / "alone", 2)[1]  # where no sibling was killed
    assert run_bundle_command(alone.arguments(), alone.log_file) is None
    for file in ("predictions.csv", "metrics.json", "history.csv"):
        assert (alone.output_dir / file).read_bytes() == (short[1].output_dir / file).read_bytes(), file


def training_process(parent: int, log_file: Path) -> int:
    """Wait until the worker of a process is in the middle of a member; return its number."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if log_file.is_file() and "alm epoch 3/" in log_file.read_text():
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            return int(children[0])
        time.sleep(0.1)
    raise AssertionError(f"no training within two minutes in {log_file}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"jobs": 0}, "jobs must be at least 1, got 0"), ({"executor": "slurm"}, r"executor must be one of \['local'")],
)
def test_a_fault_of_the_caller_starts_nothing(
    images: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        list(run_tasks(make_tasks(images, tmp_path / "x", 1), **arguments))
    assert not (tmp_path / "x").exists()


def test_the_standing_is_what_the_members_printed_last(tmp_path: Path) -> None:
    tasks = [MemberTask(tmp_path / "train.json", tmp_path / f"member-{number:02d}", {}) for number in range(4)]
    tasks[0].output_dir.mkdir()
    (tasks[0].output_dir / "metrics.json").write_text("{}")
    tasks[0].log_file.write_text("INFO: alm epoch 5/5: validation AUC 0.900, loss 0.1\nresults: member-00\n")
    tasks[1].log_file.write_text("".join(f"INFO: alm epoch {epoch}/5: validation AUC 0.5\n" for epoch in (1, 2, 3)))
    tasks[2].log_file.write_text("UserWarning: something\n")
    assert standing(tasks) == "1 of 4 members done, member-01 at epoch 3/5, member-02 begins"
