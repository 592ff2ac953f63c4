"""From a trained ensemble to a packed model: its card, its metadata as MONAI wants them, its files."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch

from prostate_alm import __version__
from prostate_alm.delivery.card import (
    CARD_KEY,
    CLASSES_FORMAT_VERSION,
    CONFIDENCE,
    FORMAT_VERSION,
    GLAND_FORMAT_VERSION,
    LESIONS_FORMAT_VERSION,
    LesionNetworkSpec,
    ModelCard,
    PlattCalibration,
    StoredOperatingPoint,
    ValidationScores,
)
from prostate_alm.delivery.package import zip_files
from prostate_alm.delivery.package.config import merged_config
from prostate_alm.delivery.package.lesions import lesions_spec
from prostate_alm.delivery.package.readme import model_card_text
from prostate_alm.delivery.package.trained import Origins, TrainedEnsemble, read_ensemble
from prostate_alm.delivery.package.trust import read_signing_key
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.method.calibration import fit_platt
from prostate_alm.method.operating_point import choose_operating_point
from prostate_alm.progress import Progress, silent
from prostate_alm.training.out_of_fold import OutOfFold

TARGET_TPRS = (0.95, 0.9, 0.975, 1.0)
"""Targets of the operating points when none are given; the first is the default of the pack."""

_DRAWN = "1 = somebody drew a lesion in the study, 0 = nobody did"
_SYNTHETIC_ID, _SYNTHETIC_SOURCE = "PHANTOM-", "synthetic studies of prostate-alm"


@dataclass(frozen=True)
class PackLabel:
    """What a pack is called, and who answers for it.

    Attributes:
        name: of the model and of the folder in the zip; None for that of the output.
        version: of the model, in words.
        licence: text file with the licence of the weights; None for that of this package.
        key: PEM file of the Ed25519 private key that signs it; None for a pack without a signature.
    """

    name: str | None = None
    version: str = "1"
    licence: Path | None = None
    key: Path | None = None


def pack_ensemble(
    folder: Path,
    output: Path,
    *,
    origins: Origins | None = None,
    label: PackLabel | None = None,
    target_tprs: Sequence[float] = TARGET_TPRS,
    overwrite: bool = False,
    progress: Progress = silent,
) -> ModelCard:
    """Pack a trained and evaluated ensemble of the prostate or the lesions bundle into one zip; same input, same bytes.

    The zip has one folder of the shape of a MONAI bundle. The operating points and the calibration come from the
    members' validation logits, one a study (`training.out_of_fold`), the thresholds of candidates from their maps.

    Args:
        folder: of the ensemble.
        output: the zip to write.
        origins: where bundle, cohort and localiser lie; None where the ensemble says so.
        label: name, version, licence and signature; None for the defaults.
        target_tprs: of the operating points, each in (0, 1]; the first is the default.
        overwrite: replace an output that is there.
        progress: called with the studies read and in all.

    Returns:
        The card.

    Raises:
        PackageError: the ensemble cannot be packed; one line that says what to do.
        ManifestError: the manifest cannot be read.
        ValueError: the key is no such key.
        OSError: the output cannot be written.
    """
    label = label or PackLabel()
    sign = None if label.key is None else read_signing_key(label.key).sign
    name = output.stem if label.name is None else label.name
    _require_arguments(output, name, target_tprs, overwrite=overwrite)
    ensemble = read_ensemble(folder, origins or Origins(), progress=progress)
    card = make_card(ensemble, target_tprs=target_tprs, name=name, version=label.version)
    files = {
        zip_files.METADATA: _json(_metadata(ensemble, card)),
        zip_files.INFERENCE: ensemble.inference.read_bytes(),
        zip_files.MEMBER_TRAINING: merged_config(ensemble.training_config),
        zip_files.MODEL: _weights(ensemble),
        zip_files.README: model_card_text(ensemble, card).encode(),
        zip_files.LICENSE: label.licence.read_bytes() if label.licence else _own_licence(),
    }
    zip_files.write_archive(output, files, name=name, sign=sign)
    return card


def _require_arguments(output: Path, name: str, target_tprs: Sequence[float], *, overwrite: bool) -> None:
    if output.exists() and (not overwrite or output.is_dir()):
        raise PackageError(
            "not_packable", f"output must be a new file, got {output}, which exists. Choose another or give --overwrite"
        )
    if not zip_files.NAME_PATTERN.fullmatch(name):
        raise PackageError(
            "not_packable", f"name must be letters, digits, '.', '_' and '-', got {name!r}. Give --name, for example p1"
        )
    for target in target_tprs:
        if not 0 < target <= 1:
            raise PackageError("not_packable", f"target_tpr must be in (0, 1], got {target:g}. Give --target-tpr 0.95")
    if len(set(target_tprs)) != len(target_tprs) or not target_tprs:
        raise PackageError(
            "not_packable", f"target_tpr must be one or more distinct values, got {list(target_tprs)}. Give each once."
        )


def make_card(ensemble: TrainedEnsemble, *, target_tprs: Sequence[float], name: str, version: str) -> ModelCard:
    """Return what a packed model says of itself.

    Args:
        ensemble: trained and evaluated.
        target_tprs: sensitivities in (0, 1], one operating point each; the first is the default.
        name: of the packed model.
        version: of the packed model, in words.

    Raises:
        PackageError: the validation logits do not rank positives above negatives, or no lesion was found.
    """
    found = ensemble.out_of_fold
    try:
        platt = fit_platt(found.labels, found.logits)
    except ValueError as error:
        raise PackageError("not_packable", f"{error}") from error
    maps = isinstance(ensemble.network, LesionNetworkSpec)
    order = sorted(range(len(found.labels)), key=lambda i: (found.logits[i], found.labels[i]))  # no trace of the ids
    return ModelCard(
        format_version=_format_version(ensemble),
        name=name,
        version=version,
        created_by=f"prostate-alm {__version__}",
        ensemble=str(ensemble.about.get("name", ensemble.folder.name)),
        experiment=str(ensemble.about.get("experiment", "prostate")),
        data=ensemble.manifest.name,
        data_is_synthetic=_is_synthetic(ensemble),
        label_definition=_DRAWN if maps else _one_line(ensemble.manifest.provenance.label_definition),
        members=len(ensemble.members),
        network=ensemble.network,
        grid=ensemble.grid,
        operating_points=tuple(stored_point(found, target) for target in sorted(target_tprs)),
        default_target_tpr=target_tprs[0],
        calibration=PlattCalibration(
            slope=platt.slope, intercept=platt.intercept, prevalence=platt.prevalence, samples=platt.samples
        ),
        training_range=ensemble.studies.range,
        validation=ValidationScores(
            labels=tuple(1 if found.labels[i] else 0 for i in order),
            logits=tuple(float(found.logits[i]) for i in order),
        ),
        classes=ensemble.classes,
        gland=ensemble.gland,
        lesions=lesions_spec(ensemble.studies.detections, targets=sorted(target_tprs)) if maps else None,
    )


def _format_version(ensemble: TrainedEnsemble) -> int:
    if ensemble.gland is not None:
        return GLAND_FORMAT_VERSION
    if isinstance(ensemble.network, LesionNetworkSpec):
        return LESIONS_FORMAT_VERSION
    return FORMAT_VERSION if ensemble.classes is None else CLASSES_FORMAT_VERSION


def stored_point(found: OutOfFold, target_tpr: float) -> StoredOperatingPoint:
    """Return the operating point for a target as the card stores it."""
    point = choose_operating_point(found.labels, found.logits, target_tpr=target_tpr, confidence=CONFIDENCE)
    return StoredOperatingPoint(
        target_tpr=target_tpr,
        threshold=point.threshold,
        threshold_low=point.threshold_low,
        threshold_high=point.threshold_high,
        threshold_guaranteed=point.threshold_guaranteed,
        tpr=point.tpr.estimate,
        tpr_low=point.tpr.low,
        tpr_high=point.tpr.high,
        fpr=point.fpr.estimate,
        fpr_low=point.fpr.low,
        fpr_high=point.fpr.high,
        positives=point.positives,
        negatives=point.negatives,
    )


def _one_line(text: str) -> str:
    """Return free words as a card may hold them."""
    return "".join(one for one in " ".join(text.split()) if one.isprintable())[:300]


def _is_synthetic(ensemble: TrainedEnsemble) -> bool:
    """Return whether all studies are phantoms, by the source of the manifest or the ids that phantoms have."""
    manifest = ensemble.manifest
    by_source = manifest.provenance.source.startswith(_SYNTHETIC_SOURCE)
    return by_source or all(study.id.startswith(_SYNTHETIC_ID) for study in manifest.studies)


def _metadata(ensemble: TrainedEnsemble, card: ModelCard) -> dict[str, Any]:
    """Return the bundle's metadata with what is true of this pack, and the card."""
    metadata: dict[str, Any] = json.loads((ensemble.bundle / "metadata.json").read_text(encoding="utf-8"))
    made_with = {name: text.split("+")[0] for name, text in ensemble.versions.items()}  # no labels of local builds
    b_values = card.grid.b_values_s_per_mm2
    image = metadata["network_data_format"]["inputs"]["image"]
    image["num_channels"], image["spatial_shape"] = 1 + len(b_values), list(card.grid.image_size)
    if card.lesions is not None:
        metadata["network_data_format"]["outputs"]["pred"]["spatial_shape"] = list(card.grid.image_size)
    image["channel_def"] = {
        "0": "T2-weighted, zero mean and unit variance",
        **{
            str(channel): f"diffusion-weighted, b = {b:g} s/mm2, zero mean and unit variance"
            for channel, b in enumerate(b_values, start=1)
        },
    }
    return {
        **metadata,
        **_of_classes(metadata, card),
        "version": card.version,
        "changelog": {card.version: f"packed from the ensemble {card.ensemble} on {card.data}"},
        "monai_version": made_with.get("monai", metadata["monai_version"]),
        "pytorch_version": made_with.get("torch", metadata["pytorch_version"]),
        "required_packages_version": {"prostate-alm": __version__, **metadata["required_packages_version"]},
        "name": card.name,
        "data_source": ensemble.manifest.provenance.source or "not said",
        CARD_KEY: card.model_dump(mode="json"),
    }


