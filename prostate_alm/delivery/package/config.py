"""Network and grid in the config of a bundle: what of it a packed model can repeat, as data."""

import ast
import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prostate_alm.delivery.card import GridSpec, LesionNetworkSpec, NetworkSpec
from prostate_alm.delivery.package.zip_files import PackageError


@dataclass(frozen=True)
class _Bundle:
    """What of a bundle's config prediction repeats: its network, and its transforms by name and arguments."""

    name: str
    network: str
    spec: type[NetworkSpec] | type[LesionNetworkSpec]
    reading: tuple[tuple[str, dict[str, Any]], ...]
    crop: tuple[str, dict[str, Any]]


_READ = ("LoadImaged", {"reader": "NibabelReader", "ensure_channel_first": True, "image_only": True})
_TURN = ("Orientationd", {"axcodes": "LPS", "labels": None})
_CUT = ("ResizeWithPadOrCropd", {"spatial_size": "@cached_size", "mode": "edge"})
_LAST: tuple[tuple[str, dict[str, Any]], ...] = (
    ("NormalizeIntensityd", {"channel_wise": True}),
    ("ConcatItemsd", {"name": "image"}),
    ("EnsureTyped", {"dtype": "$torch.float32", "track_meta": False}),
    ("SelectItemsd", {}),
)
_BUNDLES = (
    _Bundle(
        name="prostate",
        network="prostate_alm.training.networks.CascadeNet",
        spec=NetworkSpec,
        reading=(_READ, _TURN, ("Spacingd", {"pixdim": "@spacing_mm", "mode": "bilinear"}), _CUT, *_LAST),
        crop=("CenterSpatialCropd", {"roi_size": "@image_size"}),
    ),
    _Bundle(
        name="lesions",
        network="prostate_alm.training.lesion_network.DualPathUNet",
        spec=LesionNetworkSpec,
        reading=(
            _READ,
            _TURN,
            ("Spacingd", {"pixdim": "@spacing_mm", "mode": ["bilinear", "bilinear", "nearest"]}),
            _CUT,
            ("CropLesions", {"size": "@cached_size"}),
            *_LAST,
        ),
        crop=("CropStack", {"size": "@image_size"}),
    ),
)
BUNDLES = tuple(bundle.name for bundle in _BUNDLES)
"""Those whose ensembles can be packed."""
_AROUND_GLAND = ("CropToGland", {"_disabled_": "$@crop != 'gland'", "size": "@cached_size"})
OF_CLASSES = "findings.json"
"""The overlay for several findings: it changes the network's outputs, and nothing of what it sees."""
_OUTPUTS = "$@settings.classes"
_SETTINGS = {"spacing_mm": "spacing_mm", "normalised_size": "cached_size", "image_size": "image_size"}
"""Field of `GridSpec` -> key of the config."""


def merged_config(files: Sequence[Path]) -> bytes:
    """Return the content of a config file; of one with overlays, what MONAI makes of them, as JSON. Nothing is run."""
    if len(files) == 1:
        return files[0].read_bytes()
    from monai.bundle import ConfigParser  # takes seconds, which a pack of two classes does without

    return (json.dumps(ConfigParser.load_config_files([str(file) for file in files]), indent=4) + "\n").encode()


def read_specs(
    config_file: Path,
    overrides: Mapping[str, Any],
    *,
    bundle: str = "prostate",
    b_values_s_per_mm2: Sequence[float],
    overlays: Sequence[Path] = (),
    classes: int | None = None,
) -> tuple[NetworkSpec | LesionNetworkSpec, GridSpec]:
    """Return network and grid of a bundle's config with the overrides of an ensemble.

    The config is read as data, and nothing in it is evaluated: an ensemble whose settings are expressions, or that
    reads volumes in another way than `delivery.preprocess` does, cannot be packed.

    Args:
        config_file: train.json of the bundle.
        overrides: as the bundle command takes them: `network_def#features` -> [8, 16, 32], or that as a text.
        bundle: its name, one of `BUNDLES`.
        b_values_s_per_mm2: of the cohort.
        overlays: files that are laid over it.
        classes: how many the settings name; None where there are two.

    Raises:
        PackageError: the config is not what prediction repeats, or a value breaks its rule.
    """
    known = next(one for one in _BUNDLES if one.name == bundle)
    config = _overridden(json.loads(merged_config([config_file, *overlays])), overrides, config_file)
    _require_known_reading(config, config_file, known)
    network = _network(config, known, classes)
    grid = {field: _resolved(config.get(key), config) for field, key in _SETTINGS.items()}
    try:
        return (
            known.spec.model_validate_json(json.dumps(network)),
            GridSpec.model_validate_json(json.dumps(grid | {"b_values_s_per_mm2": list(b_values_s_per_mm2)})),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise PackageError(
            "not_packable",
            f"{'.'.join(map(str, first['loc']))} must be valid, got {first['input']!r} in {config_file} and its "
            f"overrides: {first['msg']}. Train with other settings.",
        ) from error


def _network(config: Mapping[str, Any], known: _Bundle, classes: int | None) -> dict[str, Any]:
    """Return what the config says of the network, and of maps the temperature that makes a case's logit of them."""
    network = {key: _resolved(config["network_def"].get(key), config) for key in known.spec.model_fields}
    if known.spec is LesionNetworkSpec:
        return network | {"temperature": config.get("temperature")}
    network["outputs"] = classes if network["outputs"] == _OUTPUTS else network["outputs"] or 1
    return network


def _overridden(config: dict[str, Any], overrides: Mapping[str, Any], config_file: Path) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    for name, value in overrides.items():
        *path, last = re.split("#|::", name)
        node: Any = changed
        try:
            for part in path:
                node = node[int(part) if isinstance(node, list) else part]
            node[int(last) if isinstance(node, list) else last] = _literal(value)
        except (LookupError, ValueError, TypeError) as error:
            raise PackageError(
                "not_packable",
                f"overrides must be of keys that the config has, got {name} for {config_file}. Give the bundle that "
                "the ensemble was trained with.",
            ) from error
    return changed


def _literal(value: Any) -> Any:
    """Return an override as the bundle command reads it: a literal of Python, or a word."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def _resolved(value: Any, config: Mapping[str, Any]) -> Any:
    """Follow a reference to another key of the config, once."""
    return config.get(value[1:]) if isinstance(value, str) and value.startswith("@") else value


def _require_known_reading(config: Mapping[str, Any], config_file: Path, bundle: _Bundle) -> None:
    steps = [_step(step) for step in config["read_and_normalise"]]
    known = {
        "network_def": config["network_def"].get("_target_") == bundle.network,
        "read_and_normalise": [step for step in steps if step != _AROUND_GLAND] == list(bundle.reading),
        "centre_crop": [_step(step) for step in config["centre_crop"]] == [bundle.crop],
    }
    for key, is_known in known.items():
        if not is_known:
            raise PackageError(
                "not_packable",
                f"{key} must be that of bundles/{bundle.name}, which prediction repeats, got another in {config_file} "
                "or overrides. Train without that change.",
            )


def _step(step: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a transform's name and arguments without the keys that it works on."""
    arguments = {key: value for key, value in step.items() if key not in ("_target_", "keys")}
    return str(step["_target_"]).rpartition(".")[2], arguments
