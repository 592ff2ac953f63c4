"""A trained ensemble as packing needs it: its settings, network, weights, and what its members said on validation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from prostate_alm.data.manifest import Manifest, read_manifest
from prostate_alm.delivery.card import ClassesSpec, GlandSpec, GridSpec, LesionNetworkSpec, NetworkSpec
from prostate_alm.delivery.gland import GlandFirst
from prostate_alm.delivery.package.cohort import AppliedNetwork, TrainingStudies, read_training_studies
from prostate_alm.delivery.package.config import BUNDLES, OF_CLASSES, read_specs
from prostate_alm.delivery.package.network import GLAND, network_of
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.progress import Progress, silent
from prostate_alm.results import run_folder
from prostate_alm.results.folders import MemberFolder
from prostate_alm.results.mean_logits import MeanLogits
from prostate_alm.results.predictions import TEST, read_rows
from prostate_alm.results.run_folder import ENSEMBLE, EnsembleError, RunFolder, member_name
from prostate_alm.shipped import TRAINING_CONFIG, shipped_bundle
from prostate_alm.training.gland_localiser import WEIGHTS, Localiser, open_localiser
from prostate_alm.training.lesion_member import drawn_cohort
from prostate_alm.training.out_of_fold import FoldLogits, OutOfFold, out_of_fold, read_validation_logits
from prostate_alm.whole_files import sha256_of_file

PROSTATE, LESIONS = BUNDLES
_MANIFEST_FOLDERS = (Path("data"), Path("data_manifest"))


@dataclass(frozen=True)
class TrainedEnsemble:
    """What of a trained ensemble goes into a pack; `inference` is the config file that MONAI's commands run."""

    folder: Path
    about: dict[str, Any]
    metrics: dict[str, Any]
    versions: dict[str, str]
    members: tuple[MemberFolder, ...]
    network: NetworkSpec | LesionNetworkSpec
    grid: GridSpec
    manifest: Manifest
    bundle: Path
    inference: Path
    classes: ClassesSpec | None
    gland: GlandSpec | None
    training_config: tuple[Path, ...]
    state: dict[str, Tensor]
    studies: TrainingStudies
    out_of_fold: OutOfFold

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Types of number that the members were validated with."""
        return tuple(sorted({str(member.config.get("dtype", "unknown")) for member in self.members}))


@dataclass(frozen=True)
class Origins:
    """Where the parts of an ensemble lie that are not in its folder.

    Attributes:
        bundle: folder of its bundle; None for the one that is shipped.
        manifest: its cohort; None for the one of `data` or `data_manifest` that the members recorded.
        gland: the localiser that members whose crop is around the gland were trained with; None of others.
    """

    bundle: Path | None = None
    manifest: Path | None = None
    gland: GlandFirst | None = None


def read_ensemble(folder: Path, origins: Origins, *, progress: Progress = silent) -> TrainedEnsemble:
    """Read a trained and evaluated ensemble of the prostate or the lesions bundle.

    Args:
        folder: of the ensemble.
        origins: of the rest.
        progress: called with the training studies read and in all.

    Raises:
        PackageError: it is not complete and evaluated, or bundle, manifest or weights are not those of its training.
        ManifestError: there is no such manifest.
    """
    about, metrics, members = _read_members(folder)
    configs = [member.config for member in members]
    name = str(about.get("bundle", PROSTATE))
    bundle = origins.bundle or shipped_bundle(name)
    files = _training_config(bundle, configs, members)
    manifest = origins.manifest or _recorded_manifest(configs[0])
    cohort = _read_manifest(manifest, configs, members, bundle=name)
    classes = _classes_of(about.get("settings", {}), folder)
    network, grid = _specs_of(about, files, cohort, classes)
    localiser, gland_spec = _localiser_of(origins.gland, configs, folder)
    loaded = _load_members(network, members, localiser, gland_spec)
    studies = read_training_studies(
        cohort,
        manifest.parent,
        applied=AppliedNetwork(network, grid, loaded, localiser),
        recorded=_read_recorded(members, cohort, classes),
        progress=progress,
    )
    return TrainedEnsemble(
        folder=folder,
        about=about,
        metrics=metrics,
        versions=configs[0].get("versions", {}),
        members=members,
        network=network,
        grid=grid,
        manifest=cohort,
        bundle=bundle,
        inference=(bundle if name == PROSTATE else shipped_bundle(PROSTATE)) / "inference.json",
        classes=classes,
        gland=gland_spec,
        training_config=files,
        state={name: value.contiguous() for name, value in loaded.state_dict().items()},
        studies=studies,
        out_of_fold=out_of_fold(studies.logits, cohort, critical=None if classes is None else classes.critical),
    )


def _specs_of(
    about: dict[str, Any], files: tuple[Path, ...], cohort: Manifest, classes: ClassesSpec | None
) -> tuple[NetworkSpec | LesionNetworkSpec, GridSpec]:
    return read_specs(
        files[0],
        about.get("overrides", {}),
        bundle=str(about.get("bundle", PROSTATE)),
        b_values_s_per_mm2=cohort.b_values_s_per_mm2,
        overlays=files[1:],
        classes=None if classes is None else len(classes.names),
    )


def _read_members(folder: Path) -> tuple[dict[str, Any], dict[str, Any], tuple[MemberFolder, ...]]:
    about, metrics = RunFolder(folder).read_json(ENSEMBLE), RunFolder(folder).read_json(run_folder.METRICS)
    if not about:
        raise _refused(
            f"ensemble must be the folder of a trained one, got {folder}", "Train: prostate-alm ensemble train"
        )
    if (name := about.get("bundle", PROSTATE)) not in BUNDLES:
        raise _refused(
            f"ensemble must be of the {' or the '.join(BUNDLES)} bundle, got one of {name} in {folder}",
            "Pack another one.",
        )
    evaluated = metrics.get("members", [])
    expected = max(about.get("members", 0), len(evaluated), 1)
    members = [MemberFolder(folder / member_name(number)) for number in range(expected)]
    finished = sum(member.is_finished for member in members)
    if finished < expected:
        raise _refused(
            f"ensemble must have all its {expected} members finished, got {finished} in {folder}",
            "Train the others with: prostate-alm ensemble train",
        )
    if evaluated != list(range(expected)):
        raise _refused(
            f"ensemble must be evaluated with its {expected} members, got another evaluation or none in {folder}",
            f"Evaluate it with: prostate-alm ensemble evaluate {folder}",
        )
    if others := [member for member in members if member.config.get("bundle", name) != name]:
        raise _refused(
            f"members must all be of the {name} bundle, got one of {others[0].config['bundle']} in {others[0].path}",
            "Train it again.",
        )
    return about, metrics, tuple(members)


def _classes_of(settings: dict[str, Any], folder: Path) -> ClassesSpec | None:
    """Return the findings that the members tell apart; None where these are two classes."""
    if "findings" not in settings:
        return None
    if len(settings["critical"]) > 1:
        raise _refused(
            f"critical must be one finding in a pack, got {len(settings['critical'])} in {folder}: an answer has one "
            "decision",
            "Train with --critical NAME",
        )
    try:
        return ClassesSpec(names=tuple(settings["findings"]), critical=settings["critical"][0])
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise _refused(f"findings must be names of an answer, got {fault['input']!r}: {fault['msg']}", "") from error


_OF_PROCESSES = ("multi_gpu_train.json",)
"""Overlays that change how many processes train, and nothing of what is trained."""


def _training_config(
    bundle: Path, configs: list[dict[str, Any]], members: tuple[MemberFolder, ...]
) -> tuple[Path, ...]:
    """Return the config files that all members were trained with: the first one's copies, else the bundle's."""
    names = [name for name in (TRAINING_CONFIG, OF_CLASSES) if name in (TRAINING_CONFIG, *_used(configs[0]))]
    copies = members[0].file(run_folder.BUNDLE_FILES)
    paths = tuple((copies if (copies / TRAINING_CONFIG).is_file() else bundle) / name for name in names)
    if not all(path.is_file() for path in (*paths, bundle / "inference.json")):
        raise _refused(
            f"bundle must be a folder with {', '.join(names)} and inference.json, got {bundle}",
            f"Give --bundle {configs[0].get('bundle', PROSTATE)}",
        )
    sha256 = {path.name: sha256_of_file(path) for path in paths}
    for config, member in zip(configs, members, strict=True):
        if changed := [path for path in paths if _used(config).get(path.name) != sha256[path.name]]:
            raise _refused(
                f"{changed[0].name} must be the one that the members were trained with, got another in "
                f"{changed[0].parent} than that of {member.path}",
                f"Give --bundle FOLDER with the {changed[0].name} of that time, from the history of the repository.",
            )
        overlays = sorted(set(_used(config)) - {*sha256, *_OF_PROCESSES})
        if overlays:
            raise _refused(
                f"members must be trained by {TRAINING_CONFIG} and overrides, got the overlay {overlays[0]} in "
                f"{member.path}: it may change what the network sees, and prediction would not",
                "Train with overrides of the command line in its place.",
            )
    return paths


def _used(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the checksums of the config files of a member, by name."""
    files: dict[str, str] = config.get("config_files", {})
    return files


