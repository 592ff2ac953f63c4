"""Folders of trained members and ensembles; the files are the truth, whatever a store says."""

import csv
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prostate_alm.results import run_folder
from prostate_alm.results.run_folder import ENSEMBLE, MEMBERS_TABLE, EnsembleError, RunFolder, member_name

_MEMBER_NAME = re.compile(r"member-(\d{2,})")

_HASHED = (ENSEMBLE, run_folder.CONFIG, run_folder.METRICS, run_folder.PREDICTIONS, run_folder.HISTORY)
_MEMBER_FILES = (
    run_folder.ROC_FIGURE,
    run_folder.CONFIG,
    run_folder.METRICS,
    run_folder.PREDICTIONS,
    run_folder.HISTORY,
    run_folder.CONFUSION,
)
_ENSEMBLE_FILES = (
    run_folder.ROC_FIGURE,
    ENSEMBLE,
    run_folder.METRICS,
    run_folder.PREDICTIONS,
    MEMBERS_TABLE,
    run_folder.CONFUSION,
)


class ResultsFolder(RunFolder):
    """What is common to the folders of members and of ensembles."""

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of metrics.json."""
        return self.read_json(run_folder.METRICS)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The content of tracking.json: the run that training opened, if any."""
        return self.read_json(run_folder.TRACKING)

    def sha256(self) -> str:
        """Return what tells these results from any other: the SHA-256 of the files that hold them."""
        digest = hashlib.sha256()
        for path in self._present(_HASHED):
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def end_time_ms(self) -> int:
        """Return when the results were complete."""
        return int(self.file(run_folder.METRICS).stat().st_mtime * 1000)

    def _present(self, names: tuple[str, ...]) -> list[Path]:
        return [self.path / name for name in names if (self.path / name).is_file()]

    def write_identity(self, identity: Mapping[str, Any]) -> None:
        """Write tracking.json; results in a folder that cannot be written to are recognised by their content."""
        try:
            self.write_json(run_folder.TRACKING, identity)
        except OSError:
            return
        self.__dict__["identity"] = dict(identity)


class MemberFolder(ResultsFolder):
    """The results of one member."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return self.read_json(run_folder.CONFIG)

    @property
    def settings(self) -> dict[str, Any]:
        """The member's settings."""
        settings: dict[str, Any] = self.config.get("settings", {})
        return settings

    @property
    def name(self) -> str:
        """Name of the member's run."""
        return member_name(int(self.settings["member"])) if "member" in self.settings else self.path.name

    @property
    def ensemble_name(self) -> str:
        """Name of the run above it when it was trained alone."""
        return f"{self.settings.get('loss', self.path.name)}-{'alm' if self.settings.get('alm') else 'baseline'}"

    @property
    def experiment(self) -> str:
        """Name of the experiment when it was trained alone."""
        return str(self.config.get("experiment") or self.config.get("bundle") or self.path.parent.name)

    def tags(self) -> dict[str, str]:
        """Return which bundle and data the member was trained with, and the versions."""
        texts = {key: value for key, value in self.config.items() if isinstance(value, str)}
        return texts | version_tags(self.config)

    def data(self) -> dict[str, str]:
        """Return which data the member was trained on: name and digest; empty where training did not say."""
        ratio = f" 1:{self.settings['ratio']:g}" if self.settings.get("ratio") else ""
        name = self.config.get("manifest") or f"{self.experiment}{ratio}"
        digest = self.config.get("manifest_sha256") or self.config.get("data_sha256")
        return {"name": str(name), "digest": str(digest)} if digest else {}

    def params(self) -> dict[str, Any]:
        """Return the settings, flat."""
        return flat(self.settings)

    def epochs(self) -> list[dict[str, float]]:
        """Return the rows of history.csv without their empty cells."""
        path = self.file(run_folder.HISTORY)
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as stream:
            return [{key: float(text) for key, text in row.items() if text} for row in csv.DictReader(stream)]

    def summary(self) -> dict[str, float]:
        """Return the final figures by their names in MLflow."""
        prefixes = {"validation": "best_val"}
        return {
            f"{prefixes.get(split, split)}_{key}": value
            for split, figures in self.metrics.items()
            for key, value in numbers(figures).items()
        }

    def load_weights(self, network: nn.Module) -> nn.Module:
        """Put the member's weights into a network of its shape, and return it.

        Raises:
            EnsembleError: they are of another network.
        """
        path = self.file(run_folder.MODEL)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise EnsembleError(
                f"weights must be those of the bundle's network, got others in {path} ({reason}). "
                "Train the member again."
            ) from error
        return network

    def files(self) -> list[Path]:
        """Return the files that MLflow shall hold."""
        return self._present(_MEMBER_FILES)

    def start_time_ms(self) -> int:
        """Return when the folder was claimed."""
        return int(self.file(run_folder.CONFIG).stat().st_mtime * 1000)


