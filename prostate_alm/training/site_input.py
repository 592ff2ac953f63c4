"""What an ensemble needs to be applied to other sites, and what a site must be for that; all checked beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prostate_alm.data.manifest import Manifest, StudyRecord, check_files, read_manifest
from prostate_alm.results.folders import MemberFolder, finished_members
from prostate_alm.results.run_folder import ENSEMBLE, METRICS, EnsembleError, RunFolder
from prostate_alm.shipped import TRAINING_CONFIG, shipped_bundle
from prostate_alm.whole_files import sha256_of_file

BUNDLE = "prostate"
MANIFEST_FOLDERS = (Path("data"), Path("data_manifest"))
"""Where the manifest that an ensemble was trained on is looked for by its name."""


@dataclass(frozen=True)
class TrainedOn:
    """An evaluated ensemble, the config file of its bundle, and the cohort that it was trained on."""

    about: dict[str, Any]
    config_file: Path
    numbers: tuple[int, ...]
    members: tuple[MemberFolder, ...]
    manifest: Manifest
    sha256: str


@dataclass(frozen=True)
class Site:
    """The test studies of a manifest, and how many training studies it has besides."""

    path: Path
    manifest: Manifest
    studies: tuple[StudyRecord, ...]

    @property
    def name(self) -> str:
        """Name of the manifest's file without `.json`."""
        return self.path.stem

    @property
    def labels(self) -> NDArray[np.float64]:
        """Labels of the studies, (N,)."""
        return np.array([study.label for study in self.studies], dtype=np.float64)

    @property
    def training_studies(self) -> int:
        """Number of studies that are not looked at."""
        return len(self.manifest.studies) - len(self.studies)


def read_trained_on(
    folder: Path, *, bundle: Path | None, manifest: Path | None, near: Sequence[Path] = ()
) -> TrainedOn:
    """Read an evaluated ensemble of the prostate bundle.

    Args:
        folder: of the ensemble.
        bundle: folder of its bundle; None for the one that is shipped.
        manifest: that it was trained on; None to look for it.
        near: files beside which it is looked for, too.

    Raises:
        EnsembleError: it is not evaluated or not of this bundle, or bundle or manifest are not those of its training.
        ManifestError: the manifest cannot be read.
    """
    about, members = RunFolder(folder).read_json(ENSEMBLE), _combined_members(folder)
    if about.get("bundle") != BUNDLE:
        raise EnsembleError(
            f"ensemble must be of the {BUNDLE} bundle to be applied to manifests, got one of {about.get('bundle')} in "
            f"{folder}. Leave out --manifest."
        )
    if critical := about.get("settings", {}).get("critical"):
        raise EnsembleError(
            f"ensemble must tell two classes apart to be applied to manifests, got one with the critical classes "
            f"{critical} in {folder}. Pack it, and answer the studies of the site: prostate-alm pack, predict"
        )
    config_file = (bundle or shipped_bundle(BUNDLE)) / TRAINING_CONFIG
    _require_config_file(config_file, members)
    config = next(iter(members.values())).config
    path = manifest or _require_found(config, near)
    sha256 = sha256_of_file(path) if path.is_file() else ""
    read = read_manifest(path)
    for member in members.values():
        if member.config.get("manifest_sha256") != sha256:
            raise EnsembleError(
                f"manifest of the training must be the one that the members were trained on, got another in {path} "
                f"than that of {member.path}. Give it with --trained-on JSON."
            )
    return TrainedOn(about, config_file, tuple(members), tuple(members.values()), read, sha256)


def _combined_members(folder: Path) -> dict[int, MemberFolder]:
    members = finished_members(folder) if folder.is_dir() else {}
    combined = RunFolder(folder).read_json(METRICS).get("members", [])
    if not members:
        raise EnsembleError(
            f"ensemble must be the folder of a trained one, got {folder} without finished members. "
            "Train one with: prostate-alm ensemble train"
        )
    if combined != list(members):
        raise EnsembleError(
            f"ensemble must be evaluated with its {len(members)} finished members, got {len(combined)} in {folder}. "
            f"Evaluate it first: prostate-alm ensemble evaluate {folder}"
        )
    return members


def _require_config_file(path: Path, members: dict[int, MemberFolder]) -> None:
    if not path.is_file():
        raise EnsembleError(f"bundle must be a folder with train.json, got {path.parent}. Give --bundle FOLDER")
    sha256 = sha256_of_file(path)
    for member in members.values():
        if member.config.get("config_files", {}).get(path.name) != sha256:
            raise EnsembleError(
                f"bundle must be the one that the members were trained with, got another train.json in {path.parent} "
                f"than that of {member.path}. Give --bundle FOLDER with the train.json of that time."
            )