def _recorded_manifest(config: Mapping[str, Any]) -> Path:
    """Return the manifest with the name and the checksum that training recorded; where there is none, its name."""
    paths = [folder / str(config.get("manifest")) for folder in _MANIFEST_FOLDERS]
    found = [path for path in paths if path.is_file() and sha256_of_file(path) == config.get("manifest_sha256")]
    return next(iter(found), paths[0])


def _read_manifest(
    path: Path, configs: list[dict[str, Any]], members: tuple[MemberFolder, ...], *, bundle: str
) -> Manifest:
    manifest = read_manifest(path)
    sha256 = sha256_of_file(path)
    for config, member in zip(configs, members, strict=True):
        if config.get("manifest_sha256") != sha256:
            raise _refused(
                f"manifest must be the one that the members were trained with, got another in {path} than that of "
                f"{member.path}",
                "Give --manifest JSON",
            )
    return _with_lesions(manifest, path.parent) if bundle == LESIONS else manifest


def _with_lesions(manifest: Manifest, folder: Path) -> Manifest:
    """Return the studies whose lesions were drawn, each positive where it has one; their files must be there."""
    studies = [study for study in manifest.studies if study.lesions is not None]
    files = [file.path for one in studies for file in (one.t2, one.dwi, one.lesions) if file is not None]
    if missing := [path for path in files if not (folder / path).is_file()]:
        raise _refused(
            f"volumes and lesions of the training studies must lie beside the manifest, got {len(missing)} of "
            f"{len(files)} files missing in {folder}: the threshold of candidates rests on them",
            "Build the cohort there.",
        )
    return drawn_cohort(manifest, folder)[0]