class EnsembleFolder(ResultsFolder):
    """The results of an ensemble, with those of its members below it.

    Raises:
        ValueError: there is no `ensemble.json`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if not (path / ENSEMBLE).is_file():
            raise ValueError(f"folder must be that of an ensemble, got {path} without {ENSEMBLE}. Train one there.")

    @cached_property
    def about(self) -> dict[str, Any]:
        """The content of ensemble.json."""
        return self.read_json(ENSEMBLE)

    @property
    def experiment(self) -> str:
        """Name of the experiment in MLflow."""
        return str(self.about.get("experiment") or self.about["bundle"])

    @property
    def name(self) -> str:
        """Name of the run: how the ensemble was trained, and on what."""
        parts = (self.about.get("name") or self.path.name, self.about.get("data"))
        return " ".join(str(part) for part in parts if part)

    def members(self) -> list[MemberFolder]:
        """Return the finished members that make up the ensemble, in order."""
        folders = [MemberFolder(self.path / member_name(number)) for number in self.metrics.get("members", [])]
        return [folder for folder in folders if folder.is_finished]

    def tags(self) -> dict[str, str]:
        """Return bundle, experiment, data, configuration and versions; the cohort where its members name one."""
        keys = ("bundle", "experiment", "data", "name", "config_file")
        tags = {key: str(self.about[key]) for key in keys if self.about.get(key) is not None}
        for member in self.members()[:1]:
            tags = {**member.tags(), **tags, "members": str(len(self.metrics["members"]))}
        return tags | version_tags(self.about)

    def params(self) -> dict[str, Any]:
        """Return the settings that all members have in common, flat, and the data."""
        own = {key: self.about[key] for key in ("data",) if self.about.get(key) is not None}
        return own | flat(self.about.get("settings", {}))

    def files(self) -> list[Path]:
        """Return the files that MLflow shall hold."""
        return self._present(_ENSEMBLE_FILES)

    def start_time_ms(self) -> int:
        """Return when the ensemble was begun."""
        return int(self.file(ENSEMBLE).stat().st_mtime * 1000)


def finished_members(folder: Path) -> dict[int, MemberFolder]:
    """Return the members in an ensemble's folder that have results, by number."""
    found = {
        int(match[1]): MemberFolder(path) for path in folder.iterdir() if (match := _MEMBER_NAME.fullmatch(path.name))
    }
    return {number: found[number] for number in sorted(found) if found[number].is_finished}


@dataclass(frozen=True)
class FoundFolders:
    """Folders of results below a folder: ensembles, and members that were trained alone."""

    ensembles: tuple[EnsembleFolder, ...]
    members: tuple[MemberFolder, ...]


def find_folders(root: Path) -> FoundFolders:
    """Return the folders of results in and below `root`; for a member of an ensemble, the ensemble.

    Raises:
        ValueError: `root` is no folder.
    """
    if not root.is_dir():
        raise ValueError(f"folder must be one with results, got {root}, which is no folder. Give for example outputs")
    if (root.parent / ENSEMBLE).is_file() and (root / run_folder.CONFIG).is_file():
        return FoundFolders((EnsembleFolder(root.parent),), ())
    ensembles = sorted(path.parent for path in root.rglob(ENSEMBLE))
    members = sorted(path.parent for path in root.rglob(run_folder.CONFIG))
    alone = [MemberFolder(path) for path in members if path.parent not in ensembles]
    return FoundFolders(
        tuple(EnsembleFolder(path) for path in ensembles), tuple(folder for folder in alone if folder.settings)
    )


def numbers(figures: Any) -> dict[str, float]:
    """Return the finite numbers of a dictionary; empty for anything else.

    >>> numbers({"auc": 0.5, "z": float("inf"), "note": "none"})
    {'auc': 0.5}
    """
    if not isinstance(figures, Mapping):
        return {}
    return {key: value for key, value in figures.items() if isinstance(value, int | float) and math.isfinite(value)}


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted names, without those that are not set.

    >>> flat({"loss": "a_fl", "loss_parameters": {"gamma": 4}, "margin": None})
    {'loss': 'a_fl', 'loss_parameters.gamma': 4}
    """
    result: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            result[f"{prefix}{key}"] = value
    return result


def version_tags(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the versions in a configuration as tags `version.NAME`."""
    return {f"version.{name}": str(value) for name, value in content.get("versions", {}).items()}