def find_manifest(config: Mapping[str, Any], near: Sequence[Path] = ()) -> Path | None:
    """Return the manifest with the name and the checksum that training recorded.

    Args:
        config: the `config.json` of a member.
        near: files beside which it is looked for, after `MANIFEST_FOLDERS`.

    Returns:
        The first one found; None where there is none.
    """
    name, sha256 = str(config.get("manifest")), config.get("manifest_sha256")
    for path in (folder / name for folder in _folders(near)):
        if path.is_file() and sha256_of_file(path) == sha256:
            return path
    return None


def _folders(near: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys([*MANIFEST_FOLDERS, *(path.parent for path in near)]))


def _require_found(config: Mapping[str, Any], near: Sequence[Path]) -> Path:
    path = find_manifest(config, near)
    if path is None:
        raise EnsembleError(
            f"manifest of the training must be at hand, got no {config.get('manifest')} with the checksum that "
            f"training recorded in {', '.join(map(str, _folders(near)))}. Give it with --trained-on JSON."
        )
    return path


def sites_of(own: TrainedOn, manifests: Sequence[tuple[Path, Manifest]], *, output: Path) -> list[Site]:
    """Return the sites of other cohorts, after checks that the ensemble can be judged on their test studies.

    Only test studies count: those of a training split may serve to adapt a model to the site, and two ensembles,
    trained here and there, are compared on the same studies.

    Args:
        own: the ensemble.
        manifests: other cohorts and where they were read from, at least one.
        output: where results of earlier evaluations lie, by name.

    Raises:
        EnsembleError: a cohort is that of the training, holds studies of it, has other diffusion volumes, lacks a
            class, has a volume that changed, or its name belongs to the results of another.
    """
    sites: list[Site] = []
    for path, manifest in manifests:
        site = Site(path, manifest, tuple(study for study in manifest.studies if study.split == "test"))
        if site.name in {other.name for other in sites}:
            raise EnsembleError(f"manifests must have different names, got {site.name} twice. Give each once.")
        _require_unseen(own, site)
        _require_same_channels(own, site)
        _require_both_classes(site)
        _require_own_results(site, output / site.name)
        sites.append(site)
    for site in sites:  # after all that is quick to say
        _require_unchanged_files(site)
    return sites


def _require_unseen(own: TrainedOn, site: Site) -> None:
    if sha256_of_file(site.path) == own.sha256:
        raise EnsembleError(
            f"manifest must be another one than that of the training, got {site.path}. The ensemble's results on its "
            "test studies are in its own metrics.json."
        )
    seen = {file.sha256 for study in own.manifest.studies if study.split == "train" for file in (study.t2, study.dwi)}
    known = [study.id for study in site.studies if {study.t2.sha256, study.dwi.sha256} & seen]
    if known:
        raise EnsembleError(
            f"test studies of a site must not be training studies of the ensemble, got {len(known)} of "
            f"{len(site.studies)} with the same volumes in {site.path}, the first is {known[0]}. Make them training "
            "studies by the column `split` of the labels, and build the manifest again."
        )


def _require_same_channels(own: TrainedOn, site: Site) -> None:
    ours, theirs = _channels(own.manifest), _channels(site.manifest)
    if ours != theirs:
        raise EnsembleError(
            f"diffusion of a site must be that of the training, [{', '.join(ours)}], got [{', '.join(theirs)}] in "
            f"{site.path}. Build the manifest again for these; b-values that were not acquired are computed."
        )


def _channels(manifest: Manifest) -> list[str]:
    return [f"b {value:g} s/mm2" for value in manifest.b_values_s_per_mm2] or list(manifest.diffusion_channels)


def _require_both_classes(site: Site) -> None:
    positives = int(site.labels.sum())
    if not 0 < positives < len(site.studies):
        raise EnsembleError(
            f"test studies of a site must be of both classes, got {positives} positive of {len(site.studies)} in "
            f"{site.path}. Change the column `split` of the labels and build the manifest again."
        )


def _require_own_results(site: Site, folder: Path) -> None:
    earlier = RunFolder(folder).read_json(METRICS).get("manifest_sha256")
    if earlier is not None and earlier != sha256_of_file(site.path):
        raise EnsembleError(
            f"results of a site must not replace those of another manifest, got {folder} of one with another checksum "
            f"than {site.path}. Move that folder away or rename the manifest."
        )


def _require_unchanged_files(site: Site) -> None:
    faults = check_files(site.manifest.model_copy(update={"studies": site.studies}), site.path)
    if faults:
        more = f" ({len(faults) - 1} more volumes)" if len(faults) > 1 else ""
        raise EnsembleError(f"{faults[0]}{more}")
