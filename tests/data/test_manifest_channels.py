"""Which diffusion volumes a cohort has, what a network takes, and that version 1 stays what it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from prostate_alm.data.manifest import Manifest, ManifestError, require_channels, write_manifest
from prostate_alm.delivery.package.config import read_specs

TRAIN = Path(__file__).resolve().parents[2] / "bundles" / "prostate" / "train.json"
STUDY: dict[str, Any] = {
    "id": "a", "patient": "p", "label": 1, "split": "train",
    "t2": {"path": "c/a/t2.nii.gz", "sha256": "0" * 64}, "dwi": {"path": "c/a/dwi.nii.gz", "sha256": "1" * 64},
}  # fmt: skip
OF_B_VALUES = {
    "schema_version": 1,
    "name": "c",
    "b_values_s_per_mm2": [100.0, 600.0, 1000.0],
    "provenance": {"created_by": "test", "labels_sha256": "2" * 64},
    "studies": [STUDY | {"b_values_acquired_s_per_mm2": [50.0], "b_values_computed": [True] * 3}],
}
OF_CHANNELS = OF_B_VALUES | {
    "schema_version": 2,
    "b_values_s_per_mm2": [],
    "diffusion_channels": ["adc", "high_b"],
    "studies": [STUDY | {"b_values_acquired_s_per_mm2": [], "b_values_computed": []}],
}


def manifest_of(content: dict[str, Any]) -> Manifest:
    return Manifest.model_validate_json(json.dumps(content))


def test_a_cohort_of_b_values_is_written_without_the_field_of_version_2(tmp_path: Path) -> None:
    write_manifest(manifest_of(OF_B_VALUES), tmp_path / "c.json")
    assert "diffusion_channels" not in json.loads((tmp_path / "c.json").read_text())
    write_manifest(manifest_of(OF_CHANNELS), tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text())["diffusion_channels"] == ["adc", "high_b"]


FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "and not both": (OF_CHANNELS, {"b_values_s_per_mm2": [100.0]}),
    "there must be b_values": (OF_CHANNELS, {"diffusion_channels": []}),
    "must be distinct": (OF_CHANNELS, {"diffusion_channels": ["adc", "adc"]}),
    "schema_version must be 2 for diffusion_channels, got 1": (OF_CHANNELS, {"schema_version": 1}),
    "schema_version must be 1 for b_values_s_per_mm2, got 2": (OF_B_VALUES, {"schema_version": 2}),
    "must hold at least one b-value": (
        OF_B_VALUES,
        {"studies": [STUDY | {"b_values_acquired_s_per_mm2": [], "b_values_computed": [True] * 3}]},
    ),
    "one flag per b-value": (
        OF_CHANNELS,
        {"studies": [STUDY | {"b_values_acquired_s_per_mm2": [], "b_values_computed": [True]}]},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_channels_and_b_values_do_not_mix(fault: str) -> None:
    content, change = FAULTS[fault]
    with pytest.raises(ValueError, match=fault):
        manifest_of(content | change)


@pytest.mark.parametrize(("content", "channels"), [(OF_B_VALUES, 3), (OF_CHANNELS, 2)])
def test_the_network_of_the_bundle_takes_the_volumes_of_the_cohort(
    content: dict[str, Any], channels: int, tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    write_manifest(manifest_of(content), path)
    require_channels(path, [1, channels])
    require_channels(path, [4])  # a network of one path: the transforms say what it sees
    other = [1, 5 - channels]
    with pytest.raises(ManifestError, match=rf'got \[1, {5 - channels}\] for .*--path_channels "\[1, {channels}\]"'):
        require_channels(path, other)
    parser = ConfigParser(ConfigParser.load_config_file(TRAIN))
    parser.update({"path_channels": [1, channels], "manifest": str(path)})
    network = parser.get_parsed_content("network_def")
    assert network(torch.zeros(2, 1 + channels, 16, 16, 8)).shape == (2, 1)


def test_a_mismatch_is_refused_by_the_bundle(tmp_path: Path) -> None:
    write_manifest(manifest_of(OF_CHANNELS), tmp_path / "c.json")
    parser = ConfigParser(ConfigParser.load_config_file(TRAIN))
    parser.update({"manifest": str(tmp_path / "c.json")})
    parser.get_parsed_content("initialize#0")
    with pytest.raises(RuntimeError) as refused:  # of MONAI, from ours
        parser.get_parsed_content("initialize#1")
    cause: BaseException = refused.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert str(cause).startswith("path_channels must be [1, 2]")


def test_packing_reads_the_channels_as_the_bundle_does() -> None:
    network, _ = read_specs(TRAIN, {}, b_values_s_per_mm2=(100.0, 600.0, 1000.0))
    assert network.path_channels == (1, 3)
    network, _ = read_specs(TRAIN, {"path_channels": "[1, 2]"}, b_values_s_per_mm2=(100.0, 1000.0))
    assert network.path_channels == (1, 2)
