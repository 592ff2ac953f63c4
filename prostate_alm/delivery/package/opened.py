"""A trained ensemble as one file, in the shape of a MONAI bundle, and that file as a network that is ready to use."""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.package import zip_files
from prostate_alm.delivery.package.described import DescribedModel, describe_package, invalid_model
from prostate_alm.delivery.package.network import GLAND, member_of, network_of
from prostate_alm.delivery.package.trust import Trust
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.prediction import ModelIdentity
from prostate_alm.results.mean_logits import MeanLogits
from prostate_alm.training.gland_localiser import Localiser

_TENSORS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage"}
_INDEX_BYTES = 2 << 20  # of the list of tensors; a thousand members of the default network have 1.5 MB
_ROOM = 64  # bytes by which a storage may be longer than its tensor


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A packed model in memory: what it says of itself, which one it is, and its network, (B, C, X, Y, Z) -> (B, 1)."""

    card: ModelCard
    identity: ModelIdentity
    network: MeanLogits
    localiser: Localiser | None = None


def open_package(path: Path, *, trust: Trust | None = None) -> PackedModel:
    """Open a packed model: the zip, or the folder that it was unpacked to.

    Runs no code of the pack: the card is JSON that is validated, the weights load with `weights_only`, and the network
    is this package's own.

    Args:
        path: the zip or the folder.
        trust: who must have packed it; None for anybody.

    Returns:
        The model in evaluation mode, on the CPU, its weights without gradients.

    Raises:
        PackageError: not a packed model, or one that is unsafe, incomplete, tampered with, not trusted, newer than this
            package, or whose parts do not fit together; `code` tells which.
    """
    return open_described(describe_package(path, trust=trust), name=path.name)


def open_described(described: DescribedModel, *, name: str) -> PackedModel:
    """Open a packed model that was described before; see `open_package`.

    Args:
        described: of `describe_package`.
        name: of its file, for messages.
    """
    card = described.card
    state = _read_weights(described.weights, name)
    _require_fit(state, card, name)
    network = network_of(card.network, members=card.members, gland=card.gland)
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return PackedModel(card, described.identity, network, _localiser(network, card))


def _localiser(network: MeanLogits, card: ModelCard) -> Localiser | None:
    if card.gland is None:
        return None
    return Localiser(network.get_submodule(GLAND), spacing_mm=card.gland.spacing_mm, size=card.gland.size)


def _read_weights(content: bytes, name: str) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:  # weights are a zip, too
            size = sum(entry.file_size for entry in inner.infolist())
            if size > zip_files.PackLimits().model_bytes:
                raise PackageError("unsafe_model", f"weights must be small, got {size} bytes in {name}. Get it again.")
            foreign = set(_needed(inner)) - _TENSORS
        if foreign:
            raise invalid_model("weights must be tensors by name, got something else", name)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, PackageError):
            raise
        raise invalid_model("weights must be tensors by name, got something else", name) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise invalid_model("weights must be tensors by name, got something else", name)
    for key, value in state.items():
        if not 0 <= value.untyped_storage().nbytes() - value.nbytes <= _ROOM:  # a stride of 0 repeats one number
            raise invalid_model(f"weights must be stored number by number, got others at {key!r}", name)
    return state


def _needed(inner: zipfile.ZipFile) -> Iterator[str]:
    """Yield what the index of the tensors asks to be called, before anything is: a `bytearray` may take all memory."""
    for entry in inner.infolist():
        if entry.filename.endswith(".pkl"):
            if entry.file_size > _INDEX_BYTES:
                yield f"an index of {entry.file_size} bytes"
                return
            for code, argument, _ in pickletools.genops(inner.read(entry)):
                if code.name == "GLOBAL":
                    yield str(argument)
                elif code.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                    yield code.name


def _require_fit(state: dict[str, Tensor], card: ModelCard, name: str) -> None:
    """Compare the weights with what the card says, which bounds their number, before all members are made."""
    member = member_of(card.network).state_dict()
    expected = {
        f"members.{number}.{key}": value.shape for number in range(card.members) for key, value in member.items()
    }
    if card.gland is not None:
        own = member_of(card.gland.network).state_dict()
        expected |= {f"{GLAND}.{key}": value.shape for key, value in own.items()}
    if {key: value.shape for key, value in state.items()} != expected:
        raise invalid_model(f"weights must be those of {card.members} members as the card describes, got others", name)
    for key, value in state.items():
        if value.dtype != torch.float32 or not value.isfinite().all():
            raise invalid_model(f"weights must be finite float32, got others at {key}", name)
