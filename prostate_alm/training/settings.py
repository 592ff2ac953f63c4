"""What may be set on the command line of a bundle, checked before anything else happens."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import nn

from prostate_alm.dtype import fastest_dtype
from prostate_alm.method.losses import LOSSES, Maker, make_loss, parameters_of
from prostate_alm.training.command_line import bundle_arguments, named_arguments
from prostate_alm.training.config_keys import (
    NOT_OVERRIDES,
    SET_BY_MONAI,
    config_files,
    evaluating_workflow,
    require_read_keys,
)
from prostate_alm.whole_files import sha256_of_file

Sample = dict[str, Any]
"""`label` (0 or 1, or the number of one of several classes), `sample_id`, and what transforms make the image from."""


@dataclass(frozen=True)
class Samples:
    """Samples of a member.

    `test_extra` are the positives that a test set of the class ratio leaves out; `test` and `test_extra` together are
    all test samples. `identity` says in `config.json` which data these are.
    """

    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]
    test_extra: list[Sample]
    identity: dict[str, str]


class Settings(BaseModel, ABC):
    """Settings of one member in any bundle; the defaults are in the bundle's train.json, the ranges are here.

    A bundle adds what its data need: `cohort_member.CohortSettings`, `cifar10_member.Cifar10Settings`.

    `mu0`, `rho` and `delta` are the paper's symbols (Eq. 8, Algorithm 1): penalty coefficient at the start, its factor
    when the validation AUC fell, and the margin between positives and negatives. `threads` is how many threads of a
    processor compute the member: sums are split among them, so its numbers depend on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    member: int = Field(ge=0)
    seed: int = Field(ge=0)
    loss: str
    loss_parameters: dict[str, float]
    alm: bool
    mu0: float = Field(gt=0, allow_inf_nan=False)
    rho: float = Field(ge=1, allow_inf_nan=False)
    delta: float = Field(ge=0, allow_inf_nan=False)
    pretrain_epochs: int = Field(ge=0)
    alm_epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    device: str
    precision: Literal["auto", "float32", "bfloat16"]
    threads: int = Field(ge=1)
    output_dir: Path | None
    tracking_uri: str | None
    parent_run_id: str | None
    resume: bool
    overwrite: bool

    bundle: ClassVar[str]
    """Name of the bundle; its members lie in that folder of `outputs/`."""

    losses: ClassVar[Mapping[str, Maker]] = LOSSES
    """The base losses that the bundle has; `module.function` besides."""

    not_in_config: ClassVar[frozenset[str]] = frozenset(
        {"output_dir", "tracking_uri", "parent_run_id", "resume", "overwrite", "device"}
    )
    """What does not determine the numbers of a run."""

    @property
    @abstractmethod
    def experiment_name(self) -> str:
        """Name of the experiment in MLflow and of its folder of ensembles, e.g. `cifar10-0-1`."""

    @property
    @abstractmethod
    def data_name(self) -> str:
        """What the members of an ensemble are trained on, as the name of a folder, e.g. `1-9`."""

    @property
    def ensemble_name(self) -> str:
        """How the members of an ensemble are trained, as the name of a folder, e.g. `a_fl-alm`."""
        return f"{self.loss}-{'alm' if self.alm else 'baseline'}"

    @abstractmethod
    def read_samples(self) -> Samples:
        """Return the samples of the member; make or fetch the data where they are not given.

        Members that start at the same time would make them several times: call this once before.

        Raises:
            ValueError: the data cannot be used.
        """

    @classmethod
    def of_bundle(cls, **values: Any) -> Self:
        """Return the settings that a bundle's config gives, on a command line or through MONAI's Python API.

        Args:
            values: one for each field.

        Raises:
            ValueError: one line for each key of the config that nothing reads, or setting that breaks its rule.
        """
        require_read_keys()
        return read_settings(cls, **values)

    @property
    def classes(self) -> int:
        """How many classes are told apart."""
        return 2

    @property
    def outputs(self) -> int:
        """How many logits the network must give."""
        return 1

    @property
    def dtype(self) -> torch.dtype:
        """In which precision the network runs; `auto` is the fastest of the device."""
        if self.precision == "auto":
            return fastest_dtype(torch.device(self.device))
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    @model_validator(mode="after")
    def _loss_has_these_parameters(self) -> Self:
        try:
            self.make_loss(class_counts=(1,) * self.classes)
        except TypeError as error:  # a parameter that the loss does not have
            raise ValueError(str(error)) from error
        return self

    def make_loss(self, *, class_counts: tuple[int, ...]) -> nn.Module:
        """Return F(θ); losses that weigh classes get the number of training samples of each.

        Args:
            class_counts: (negatives, positives) of the training samples, or the number of each of several classes.
        """
        needs_counts = "class_counts" in parameters_of(self.loss, self.losses)
        parameters = self.loss_parameters | ({"class_counts": class_counts} if needs_counts else {})
        return self.loss_named(self.loss, parameters)

    def loss_named(self, name: str, parameters: Mapping[str, Any]) -> nn.Module:
        """Return a base loss of the bundle by its name."""
        return make_loss(name, **parameters)

    @field_validator("loss")
    @classmethod
    def _loss_is_known(cls, name: str) -> str:
        try:
            parameters_of(name, cls.losses)
        except ValueError as error:
            raise ValueError(f"must be one of {list(cls.losses)}, or module.function of your own") from error
        return name

    @field_validator("device")
    @classmethod
    def _device_exists(cls, name: str) -> str:
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
        try:
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:
            raise ValueError("must be auto, cpu, or a device that this machine has") from error
        return chosen


