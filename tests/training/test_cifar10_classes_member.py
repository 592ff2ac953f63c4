"""Settings of a member that tells ten classes apart, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.training.cifar10_classes_member import Cifar10ClassesSettings
from prostate_alm.training.config_keys import unknown_keys
from prostate_alm.training.settings import read_settings

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "cifar10"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


def given(**changes: Any) -> dict[str, Any]:
    config = json.loads((BUNDLE / "train.json").read_text()) | json.loads((BUNDLE / "long_tailed.json").read_text())
    return {key: config[key] for key in Cifar10ClassesSettings.model_fields} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critical": "kat"}, "critical must be one class or several different ones of CIFAR-10, .*got 'kat'. Change"),
        (
            {"critical": 10},
            "critical must be one class or several .*, by name or number, not all, got 10. Change --cri",
        ),
        ({"critical": [3, "cat"]}, r"critical must be one class or several different ones .*got \[3, 'cat'\]"),
        ({"critical": list(range(10))}, r"critical must be one class or several .*not all, got \[0, 1, .*, 9\]"),
        ({"critical": []}, r"critical must be one class or several different ones .*got \[\]"),
        ({"imbalance": 0.5}, "imbalance must be greater than or equal to 1, got 0.5. Change --imbalance"),
        ({"loss": "bce"}, r"loss must be one of \['ce', 'w_ce', .*got 'bce'. Change --loss"),
        ({"loss": "ce", "loss_parameters": {"tau": 2}}, r"parameters of ce must be \[\], got \['tau'\]"),
        ({"profile": "flat"}, "profile must be 'long_tailed' or 'rare', got 'flat'"),
    ],
)
def test_a_fault_of_the_caller_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(Cifar10ClassesSettings, **given(**changes))
    assert "\n" not in str(caught.value)


def test_an_imbalance_that_leaves_no_image_of_a_critical_class_is_told(images: Path) -> None:
    settings = read_settings(Cifar10ClassesSettings, **given(dataset_dir=images, train_images=40, validation_images=20))
    with pytest.raises(ValueError, match="imbalance must leave an image of each class, got 100 for 40 of the largest"):
        settings.read_samples()


def test_a_setting_of_two_classes_is_refused_with_the_overlay() -> None:
    """It would change nothing: the overlay takes the place of what reads it."""
    files = [str(BUNDLE / name) for name in ("train.json", "long_tailed.json")]
    (fault,) = unknown_keys({"run_id": "training", "config_file": files, "ratio": 9, "imbalance": 200, "seed": 1})
    assert fault.startswith("override must be a key of the config file, got --ratio in the command line")
    assert unknown_keys({"run_id": "training", "config_file": files[:1], "ratio": 9}) == []
