"""A trained ensemble as one file, in the shape of a MONAI bundle, and that file as a network that is ready to use."""

import io
import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from prostate_alm.delivery.card import CARD_KEY, FORMAT_VERSION, ModelCard
from prostate_alm.delivery.package import archive
from prostate_alm.delivery.package.archive import PackageError
from prostate_alm.delivery.package.network import member_of, network_of
from prostate_alm.delivery.prediction import ModelIdentity
from prostate_alm.training.networks import MeanLogits


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A packed model in memory: what it says of itself, which one it is, and its network, (B, C, X, Y, Z) -> (B, 1)."""

    card: ModelCard
    identity: ModelIdentity
    network: MeanLogits


def open_package(path: Path) -> PackedModel:
    """Open a packed model: the zip, or the folder that it was unpacked to.

    Runs no code of the pack: the card is JSON that is validated, the weights load with `weights_only`, and the network
    is this package's own.

    Args:
        path: the zip or the folder.

    Returns:
        The model in evaluation mode, on the CPU, its weights without gradients.

    Raises:
        PackageError: not a packed model, or one that is unsafe, incomplete, tampered with, newer than this package, or
            whose parts do not fit together; `code` tells which.
    """
    content = archive.read_content(path)
    card = _read_card(content.files[archive.METADATA], path.name)
    state = _read_weights(content.files[archive.MODEL], path.name)
    _require_fit(state, card, path.name)
    network = network_of(card.network, members=card.members)
    network.load_state_dict(state)
    identity = ModelIdentity(
        name=card.name,
        version=card.version,
        sha256=content.sha256,
        members=card.members,
        trained_on=card.data,
        data_is_synthetic=card.data_is_synthetic,
    )
    return PackedModel(card, identity, network.eval().requires_grad_(False))


def _read_card(content: bytes, name: str) -> ModelCard:
    try:
        card = json.loads(content)[CARD_KEY]
        newer = card["format_version"] > FORMAT_VERSION
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _invalid(f"{archive.METADATA} must hold a card, got {type(error).__name__}", name) from error
    if newer:
        raise PackageError(
            "newer_model",
            f"model must have format version {FORMAT_VERSION} at most, got {card['format_version']} in {name}. "
            "Update prostate-alm.",
        )
    try:
        return ModelCard.model_validate_json(json.dumps(card))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole card"
        rule = first["msg"].removeprefix("Value error, ")
        raise _invalid(f"the card must be valid, got at {place}: {rule}", name) from error


def _read_weights(content: bytes, name: str) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:  # weights are a zip, too
            size = sum(entry.file_size for entry in inner.infolist())
        if size > archive.Limits().model_bytes:
            raise PackageError("unsafe_model", f"weights must be small, got {size} bytes in {name}. Get it again.")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise _invalid("weights must be tensors by name, got something else", name) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _invalid("weights must be tensors by name, got something else", name)
    return state


def _require_fit(state: dict[str, Tensor], card: ModelCard, name: str) -> None:
    """Compare the weights with what the card says before a network of that size is made."""
    with torch.device("meta"):
        member = member_of(card.network).state_dict()
    expected = {
        f"members.{number}.{key}": value.shape for number in range(card.members) for key, value in member.items()
    }
    if {key: value.shape for key, value in state.items()} != expected:
        raise _invalid(f"weights must be those of {card.members} members as the card describes, got others", name)
    for key, value in state.items():
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise _invalid(f"weights must be finite float32, got others at {key}", name)


def _invalid(fault: str, name: str) -> PackageError:
    return PackageError("invalid_model", f"{fault} in {name}. Pack the ensemble again.")
