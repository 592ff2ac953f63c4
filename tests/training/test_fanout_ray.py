"""The same members on a Ray cluster of one machine."""

import importlib.util
import sys
from pathlib import Path

import pytest

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.training.fanout import MemberTask, run_tasks

CONFIG_FILE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10" / "train.json"
SHORT = {"train_majority": 20, "validation_majority": 10, "batch_size": 16, "alm_epochs": 1, "tracking_uri": "none"}


def make_tasks(images: Path, folder: Path) -> list[MemberTask]:
    common = {"dataset_dir": images, **SHORT}
    return [MemberTask(CONFIG_FILE, folder / f"member-{k:02d}", {**common, "member": k}) for k in range(3)]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray has no package for this Python")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_ray_gives_the_numbers_of_local_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the tasks' paths are relative to the folder of the command
    write_stand_in(Path("cifar"), images_per_class=40)
    tasks = make_tasks(Path("cifar"), Path("ray"))
    Path("ray/member-01").mkdir(parents=True)
    Path("ray/member-01/notes.txt").write_text("mine")
    outcomes = {outcome.task.output_dir.name: outcome.failure for outcome in run_tasks(tasks, jobs=2, executor="ray")}
    assert outcomes["member-01"] is not None
    assert outcomes["member-01"].startswith("output_dir must be a new or empty folder")
    assert outcomes["member-00"] is outcomes["member-02"] is None
    local = make_tasks(Path("cifar"), Path("local"))[2]
    assert [outcome.failure for outcome in run_tasks([local], jobs=2)] == [None]
    for file in ("predictions.csv", "metrics.json"):
        assert (tasks[2].output_dir / file).read_bytes() == (local.output_dir / file).read_bytes()


def test_without_ray_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # what an import of a package that is not installed finds
    with pytest.raises(ValueError, match=r"pip install 'prostate-alm\[ray\]'"):
        list(run_tasks(make_tasks(tmp_path, tmp_path), executor="ray"))
