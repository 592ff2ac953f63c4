"""What a command for an ensemble passes on to its members, and what it refuses."""

from pathlib import Path

import pytest

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.results.run_folder import EnsembleError
from prostate_alm.training.ensemble_training import read_bundle_settings, read_overrides, train_ensemble

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


@pytest.mark.parametrize(
    ("overrides", "members", "message"),
    [
        ({}, 1, "members must be at least 2 for an ensemble, got 1"),
        ({"ratioo": 9}, 2, "got --ratioo in the command line. Did you mean --ratio?"),
        ({"ratio": 100_000}, 2, "ratio must"),
        ({"ratio": 0}, 2, r"^ratio must be greater than 0, got 0\. Change --ratio\.$"),
    ],
)
def test_an_ensemble_that_cannot_be_starts_nothing(
    images: Path, tmp_path: Path, overrides: dict[str, object], members: int, message: str
) -> None:
    given = {"dataset_dir": str(images), **overrides}
    with pytest.raises(ValueError, match=message):
        train_ensemble(BUNDLES / "cifar10", members=members, overrides=given, output_root=tmp_path / "outputs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--member", "2"], "overrides must leave member to the ensemble, got --member"),
        (["ratio", "9"], "overrides must be --NAME VALUE, got 'ratio'"),
    ],
)
def test_overrides_that_the_ensemble_cannot_take(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_overrides(arguments)


def test_the_command_refuses_what_the_overlay_does_not_read(cohort: Path) -> None:
    with pytest.raises(EnsembleError, match="override must be a key of the config file, got --majority"):
        read_bundle_settings(BUNDLES / "prostate" / "findings.json", {"manifest": str(cohort), "majority": 1})