def _read_recorded(members: tuple[MemberFolder, ...], manifest: Manifest, classes: ClassesSpec | None) -> FoldLogits:
    """Return the members' validation logits, which must hold both classes.

    Raises:
        PackageError: they are not those of this cohort; the code says so to whoever packs.
    """
    try:
        logits = read_validation_logits(members, manifest)
        out_of_fold(logits, manifest, critical=None if classes is None else classes.critical)
    except EnsembleError as error:
        raise PackageError("not_packable", str(error)) from error
    return logits


def rates_on_test(ensemble: TrainedEnsemble, threshold: float) -> tuple[int, int, int, int]:
    """Return what a threshold does on the test studies: positives found and in all, negatives called and in all."""
    table = read_rows(ensemble.folder / run_folder.PREDICTIONS, splits=TEST)
    rows = [(int(row["label"]), float(row["logit"]) >= threshold) for row in table]
    positive = [called for label, called in rows if label == 1]
    negative = [called for label, called in rows if label == 0]
    return sum(positive), len(positive), sum(negative), len(negative)


def _localiser_of(
    gland: GlandFirst | None, configs: list[dict[str, Any]], folder: Path
) -> tuple[Localiser | None, GlandSpec | None]:
    """Return the localiser of members whose crop is around the gland, and what the card says of it.

    Raises:
        PackageError: there is none where the members need it, one where they do not, or another than theirs.
    """
    crops = {str(config.get("settings", {}).get("crop", "centre")) for config in configs}
    if crops != {"centre" if gland is None else "gland"}:
        raise _refused(
            f"crop must be that of the members' training, got {'no' if gland is None else 'a'} localiser and members "
            f"cropped around the {' or the '.join(sorted(crops))} in {folder}",
            "Give --gland FOLDER where they were trained with --crop gland, and only there.",
        )
    if gland is None:
        return None, None
    try:
        localiser, about = open_localiser(gland.folder)
        spec = GlandSpec.model_validate_json(
            json.dumps({key: about[key] for key in ("features", "strides", "spacing_mm", "size")})
        )
    except (ValueError, LookupError) as error:  # pydantic's are ValueErrors
        raise PackageError("not_packable", " ".join(str(error).split())) from error
    sha256 = sha256_of_file(gland.folder / WEIGHTS)
    if others := [config for config in configs if config.get("localiser_sha256", sha256) != sha256]:
        raise _refused(
            f"localiser must be the one that the members were trained with, got another in {gland.folder} than that "
            f"of {len(others)} members",
            "Give that one.",
        )
    return localiser, spec.model_copy(update={"on_doubt": gland.on_doubt})


def _load_members(
    spec: NetworkSpec | LesionNetworkSpec,
    members: tuple[MemberFolder, ...],
    localiser: Localiser | None,
    gland: GlandSpec | None,
) -> MeanLogits:
    network = network_of(spec, members=len(members), gland=gland)
    if localiser is not None:
        network.get_submodule(GLAND).load_state_dict(localiser.network.state_dict())
    for module, member in zip(network.members, members, strict=True):
        try:
            member.load_weights(module)
        except EnsembleError as error:
            raise PackageError("not_packable", str(error)) from error
    return network.eval()


def _refused(fault: str, advice: str) -> PackageError:
    return PackageError("not_packable", f"{fault}. {advice}".strip())