def _of_classes(metadata: dict[str, Any], card: ModelCard) -> dict[str, Any]:
    """Return what the metadata say of several classes; nothing where there are two."""
    if card.classes is None:
        return {}
    names, critical = card.classes.names, card.classes.names[card.classes.critical]
    of_channel = {str(number): f"logit of {name}" for number, name in enumerate(names)}
    form = metadata["network_data_format"]
    pred = form["outputs"]["pred"] | {"num_channels": len(names), "channel_def": of_channel}
    return {
        "task": f"Classification of a prostate study, trained not to miss {critical}",
        "label_classes": ", ".join(f"{number} = {name}" for number, name in enumerate(names)),
        "pred_classes": f"logit of each class; the critical one is {critical}",
        "network_data_format": form | {"outputs": {"pred": pred}},
    }


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _weights(ensemble: TrainedEnsemble) -> bytes:
    """Return the weights as a file; written to memory, so that no file's name gets into it."""
    buffer = io.BytesIO()
    torch.save(ensemble.state, buffer)
    return buffer.getvalue()


def _own_licence() -> bytes:
    """Return the licence that was installed with this package."""
    found = [file for file in distribution("prostate-alm").files or () if file.name == "LICENSE"]
    if not found:
        raise PackageError(
            "not_packable", "licence must be given, got none with this installation. Give --license FILE"
        )
    return Path(str(found[0].locate())).read_bytes()
