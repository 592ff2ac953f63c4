"""Answers, refusals and studies in many manners of writing, for the objects that go back into a study."""

import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from prostate_alm.delivery.predict import StudyResult
from prostate_alm.delivery.prediction import (
    AppliedOperatingPoint,
    ModelIdentity,
    Prediction,
    QualityWarning,
    Refused,
)
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import StudyVolumes, Volume
from prostate_alm.phantom.cohort import make_study, write_study
from prostate_alm.phantom.protocol import Protocol

MODEL = ModelIdentity(
    name="prostate", version="1.0", sha256="ab" * 32, members=3, trained_on="a cohort", data_is_synthetic=True
)
ANSWER = Prediction(
    study="0123456789abcdef",
    probability=0.876543,
    decision="positive",
    logit=1.23456,
    logit_std=0.25,
    member_logits=(1.0, 1.2, 1.50368),
    operating_point=AppliedOperatingPoint(
        target_tpr=0.95, threshold=-0.4123, tpr=0.96, tpr_low=0.9, tpr_high=0.99,
        fpr=0.6, fpr_low=0.5, fpr_high=0.7, positives=40, negatives=100,
        threshold_probability=0.3456,
    ),
    b_values_s_per_mm2=(100.0, 600.0),
    b_values_acquired_s_per_mm2=(100.0, 600.0, 1000.0),
    b_values_computed=(False, True),
    series=(),
    warnings=(QualityWarning(code="b_values", message="b-values must be ≥ 50 s/mm², got 0"),),
    model=MODEL,
    software={"torch": "2.8.0"},
)  # fmt: skip
REFUSED = Refused(
    study="0123456789abcdef",
    code="no_t2",
    reason="study must hold axial T2, got ≤ 1 µm",
    series=(),
    model=MODEL,
    software={},
)
PAGE: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (30, 41, 3)).astype(np.uint8)
NOTHING = Volume(np.zeros((1, 1, 1), np.float32), np.eye(4))


class Samples:
    """What the tests of this folder start from, since pytest imports them without a package."""

    answer = ANSWER
    page = PAGE

    @staticmethod
    def answered(folder: Path, answer: Prediction = ANSWER) -> StudyResult:
        """Return the result for a study, without its voxels."""
        selection = explain_study(folder)
        assert selection.refused is None
        return StudyResult(answer, StudyVolumes(NOTHING, (), (), (), (), selection), None)

    @staticmethod
    def refused() -> StudyResult:
        """Return the result for a study that was refused."""
        return StudyResult(REFUSED, None, None)

    @staticmethod
    def save(made: Dataset, path: Path) -> Path:
        """Write an object to a file."""
        made.save_as(path, enforce_file_format=True)
        return path

    @staticmethod
    def complaints(path: Path) -> list[str]:
        """Return what dciodvfy says of a file, nothing where it is not installed; it cannot know a private scheme."""
        if shutil.which("dciodvfy") is None:
            return []
        verdict = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False, errors="replace")
        lines = (verdict.stderr + verdict.stdout).splitlines()
        return [line for line in lines if line.startswith(("Error", "Warning")) and "<99PROSTATEALM>" not in line]


@pytest.fixture(scope="session")
def samples() -> type[Samples]:
    """Return the answers, and the functions that turn them into results and files."""
    return Samples


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """Return the middle of the axial T2 and of the diffusion series of a synthetic study; copy before bending."""
    study = make_study(1)
    plan = replace(study.plan, protocol=Protocol("SIEMENS", "standard", one_series=True))
    folder = write_study(replace(study, plan=plan), tmp_path_factory.mktemp("phantom") / "study")
    found = [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))]
    chosen = [one for one in found if 3 <= one.SeriesNumber <= 5 and abs(middle_mm(one, found)) < 8]
    return [one for one in chosen if "ADC" not in one.ImageType]


def middle_mm(one: Dataset, found: list[Dataset]) -> float:
    """Return how far an image lies from the middle of its series, along the patient."""
    heights = [other.ImagePositionPatient[2] for other in found if other.SeriesNumber == one.SeriesNumber]
    return float(one.ImagePositionPatient[2] - (min(heights) + max(heights)) / 2)


@pytest.fixture
def bent(images: list[Dataset], tmp_path: Path) -> Callable[[Callable[[Dataset], None]], Path]:
    """Return a function that writes the study with every image changed in place by another function."""

    def write(change: Callable[[Dataset], None]) -> Path:
        folder = tmp_path / "study"
        folder.mkdir()
        for number, original in enumerate(images):
            image = deepcopy(original)
            change(image)
            image.save_as(folder / f"{number:03d}", enforce_file_format=True)
        return folder

    return write


@pytest.fixture(scope="session")
def study(images: list[Dataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the study; nobody changes it."""
    folder = tmp_path_factory.mktemp("plain")
    for number, image in enumerate(images):
        image.save_as(folder / f"{number:03d}", enforce_file_format=True)
    return folder
