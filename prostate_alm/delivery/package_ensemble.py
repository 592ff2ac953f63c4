"""A trained ensemble as packing needs it: its settings, network, weights, and what its members said on validation."""

import ast
import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from prostate_alm.data.manifest import Manifest, read_manifest, sha256_of_file
from prostate_alm.delivery.card import GridSpec, NetworkSpec
from prostate_alm.delivery.package_archive import PackageError
from prostate_alm.delivery.package_cohort import FoldLogits, TrainingStudies, read_training_studies
from prostate_alm.delivery.package_network import network_of
from prostate_alm.progress import Progress, silent
from prostate_alm.training import run_folder
from prostate_alm.training.networks import MeanLogits
from prostate_alm.training.run_folder import ENSEMBLE, RunFolder

BUNDLE = "prostate"
_NETWORK = "prostate_alm.training.networks.CascadeNet"
_READING = (
    ("LoadImaged", "keys", "reader", "ensure_channel_first", "image_only"),
    ("Orientationd", "keys", "axcodes", "labels"),
    ("Spacingd", "keys", "pixdim", "mode"),
    ("ResizeWithPadOrCropd", "keys", "spatial_size", "mode"),
    ("NormalizeIntensityd", "keys", "channel_wise"),
    ("ConcatItemsd", "keys", "name"),
    ("EnsureTyped", "keys", "dtype", "track_meta"),
    ("SelectItemsd", "keys"),
)
_READING_VALUES: Mapping[str, Any] = {"axcodes": "LPS", "pixdim": "@spacing_mm", "spatial_size": "@cached_size"}
"""How prediction makes the network's input; a bundle that makes it otherwise cannot be packed."""

_DECIMALS = 4  # of a logit; processors round later ones differently, and the same input shall give the same bytes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OutOfFold:
    """Training studies that some member had for validation: label and mean logit over those members, one a study."""

    labels: NDArray[np.int64]  # (N,)
    logits: Floats  # (N,)
    folds: NDArray[np.int64]  # (N,) members behind each logit


@dataclass(frozen=True)
class TrainedEnsemble:
    """What of a trained ensemble goes into a pack."""

    folder: Path
    about: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    dtypes: tuple[str, ...]
    members: tuple[RunFolder, ...]
    network: NetworkSpec
    grid: GridSpec
    manifest: Manifest
    bundle: Path
    state: dict[str, Tensor]
    studies: TrainingStudies
    out_of_fold: OutOfFold


def read_ensemble(
    folder: Path, *, bundle: Path | None = None, manifest: Path | None = None, progress: Progress = silent
) -> TrainedEnsemble:
    """Read a trained and evaluated ensemble of the prostate bundle.

    Args:
        folder: of the ensemble.
        bundle: folder of its bundle; None for `bundles/prostate`.
        manifest: its cohort; None for `data/NAME` with the name that the members recorded.
        progress: called with the training studies read and in all.

    Raises:
        PackageError: it is not complete and evaluated, not of this bundle, or bundle, manifest or weights are not those
            that it was trained with; one line.
        ManifestError: there is no such manifest.
    """
    about, metrics, members = _read_members(folder)
    configs = [member.read_json(run_folder.CONFIG) for member in members]
    bundle = bundle or Path("bundles", BUNDLE)
    _require_same_bundle(bundle, configs, members)
    overrides = {name: _literal(value) for name, value in about.get("overrides", {}).items()}
    manifest = manifest or Path("data", str(configs[0].get("manifest")))
    cohort = _read_manifest(manifest, configs, members)
    network, grid = _read_specs(_parser(bundle / "train.json", overrides), cohort, bundle)
    loaded = _load_members(network, members)
    studies = read_training_studies(
        cohort,
        manifest.parent,
        grid=grid,
        network=loaded,
        recorded=read_validation_logits(members, cohort),
        progress=progress,
    )
    return TrainedEnsemble(
        folder=folder,
        about=about,
        metrics=metrics,
        versions=configs[0].get("versions", {}),
        dtypes=tuple(sorted({str(config.get("dtype", "unknown")) for config in configs})),
        members=members,
        network=network,
        grid=grid,
        manifest=cohort,
        bundle=bundle,
        state={name: value.contiguous() for name, value in loaded.state_dict().items()},
        studies=studies,
        out_of_fold=out_of_fold(studies.logits, cohort),
    )


