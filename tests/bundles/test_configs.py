"""Every string in a bundle's files means something."""

import json
import pydoc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def targets(node: Any) -> Iterator[str]:
    """Yield each `_target_` of a config."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"]
    for child in children:
        yield from targets(child)


@pytest.mark.parametrize("bundle", ["prostate", "cifar10"])
def test_each_target_of_the_configs_exists(bundle: str) -> None:
    files = [path for path in (BUNDLES / bundle).glob("*.json") if path.name != "metadata.json"]
    names = {name for path in files for name in targets(json.loads(path.read_text()))}
    assert len(names) > 8
    assert [name for name in names if pydoc.locate(name) is None] == []


@pytest.mark.parametrize("bundle", ["prostate", "cifar10"])
def test_the_settings_of_the_config_are_those_of_its_class(bundle: str) -> None:
    config = json.loads((BUNDLES / bundle / "train.json").read_text())
    given = {key: value for key, value in config["given_settings"].items() if key != "_target_"}
    kind = pydoc.locate(config["given_settings"]["_target_"].rpartition(".")[0])
    assert set(given) == set(kind.model_fields)
    assert all(value == f"@{key}" and key in config for key, value in given.items())


@pytest.mark.parametrize("bundle", ["prostate", "cifar10"])
def test_the_network_takes_what_the_metadata_say(bundle: str) -> None:
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLES / bundle / "train.json"))
    image = json.loads((BUNDLES / bundle / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    if bundle == "prostate":
        assert parser.get_parsed_content("image_size") == image["spatial_shape"]
    network = parser.get_parsed_content("network_def")
    assert network(torch.zeros(2, image["num_channels"], *image["spatial_shape"])).shape == (2, 1)
