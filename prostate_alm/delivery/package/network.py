"""The network that a card describes."""

import json
from collections.abc import Mapping
from typing import Any

from prostate_alm.delivery.card import CARD_KEY, GlandSpec, LesionNetworkSpec, ModelCard, NetworkSpec
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.results.mean_logits import MeanLogits
from prostate_alm.training.lesion_network import DualPathUNet
from prostate_alm.training.networks import CascadeNet

GLAND = "gland"
"""Name of a localiser's network beside the members."""


def member_of(spec: NetworkSpec | LesionNetworkSpec) -> CascadeNet | DualPathUNet:
    """Return one member's network, its weights at random."""
    if isinstance(spec, LesionNetworkSpec):
        return DualPathUNet(spec.path_channels, features=spec.features, strides=spec.strides)
    return CascadeNet(
        spec.spatial_dims, spec.path_channels, features=spec.features, pooling=spec.pooling, outputs=spec.outputs
    )


def network_of(spec: NetworkSpec | LesionNetworkSpec, *, members: int, gland: GlandSpec | None = None) -> MeanLogits:
    """Return the network of an ensemble, its weights at random; a localiser's lies beside the members, as `gland`.

    >>> spec = NetworkSpec(path_channels=(1, 3), features=(2,), pooling=((2, 2, 2),))
    >>> len(network_of(spec, members=3).members)
    3
    """
    network = MeanLogits([member_of(spec) for _ in range(members)])
    if gland is not None:
        network.add_module(GLAND, member_of(gland.network))
    return network


def blank_network(metadata: Mapping[str, Any]) -> MeanLogits:
    """Return the network that the weights of a pack fit: what `network_def` of its inference.json makes.

    Args:
        metadata: content of its metadata.json.

    Raises:
        PackageError: they are those of no pack.
        pydantic.ValidationError: their card breaks its rules.
    """
    if CARD_KEY not in metadata:
        raise PackageError(
            "no_model",
            "inference.json must be that of a packed model, got metadata without a card. "
            "Pack an ensemble with: prostate-alm pack, and run the inference.json in it.",
        )
    checked = ModelCard.model_validate_json(json.dumps(metadata[CARD_KEY]))
    return network_of(checked.network, members=checked.members, gland=checked.gland)
