"""Every string in a bundle's files means something."""

import inspect
import json
import pydoc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


CONFIGS = sorted(path for path in BUNDLES.glob("*/*.json") if path.name != "metadata.json")
FROM_THE_METADATA = "_meta_"


def parts(node: Any) -> Iterator[Any]:
    """Yield a config and all that is in it."""
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts(child)


def whole(path: Path) -> dict[str, Any]:
    """Return a config as it is run: what is laid over another is read together with it."""
    parser = ConfigParser()
    first = path.stem.partition("_")[0]
    base = path.with_name(f"{first}.json" if first in ("evaluate", "inference") else "train.json")
    is_overlay = path.name not in ("train.json", "evaluate.json", "inference.json")
    parser.read_config([base, path] if is_overlay else path)
    config: dict[str, Any] = parser.config
    return config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_target_exists_and_takes_its_arguments(path: Path) -> None:
    built = [node for node in parts(whole(path)) if isinstance(node, dict) and "_target_" in node]
    assert len(built) >= 1
    for node in built:
        parameters = inspect.signature(pydoc.locate(node["_target_"])).parameters
        given = {key for key in node if not key.startswith("_")}
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            assert given - set(parameters) == set(), node["_target_"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_reference_leads_to_a_key_and_each_import_to_a_module(path: Path) -> None:
    config = whole(path)
    strings = [part for part in parts(config) if isinstance(part, str)]
    named = {name for text in strings for name in re.findall(r"@(\w+)", text)}
    assert len(named) >= 3
    assert named - set(config) <= {FROM_THE_METADATA}
    for line in config["imports"]:
        exec(line.removeprefix("$"), {})


@pytest.mark.parametrize(
    "path",
    [
        *("prostate/train.json", "prostate/findings.json", "lesions/train.json"),
        *("cifar10/train.json", "cifar10/long_tailed.json"),
    ],
)
def test_the_settings_of_the_config_are_those_of_its_class(path: str) -> None:
    config = whole(BUNDLES / path)
    given = {key: value for key, value in config["given_settings"].items() if key != "_target_"}
    kind = pydoc.locate(config["given_settings"]["_target_"].rpartition(".")[0])
    assert set(given) == set(kind.model_fields)
    assert all(value == f"@{key}" and key in config for key, value in given.items())


@pytest.mark.parametrize("bundle", ["prostate", "cifar10", "lesions", "gland"])
def test_the_network_takes_what_the_metadata_say(bundle: str) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLES / bundle / "train.json"))
    image = json.loads((BUNDLES / bundle / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    if bundle != "cifar10":
        assert parser.get_parsed_content("image_size") == image["spatial_shape"]
    network = parser.get_parsed_content("network_def")
    assert network(torch.zeros(2, image["num_channels"], *image["spatial_shape"])).shape == (
        (2, 1, *image["spatial_shape"]) if bundle in ("lesions", "gland") else (2, 1)
    )
