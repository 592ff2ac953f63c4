"""What the tests of several rooms share: a synthetic cohort, its manifest, and the data beside the repository."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prostate_alm.data.build import build_manifest
from prostate_alm.imaging.phantom import make_cohort

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
STUDIES = 20


@pytest.fixture(scope="session")
def dicom_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 20 synthetic DICOM studies with `labels.csv`; a test that alters a study copies it first."""
    return make_cohort(tmp_path_factory.mktemp("dicom") / "cohort", studies=STUDIES, seed=0)


@pytest.fixture(scope="session")
def cohort(dicom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifest of `dicom_cohort`, volumes beside it; a test that alters either copies the folder first."""
    output = tmp_path_factory.mktemp("manifest") / "cohort.json"
    build_manifest(dicom_cohort, dicom_cohort / "labels.csv", output=output, test_share=0.3, seed=0)
    return output


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
