"""What a packed model says of itself, read without its network: asking does not wait for torch."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from prostate_alm.delivery.card import CARD_KEY, GLAND_FORMAT_VERSION, ModelCard
from prostate_alm.delivery.package import zip_files
from prostate_alm.delivery.package.config import OF_CLASSES, merged_config
from prostate_alm.delivery.package.trust import Trust
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.prediction import ModelIdentity
from prostate_alm.shipped import shipped_bundle

logger = logging.getLogger(__name__)

_CONFIGS = {zip_files.INFERENCE: "inference.json", zip_files.MEMBER_TRAINING: "train.json"}
"""Config files in a pack, which MONAI's commands execute -> their names in the bundle."""


@dataclass(frozen=True, eq=False)
class DescribedModel:
    """A packed model whose files are whole: what it says of itself, which one it is, and its weights as stored."""

    card: ModelCard
    identity: ModelIdentity
    weights: bytes = field(repr=False)


def describe_package(path: Path, *, trust: Trust | None = None) -> DescribedModel:
    """Read a packed model, the zip or the folder that it was unpacked to, up to its weights.

    Args:
        path: the zip or the folder.
        trust: who must have packed it; None for anybody, and a warning where its configs are not those of this version.

    Raises:
        PackageError: not a packed model, or one that is unsafe, incomplete, tampered with, not trusted or newer than
            this package; `code` tells which.
    """
    content = zip_files.read_content(path)
    if trust is not None:
        trust.require(content, path.name)
    elif foreign := [name for name in _CONFIGS if not _is_own(name, content.files[name])]:
        logger.warning(
            "%s in %s: not what this version of prostate-alm writes. MONAI's commands would run what it says; predict "
            "and watch do not.",
            " and ".join(foreign),
            path.name,
        )
    card = _read_card(content.files[zip_files.METADATA], path.name)
    identity = ModelIdentity(
        name=card.name,
        version=card.version,
        sha256=content.sha256,
        members=card.members,
        trained_on=card.data,
        data_is_synthetic=card.data_is_synthetic,
    )
    return DescribedModel(card, identity, content.files[zip_files.MODEL])


def _is_own(name: str, content: bytes) -> bool:
    """Return whether a config is one that is shipped; of several classes, with the overlay for them."""
    own = shipped_bundle("prostate") / _CONFIGS[name]
    if content == own.read_bytes() or name != zip_files.MEMBER_TRAINING:
        return content == own.read_bytes()
    of_lesions, overlay = shipped_bundle("lesions") / _CONFIGS[name], own.with_name(OF_CLASSES)
    return content == of_lesions.read_bytes() or content == merged_config((own, overlay))


def _read_card(content: bytes, name: str) -> ModelCard:
    try:
        card = json.loads(content)[CARD_KEY]
        newer = card["format_version"] > GLAND_FORMAT_VERSION
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise invalid_model(f"{zip_files.METADATA} must hold a card, got {type(error).__name__}", name) from error
    if newer:
        raise PackageError(
            "newer_model",
            f"model must have format version {GLAND_FORMAT_VERSION} at most, got {card['format_version']} in {name}. "
            "Update prostate-alm.",
        )
    try:
        return ModelCard.model_validate_json(json.dumps(card))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole card"
        rule = first["msg"].removeprefix("Value error, ")
        raise invalid_model(f"the card must be valid, got at {place}: {rule}", name) from error


def invalid_model(fault: str, name: str) -> PackageError:
    """Return the error of a pack whose parts are not what they must be."""
    return PackageError("invalid_model", f"{fault} in {name}. Pack the ensemble again.")
