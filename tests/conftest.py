"""What the tests of several rooms share: a synthetic cohort, its manifest, finished members, real data beside us."""

import csv
import gc
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from prostate_alm.data import synthetic
from prostate_alm.data.build import CohortPlan, DicomCohort, build_manifest
from prostate_alm.data.manifest import read_manifest, write_manifest
from prostate_alm.data.synthetic import SyntheticCohort, write_masks
from prostate_alm.phantom.cohort import make_cohort
from prostate_alm.training import results

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
STUDIES = 20


Once = Callable[[str, Callable[[Path], object]], Path]


def pytest_collection_finish() -> None:
    """Keep what was imported out of every search for garbage: half a million objects that stay."""
    gc.freeze()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a function that gives a folder which the first process of the run to ask for it fills, for all of them."""
    base = tmp_path_factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def filled(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def dicom_cohort(once: Once) -> Path:
    """Return a folder of 20 synthetic DICOM studies with `labels.csv`; a test that alters a study copies it first."""
    return once("dicom", lambda folder: make_cohort(folder / "cohort", studies=STUDIES, seed=0)) / "cohort"


@pytest.fixture(scope="session")
def cohort(dicom_cohort: Path, once: Once) -> Path:
    """Return the manifest of `dicom_cohort`, volumes beside it; a test that alters either copies the folder first."""
    studies = DicomCohort(dicom_cohort, dicom_cohort / "labels.csv")
    plan = "cohort.json"
    return once("manifest", lambda folder: build_manifest(studies, CohortPlan(folder / plan, test_share=0.3))) / plan


@pytest.fixture(scope="session")
def graded(cohort: Path, dicom_cohort: Path, once: Once) -> Path:
    """Return the manifest of `cohort` with the reader's findings; a test that alters it copies the folder first."""

    def fill(folder: Path) -> None:
        path = shutil.copytree(cohort.parent, folder / "cohort") / cohort.name
        with (dicom_cohort / "findings.csv").open(newline="") as stream:
            of_study = {row["id"]: row["finding"] for row in csv.DictReader(stream)}
        manifest = read_manifest(path)
        studies = tuple(study.model_copy(update={"finding": of_study[study.id]}) for study in manifest.studies)
        write_manifest(manifest.model_copy(update={"studies": studies}), path)

    return once("graded", fill) / "cohort" / cohort.name


@pytest.fixture(scope="session")
def lesion_cohort(dicom_cohort: Path, once: Once) -> Path:
    """Return the manifest of the 20 synthetic studies with their lesions and glands."""

    def fill(folder: Path) -> None:
        with one_process():
            masks = write_masks(folder / "masks", SyntheticCohort(studies=20, seed=0, masks=True))
        studies = DicomCohort(dicom_cohort, dicom_cohort / "labels.csv", masks_dir=masks)
        build_manifest(studies, CohortPlan(folder / "lesions.json", test_share=0.3))

    return once("lesions", fill) / "lesions.json"


@contextmanager
def one_process() -> Iterator[None]:
    """Make synthetic cohorts in this process: to start another takes as long as to read ten studies."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "available_workers", lambda: 1)
        yield


@pytest.fixture(scope="module")
def in_one_process() -> Iterator[None]:
    """Make the synthetic cohorts of a test file in this process."""
    with one_process():
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real data beside the repository, or skip."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` with the real study beside the repository")
    return SHARED


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 12 MB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.fixture
def fill_disk(small_disk: Path) -> Callable[[int], Path]:
    """Return a function that leaves so many KiB on the small disk, and gives the file that takes the rest."""

    def fill(left_kib: int) -> Path:
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as stream:
            stream.write(bytes((12 << 20) - (left_kib << 10)))
        return ballast

    return fill


@pytest.fixture
def closed_port() -> str:
    """Return the URL of a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


MemberWriter = Callable[..., Path]


@pytest.fixture(scope="session")
def write_member() -> MemberWriter:
    """Return a function that writes a finished member whose logits are random, larger for positives."""

    def write(
        folder: Path, number: int, *, separation: float = 0.5, positives: int = 20, extra: int = 20, **settings: Any
    ) -> Path:
        random = np.random.default_rng([number, *map(ord, folder.name)])
        path = folder / f"member-{number:02d}"
        path.mkdir(parents=True)
        config = {
            "bundle": "cifar10",
            "experiment": "cifar10-0-1",
            "settings": {"member": number, "loss": "bce", "alm": folder.name.endswith("alm"), "seed": 0} | settings,
            "versions": {"torch": "2"},
        }
        (path / "config.json").write_text(json.dumps(config))
        sizes = {"validation": (10, 30), "test": (positives, 60), "test_extra": (extra, 0)}
        metrics = {}
        with (path / "predictions.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("sample_id", "split", "label", "logit"))
            for split, counts in sizes.items():
                labels = np.repeat([1, 0], counts)
                logits = random.normal(size=len(labels)) + separation * labels
                for i, (label, logit) in enumerate(zip(labels, logits, strict=True)):
                    writer.writerow((f"{split}-{i}", split, label, repr(float(logit))))
                if counts[1]:
                    metrics[split] = results.summarise(labels, logits)
        (path / "history.csv").write_text("step,val_auc\n1.0,0.5\n2.0,0.75\n")
        (path / "metrics.json").write_text(json.dumps(metrics))
        return path

    return write
