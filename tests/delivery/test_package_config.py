"""The settings of a training that a pack can repeat, as MONAI reads them, and those that it cannot."""

import json

import pytest
import torch
from monai.bundle import ConfigParser
from packs import BUNDLE

from prostate_alm.delivery.package.config import read_specs
from prostate_alm.delivery.package.zip_files import PackageError

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"spacing_mm": [1.0, 1.0, 3.0], "image_size": "[32, 32, 16]"},
        {"network_def#features": "[4,8,16]", "network_def::pooling#0": [1, 1, 1]},
        {"network_def#path_channels": "[4]", "cached_size": [44, 46, 22]},
    ],
)
def test_settings_are_read_as_monai_reads_them(overrides: dict[str, object]) -> None:
    network, grid = read_specs(BUNDLE / "train.json", overrides, b_values_s_per_mm2=(0.0, 800.0))
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "train.json"))
    parser.update({key: json.loads(value) if isinstance(value, str) else value for key, value in overrides.items()})
    built = parser.get_parsed_content("network_def")
    assert tuple(built.path_channels) == network.path_channels
    assert [m.out_channels for m in built.paths[0] if hasattr(m, "out_channels")] == list(network.features)
    assert [m.kernel_size for m in built.paths[0] if isinstance(m, torch.nn.MaxPool3d)] == list(network.pooling)
    assert list(grid.spacing_mm) == parser.get_parsed_content("spacing_mm")
    assert list(grid.normalised_size) == parser.get_parsed_content("cached_size")
    assert list(grid.image_size) == parser.get_parsed_content("image_size")
    assert grid.b_values_s_per_mm2 == (0.0, 800.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"read_and_normalise#2#mode": "nearest"}, "read_and_normalise must be that of bundles/prostate"),
        ({"read_and_normalise#1#axcodes": "RAS"}, "read_and_normalise must be that of bundles/prostate"),
        ({"centre_crop": []}, "centre_crop must be that of bundles/prostate"),
        ({"network_def#_target_": "monai.networks.nets.DenseNet121"}, "network_def must be that of bundles/prostate"),
        ({"image_size": "$[1] * 3"}, "image_size must be valid"),
        ({"image_size": [64, 40, 20]}, "image_size must lie within normalised_size"),
        ({"no_such#key": 1}, "overrides must be of keys that the config has, got no_such#key"),
    ],
)
def test_settings_that_prediction_cannot_repeat_are_refused(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        read_specs(BUNDLE / "train.json", overrides, b_values_s_per_mm2=(0.0, 800.0))
