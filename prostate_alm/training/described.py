"""What a run is made of besides its settings: the config as it is evaluated, overlays and overrides merged."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from prostate_alm.training.command_line import bundle_arguments, named_arguments
from prostate_alm.training.config_keys import NOT_OVERRIDES, SET_BY_MONAI, config_files, evaluating_workflow
from prostate_alm.training.settings import Settings
from prostate_alm.whole_files import sha256_of_file

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
