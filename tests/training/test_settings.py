import json
import sys
from pathlib import Path

import pytest
import torch

from prostate_alm.training.cohort_member import CohortSettings
from prostate_alm.training.command_line import named_arguments
from prostate_alm.training.config_keys import require_read_keys, unknown_keys
from prostate_alm.training.settings import read_settings

VALID = {
    "dataset_dir": "data",
    "manifest": None,
    "recipe": None,
    "ratio": None,
    "cache_dir": "cache",
    "member": 0,
    "seed": 0,
    "loss": "bce",
    "loss_parameters": {},
    "alm": True,
    "mu0": 0.2,
    "rho": 2.0,
    "delta": 1.0,
    "pretrain_epochs": 1,
    "alm_epochs": 1,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "device": "cpu",
    "precision": "auto",
    "threads": 1,
    "output_dir": None,
    "tracking_uri": None,
    "parent_run_id": None,
    "resume": False,
    "overwrite": False,
}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), (True, True), ("False", False)])
def test_the_command_line_gives_true_as_a_word(text: object, value: bool) -> None:
    assert read_settings(CohortSettings, **VALID | {"alm": text}).alm is value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("member", -1, "member must be greater than or equal to 0, got -1"),
        ("batch_size", 1, "batch_size must be greater than or equal to 2, got 1"),
        ("learning_rate", 0, "learning_rate must be greater than 0, got 0"),
        ("mu0", float("nan"), "mu0 must be"),
        ("rho", 0.99, "rho must be greater than or equal to 1, got 0.99"),
        ("delta", -0.1, "delta must be greater than or equal to 0, got -0.1"),
        ("threads", 0, "threads must be greater than or equal to 1, got 0"),
        ("loss", "bcee", r"loss must be one of \['bce', 's_ml', .*, or module.function of your own, got 'bcee'"),
        ("loss", "nowhere.bce", "or module.function of your own, got 'nowhere.bce'"),
        ("alm", "perhaps", "alm must be a valid boolean"),
        ("pretrain_epochs", "ten", "pretrain_epochs must be a valid integer"),
        ("device", "gpu", "device must be auto, cpu, or a device that this machine has, got 'gpu'"),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_rule_and_value(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(CohortSettings, **VALID | {name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("member", 0), ("batch_size", 2), ("rho", 1), ("delta", 0)])
def test_the_closed_end_of_a_range_is_allowed(name: str, value: object) -> None:
    assert getattr(read_settings(CohortSettings, **VALID | {name: value}), name) == value


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="member") as caught:
        read_settings(CohortSettings, **VALID | {"member": -1, "rho": 0})
    assert len(str(caught.value).splitlines()) == 2


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    config = {"member": 0, "network_def": {"_target_": "Net", "features": 3}, "pretrain_epochs": 1}
    config |= {"train": {"handlers": [], "trainer": "$print(@member, @network_def, @train#handlers)"}}
    run = {"training": ["$print(@train#trainer, @pretrain_epochs)"]}
    path.write_text(json.dumps(config | run))
    return path


def faults_of(arguments: list[str]) -> list[str]:
    return unknown_keys(named_arguments(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--member", "3"],
        ["--member=3"],
        ["--pretrain-epochs", "3"],
        ["--network_def#features", "3"],
        ["--network_def::features", "3"],
        ["--+network_def", "{'features': 4}"],
        ["--logging_file", "log.conf"],
        ["--member", "--pretrain_epochs", "2"],
    ],
)
def test_known_overrides_pass(config_file: Path, arguments: list[str]) -> None:
    assert faults_of(["run", "training", "--config_file", str(config_file), *arguments]) == []


def test_a_misspelt_override_is_named_with_the_nearest_known_one(config_file: Path) -> None:
    (fault,) = faults_of(["run", "training", "--config_file", str(config_file), "--pretrain_epoch", "3"])
    assert "--pretrain_epoch " in fault
    assert "Did you mean --pretrain_epochs?" in fault


def test_an_override_like_nothing_lists_what_there_is(config_file: Path) -> None:
    (fault,) = faults_of(["run", "training", f"--config_file={config_file}", "--zzz", "3"])
    assert "Available: ['member', 'network_def', 'pretrain_epochs', 'train', 'training']" in fault


@pytest.mark.filterwarnings("ignore:Can't merge entry")  # MONAI's word for a key that is new
def test_an_overlay_may_add_what_something_refers_to(config_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("extra: 1\nmember: '$@extra + 1'\n")
    both = f"['{config_file}','{other}']"
    assert faults_of(["run", "--config_file", both, "--extra", "2", "--member", "1"]) == []
    other.write_text("+extra: 1\nmembre: 2\n")
    unread = faults_of(["run", "--config_file", both])
    assert [fault.split("got ")[1].split(".")[0] for fault in unread] == ["+extra in other", "membre in other"]
    assert unread[1].endswith("Did you mean member?")


def test_a_key_within_a_section_is_looked_for_too(config_file: Path) -> None:
    (fault,) = faults_of(["run", "--config_file", str(config_file), "--train#handler", "[]"])
    assert fault.endswith("got --train#handler in the command line. Did you mean --train#handlers?")


def test_the_file_of_arguments_is_read_as_the_command_line(config_file: Path, tmp_path: Path) -> None:
    given = {"config_file": [str(config_file)], "pretrain_epoch": 3, "member": 2}
    (tmp_path / "args.json").write_text(json.dumps(given))
    (fault,) = faults_of(["run", "training", "--args_file", str(tmp_path / "args.json"), "--member", "1"])
    assert fault.endswith("Did you mean --pretrain_epochs?")


def test_a_base_loss_is_named_and_not_put_in_place_unseen(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of `--loss_function#base` would bear the name that `--loss` has: bce."""
    config_file.write_text('{"loss_function": {"base": "$1"}}')
    (tmp_path / "mine.json").write_text('{"+loss_function#base": "$2"}')
    files = f"['{config_file}','{tmp_path / 'mine.json'}']"
    command = ["monai/bundle/__main__.py", "run", "training", "--config_file", files, "--loss_function::base", "$3"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(ValueError, match="base loss must be named by --loss") as caught:
        require_read_keys()
    places = [line.split("got ")[1].split(". Give")[0] for line in str(caught.value).splitlines()]
    assert places == ["+loss_function#base in mine.json", "loss_function::base in the command line"]


def test_an_own_loss_bears_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_loss_of_mine.py").write_text("def gap(*, by=1.0):\n    return lambda z, y: by * z.mean()\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = read_settings(CohortSettings, **VALID | {"loss": "own_loss_of_mine.gap", "loss_parameters": {"by": 2}})
    assert settings.ensemble_name.startswith("own_loss_of_mine.gap-")
    assert settings.make_loss(class_counts=(3, 1))(torch.ones(2), torch.zeros(2)).item() == 2.0
    with pytest.raises(ValueError, match=r"parameters of own_loss_of_mine.gap must be \['by'\], got \['off'\]"):
        read_settings(CohortSettings, **VALID | {"loss": "own_loss_of_mine.gap", "loss_parameters": {"off": 2}})
