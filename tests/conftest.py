"""What the tests of several rooms share: a synthetic cohort, its manifest, and the data beside the repository."""

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