S = TypeVar("S", bound=Settings)


def read_settings(kind: type[S], **values: Any) -> S:
    """Validate the settings of a bundle.

    Args:
        kind: the settings that the bundle has.
        values: one for each field.

    Raises:
        ValueError: one line for each setting that breaks its rule.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["type"] != "missing"] or error.errors()
        raise ValueError("\n".join(_fault_in_words(fault) for fault in faults)) from error


def _fault_in_words(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    rule = fault["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not name:  # several settings that do not fit together: the rule names them
        return str(rule)
    rule = rule.removeprefix("must be ")
    return f"{name} must be {rule}, got {fault['input']!r}. Change --{name}."


_SECTIONS = ("network_def", "optimizer", "read_and_normalise", "centre_crop", "augment")
_TRANSFORMS = ("read_and_normalise", "centre_crop")


def bundle_configuration(kind: type[Settings]) -> dict[str, Any]:
    """Return what determines a run besides its settings; a resumed run must have the same.

    Args:
        kind: the settings that the bundle has; they are recorded as such.

    Returns:
        `config_files` by checksum and `overrides`, as a command line gives them; `config_sha256` of the whole config as
        it is evaluated, without settings and places; `described`, the parts of it that a reader asks for.
    """
    named = named_arguments(bundle_arguments())
    files = config_files(named.get("config_file", ""))
    overrides = {name: value for name, value in named.items() if name not in NOT_OVERRIDES | set(kind.model_fields)}
    return {
        "config_files": {path.name: sha256_of_file(path) for path in files},
        "overrides": overrides,
        **_evaluated(kind),
    }


def _evaluated(kind: type[Settings]) -> dict[str, Any]:
    workflow = evaluating_workflow()
    if workflow is None:
        return {}
    config: dict[str, Any] = workflow.parser.get()
    places = {"bundle_root", "_meta_", *SET_BY_MONAI, *kind.model_fields}
    own = _plain({name: value for name, value in config.items() if name not in places})
    own.get("train", {}).get("trainer", {}).pop("max_epochs", None)  # MONAI's tools set it: how long, not what
    content = json.dumps(own, sort_keys=True).encode()
    described = {name: _followed(config[name], config) for name in _SECTIONS if name in config}
    return {
        "config_sha256": hashlib.sha256(content).hexdigest(),
        "described": _plain(described),
    }


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a config as JSON holds it; objects that a program put into it by their names."""
    content: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return content


def _followed(node: Any, config: Mapping[str, Any]) -> Any:
    """Return a part of a config with what its references lead to; expressions stay as they are written."""
    if isinstance(node, Mapping):
        return {key: _followed(value, config) for key, value in node.items()}
    if isinstance(node, list):
        return [_followed(value, config) for value in node]
    if isinstance(node, str) and node.startswith("@") and node[1:] in config:
        return _followed(config[node[1:]], config)
    return node


def parameters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return what MLflow shows of `bundle_configuration`: network, optimizer, transforms, config files, overrides."""
    described = configuration.get("described", {})
    steps = [step["_target_"].rpartition(".")[2] for name in _TRANSFORMS for step in described.get(name, [])]
    return {
        "config_files": configuration["config_files"],
        "overrides": configuration["overrides"],
        "transforms": ", ".join(steps) or None,
        "augment": described.get("augment"),
        "network_def": described.get("network_def"),
        "optimizer_def": described.get("optimizer"),
    }
