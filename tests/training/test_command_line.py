"""A member that is trained on a disk without room ends with one line and goes on when there is some."""

from collections.abc import Callable
from pathlib import Path

import pytest

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.training.fanout_worker import run_bundle_command

CONFIG_FILE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10" / "train.json"


@pytest.mark.filterwarnings("ignore:parsing config_file")
@pytest.mark.parametrize("left_kib", [8, 200])
def test_training_ends_with_one_line_and_goes_on(
    small_disk: Path, fill_disk: Callable[[int], Path], tmp_path: Path, left_kib: int
) -> None:
    settings = {
        "config_file": CONFIG_FILE, "output_dir": small_disk / "run", "tracking_uri": "none", "train_majority": 20,
        "dataset_dir": write_stand_in(tmp_path / "images", images_per_class=40), "validation_majority": 10,
        "batch_size": 16, "pretrain_epochs": 1, "alm_epochs": 1, "device": "cpu", "resume": True,
    }  # fmt: skip
    arguments = ["run", "training", *(part for key, value in settings.items() for part in (f"--{key}", str(value)))]
    ballast = fill_disk(left_kib)
    failure = run_bundle_command(arguments, tmp_path / "log")
    assert failure is not None
    assert failure.startswith(str(small_disk))
    assert failure.endswith(
        "no room left. What was finished is kept and whole: make room and run the same command again."
    )
    assert "Traceback" not in (tmp_path / "log").read_text()
    ballast.unlink()
    assert run_bundle_command(arguments, tmp_path / "log") is None
    assert (small_disk / "run" / "metrics.json").is_file()