def _read_members(folder: Path) -> tuple[dict[str, Any], dict[str, Any], tuple[RunFolder, ...]]:
    from prostate_alm.training.ensemble import finished_members  # draws figures, which opening a pack need not load

    if not folder.is_dir():
        raise _refused(f"ensemble must be a folder, got {folder}", "Train one with: prostate-alm ensemble train")
    about, metrics = RunFolder(folder).read_json(ENSEMBLE), RunFolder(folder).read_json(run_folder.METRICS)
    members = finished_members(folder)
    if about.get("bundle", BUNDLE) != BUNDLE:
        raise _refused(
            f"ensemble must be of the {BUNDLE} bundle, got one of {about['bundle']} in {folder}", "Pack another one."
        )
    expected = max(about.get("members", len(members)), len(members))
    if not members or set(members) != set(range(expected)):
        raise _refused(
            f"ensemble must have all its {expected or ''} members finished, got {len(members)} in {folder}",
            "Train the others with: prostate-alm ensemble train",
        )
    if metrics.get("members") != list(members):
        raise _refused(
            f"ensemble must be evaluated with its {expected} members, got another evaluation or none in {folder}",
            f"Evaluate it with: prostate-alm ensemble evaluate {folder}",
        )
    return about, metrics, tuple(members.values())


def _require_same_bundle(bundle: Path, configs: list[dict[str, Any]], members: tuple[RunFolder, ...]) -> None:
    path = bundle / "train.json"
    if not path.is_file() or not (bundle / "inference.json").is_file():
        raise _refused(
            f"bundle must be a folder with train.json and inference.json, got {bundle}",
            "Give --bundle bundles/prostate",
        )
    sha256 = sha256_of_file(path)
    for config, member in zip(configs, members, strict=True):
        if config.get("config_files", {}).get("train.json") != sha256:
            raise _refused(
                f"bundle must be the one that the members were trained with, got another train.json in {bundle} than "
                f"that of {member.path}",
                "Give --bundle FOLDER with the train.json of that time.",
            )


def _read_manifest(path: Path, configs: list[dict[str, Any]], members: tuple[RunFolder, ...]) -> Manifest:
    manifest = read_manifest(path)
    sha256 = sha256_of_file(path)
    for config, member in zip(configs, members, strict=True):
        if config.get("manifest_sha256") != sha256:
            raise _refused(
                f"manifest must be the one that the members were trained with, got another in {path} than that of "
                f"{member.path}",
                "Give --manifest JSON",
            )
    return manifest


