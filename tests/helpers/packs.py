"""A packed model whose weights are random, and a study to point it at."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prostate_alm.cli import main
from prostate_alm.data.manifest import Manifest, Provenance, StudyRecord, VolumeFile, write_manifest
from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.package.build import PackLabel, pack_ensemble
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.package.trained import Origins
from prostate_alm.phantom.cohort import make_study, write_study
from prostate_alm.training.networks import CascadeNet
from prostate_alm.whole_files import sha256_of_file

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "bundles" / "prostate"
LICENCE = REPOSITORY / "LICENSE"
MEMBERS, STUDIES, POSITIVES, TESTS = 3, 40, 14, 10
B_VALUES = (100.0, 600.0, 1000.0)

EnsembleWriter = Callable[..., Path]


def write_cohort(folder: Path) -> Path:
    """Write the manifest of a cohort whose volumes are not there; every fourth study is a test study."""
    volume = VolumeFile(path="volume.nii.gz", sha256="0" * 64)
    studies = tuple(
        StudyRecord(
            id=f"PHANTOM-{number:04d}", patient=f"P{number}", label=int(number % 3 == 0),
            split="test" if number % 4 == 1 else "train", t2=volume, dwi=volume,
            b_values_acquired_s_per_mm2=B_VALUES, b_values_computed=(False,) * 3,
        )
        for number in range(STUDIES)
    )  # fmt: skip
    provenance = Provenance(created_by="test", labels_sha256="0" * 64, source="synthetic studies of prostate-alm")
    path = folder / "cohort.json"
    write_manifest(Manifest(name="cohort", b_values_s_per_mm2=B_VALUES, provenance=provenance, studies=studies), path)
    return path


def write_ensemble(folder: Path, *, members: int = MEMBERS, manifest: Path | None = None, **changes: Any) -> Path:
    """Write a trained and evaluated ensemble as training leaves it; `changes` go into each member's config.json."""
    folder.mkdir(parents=True)
    manifest = manifest or write_cohort(folder)
    studies = json.loads(manifest.read_text())["studies"]
    about = {"bundle": "prostate", "experiment": "prostate", "data": "cohort", "name": "bce-alm", "members": members}
    (folder / "ensemble.json").write_text(
        json.dumps({**about, "settings": {"loss": "bce", "alm": True}, "overrides": {}})
    )
    for number in range(members):
        _write_member(folder / f"member-{number:02d}", number, studies, manifest, changes)
    tests = [study for study in studies if study["split"] == "test"]
    random = np.random.default_rng(99)
    rows = [(s["id"], "test", s["label"], random.normal(s["label"], 0.5), 0.1) for s in tests]
    _write_rows(folder / "predictions.csv", ("sample_id", "split", "label", "logit", "logit_std"), rows)
    positives = sum(study["label"] for study in tests)
    figures = {"auc": 0.8, "fpr_at_tpr100": 0.5, "positives": positives, "negatives": len(tests) - positives}
    metrics = {"members": list(range(members)), "failed": [], "ensemble": {"test": figures}}
    (folder / "metrics.json").write_text(json.dumps({**metrics, "intervals": {"test": {"auc": [0.6, 0.95]}}}))
    return folder


def _write_member(
    folder: Path, number: int, studies: list[dict[str, Any]], manifest: Path, changes: dict[str, Any]
) -> None:
    """Write weights at random, and logits of a fifth of the training studies, higher for positives."""
    folder.mkdir()
    config = {
        "bundle": "prostate", "experiment": "prostate", "settings": {"member": number}, "overrides": {},
        "config_files": {"train.json": sha256_of_file(BUNDLE / "train.json")}, "manifest": manifest.name,
        "manifest_sha256": sha256_of_file(manifest), "dtype": "float32", "versions": {"torch": "2.9", "monai": "1.6.1"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config | changes))
    random = np.random.default_rng(number)
    training = [study for study in studies if study["split"] == "train"]
    validation = [study for index, study in enumerate(training) if index % 5 in (number % 5, (number + 1) % 5)]
    rows = [(s["id"], "validation", s["label"], random.normal(0.3 * s["label"], 0.2)) for s in validation]
    rows += [(s["id"], "test", s["label"], 1e6) for s in studies if s["split"] == "test"]  # must never be used
    _write_rows(folder / "predictions.csv", ("sample_id", "split", "label", "logit"), rows)
    torch.manual_seed(number)
    network = CascadeNet(3, (1, 3), features=(8, 16, 32), pooling=((2, 2, 1), (2, 2, 2), (2, 2, 2)))
    torch.save(network.state_dict(), folder / "model.pt")
    (folder / "metrics.json").write_text('{"test": {"auc": 0.8}}')


def pack(folder: Path, output: Path, *more: str) -> int:
    """Run the command as a user does."""
    given = ["--manifest", str(folder / "cohort.json"), "--bundle", str(BUNDLE), *more]
    return main(["pack", str(folder), "--output", str(output), *given])


def packed(folder: Path, output: Path, *, bundle: Path = BUNDLE) -> ModelCard:
    """Pack an ensemble with the manifest in its folder."""
    origins = Origins(manifest=folder / "cohort.json", bundle=bundle)
    return pack_ensemble(folder, output, origins=origins, label=PackLabel(licence=LICENCE))


def validation_of(folder: Path, member: int) -> dict[str, tuple[int, float]]:
    """Return label and logit of each study that a member had for validation."""
    rows = csv.DictReader((folder / f"member-{member:02d}" / "predictions.csv").read_text().splitlines())
    return {row["sample_id"]: (int(row["label"]), float(row["logit"])) for row in rows if row["split"] == "validation"}


def _write_rows(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])


@pytest.fixture(scope="session")
def make_ensemble() -> EnsembleWriter:
    """Return the function that writes an ensemble of random weights into a new folder."""
    return write_ensemble


@pytest.fixture(scope="session")
def ensemble_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an ensemble of three members, its manifest `cohort.json` in it; nobody changes it."""
    return write_ensemble(tmp_path_factory.mktemp("ensemble") / "bce-alm")


@pytest.fixture(scope="session")
def packed_file(ensemble_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a packed model of three members with random weights; nobody changes it."""
    path = tmp_path_factory.mktemp("packed") / "prostate.zip"
    packed(ensemble_folder, path)
    return path


@pytest.fixture(scope="session")
def packed_model(packed_file: Path) -> PackedModel:
    """Return that model, opened."""
    return open_package(packed_file)


@pytest.fixture(scope="session")
def phantom_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of one synthetic DICOM study; a test that alters it copies it first."""
    return write_study(make_study(1), tmp_path_factory.mktemp("studies") / "one")