def _literal(value: Any) -> Any:
    """Return an override as the bundle command reads it: a literal of Python, or a word."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def _parser(config_file: Path, overrides: Mapping[str, Any]) -> Any:
    from monai.bundle import ConfigParser  # takes seconds, which opening a pack need not wait for

    parser = ConfigParser(ConfigParser.load_config_file(config_file))
    parser.update(dict(overrides))
    return parser


def _read_specs(parser: Any, manifest: Manifest, bundle: Path) -> tuple[NetworkSpec, GridSpec]:
    """Return network and grid from the config with its overrides; b-values from the manifest."""
    _require_known_reading(parser, bundle)
    values = {key: parser.get_parsed_content(f"network_def#{key}") for key in NetworkSpec.model_fields}
    try:
        network = NetworkSpec.model_validate_json(json.dumps(values))
        grid = GridSpec(
            spacing_mm=tuple(parser.get_parsed_content("spacing_mm")),
            normalised_size=tuple(parser.get_parsed_content("cached_size")),
            image_size=tuple(parser.get_parsed_content("image_size")),
            b_values_s_per_mm2=manifest.b_values_s_per_mm2,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise _refused(
            f"{'.'.join(map(str, first['loc']))} must be valid, got {first['input']!r} in {bundle}: {first['msg']}",
            "Train with other settings.",
        ) from error
    return network, grid


def _require_known_reading(parser: Any, bundle: Path) -> None:
    """Refuse a config whose network or reading of volumes is not what prediction does."""
    fault = (
        f"the {{}} of the bundle must be that of bundles/prostate to be packed, got another in {bundle} or overrides"
    )
    if parser["network_def"].get("_target_") != _NETWORK:
        raise _refused(fault.format("network_def"), "Pack an ensemble of that network.")
    steps = parser["read_and_normalise"]
    names = tuple((step["_target_"].rpartition(".")[2], *list(step)[1:]) for step in steps)
    values = {key: value for step in steps for key, value in step.items() if key in _READING_VALUES}
    modes = [step["mode"] for step in steps if "mode" in step]
    crop = [(step["_target_"].rpartition(".")[2], step.get("roi_size")) for step in parser["centre_crop"]]
    if names != _READING or values != _READING_VALUES or modes != ["bilinear", "edge"]:
        raise _refused(fault.format("read_and_normalise"), "Prediction could not repeat it.")
    if crop != [("CenterSpatialCropd", "@image_size")]:
        raise _refused(fault.format("centre_crop"), "Prediction could not repeat it.")


def read_validation_logits(members: tuple[RunFolder, ...], manifest: Manifest) -> FoldLogits:
    """Return the logit of each training study by each member that had it for validation.

    Raises:
        PackageError: a member validated on a test study or on one that the manifest does not have, or with another
            label.
    """
    label_of = {study.id: int(study.label) for study in manifest.studies if study.split == "train"}
    logits: dict[str, dict[int, float]] = {}
    for number, member in enumerate(members):
        for key, label, logit in _validation_rows(member):
            if label_of.get(key) != label:
                raise _refused(
                    f"validation samples must be training studies of the manifest, got another one in {member.path}",
                    "Give --manifest with the cohort of the members.",
                )
            logits.setdefault(key, {})[number] = logit
    return logits


def out_of_fold(logits: FoldLogits, manifest: Manifest) -> OutOfFold:
    """Return the mean logit of each study over the members that had it for validation.

    A pool of (member, study) pairs would repeat a study up to as many times as there are members and call the copies
    independent, so that every interval came out too narrow. Here each study counts once.

    Raises:
        PackageError: the two classes are not both there.
    """
    label_of = {study.id: int(study.label) for study in manifest.studies}
    keys = sorted(logits)
    labels = np.array([label_of[key] for key in keys], dtype=np.int64)
    if set(labels.tolist()) != {0, 1}:
        raise _refused(f"validation samples must be of both classes, got {len(keys)} of one", "Train more members.")
    means = np.array([round(float(np.mean(list(logits[key].values()))), _DECIMALS) for key in keys])
    return OutOfFold(labels, means, np.array([len(logits[key]) for key in keys], dtype=np.int64))


def _validation_rows(member: RunFolder) -> list[tuple[str, int, float]]:
    path = member.file(run_folder.PREDICTIONS)
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.DictReader(stream) if row["split"] == "validation"]
        return [(row["sample_id"], int(row["label"]), float(row["logit"])) for row in rows]
    except (KeyError, ValueError) as error:
        raise _refused(f"predictions must be those of training, got others in {path}", "Train it again.") from error


def rates_on_test(ensemble: TrainedEnsemble, threshold: float) -> tuple[int, int, int, int]:
    """Return what a threshold does on the test studies: positives found and in all, negatives called and in all."""
    path = ensemble.folder / run_folder.PREDICTIONS
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [(int(row["label"]), float(row["logit"]) >= threshold) for row in csv.DictReader(stream)]
    positive = [called for label, called in rows if label == 1]
    negative = [called for label, called in rows if label == 0]
    return sum(positive), len(positive), sum(negative), len(negative)


def _load_members(spec: NetworkSpec, members: tuple[RunFolder, ...]) -> MeanLogits:
    network = network_of(spec, members=len(members))
    for module, member in zip(network.members, members, strict=True):
        path = member.file(run_folder.MODEL)
        try:
            module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise _refused(
                f"weights must be those of the bundle's network, got others in {path} ({reason})", "Train it again."
            ) from error
    return network.eval()


def _refused(fault: str, advice: str) -> PackageError:
    return PackageError("not_packable", f"{fault}. {advice}".strip())
