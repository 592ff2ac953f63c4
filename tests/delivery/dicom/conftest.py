"""Answers, refusals and studies in many manners of writing, for the objects that go back into a study."""

import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from prostate_alm.delivery.lesions import LesionFindings
from prostate_alm.delivery.predict import StudyResult
from prostate_alm.delivery.prediction import (
    AppliedOperatingPoint,
    LesionCandidate,
    ModelIdentity,
    Prediction,
    QualityWarning,
    Refused,
)
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import StudyVolumes, Volume, load_volume
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
BALLS = (([-15.0, 3.0, 2.0], 6.0, 0.83), ([13.0, -5.0, 0.0], 4.0, 0.41))
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
    def with_lesions(folder: Path) -> StudyResult:
        """Return the result of a model of lesions for a study: two balls, 6 and 4 mm, around places in the patient."""
        result = Samples.answered(folder)
        selection = result.volumes.selection if result.volumes else None
        assert selection is not None
        assert selection.t2 is not None
        return replace(result, lesions=two_balls(load_volume(selection.t2)))

    @staticmethod
    def refused() -> StudyResult:
        """Return the result for a study that was refused."""
        return StudyResult(REFUSED, None, None)

    @staticmethod
    def multi_frame(frames: list[Dataset]) -> Dataset:
        """Return classic images as one Enhanced MR object."""
        return multi_frame(frames)

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


def two_balls(t2: Volume) -> LesionFindings:
    """Return findings on the grid of T2: what lies within 6 and 4 mm of two places near its middle."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ t2.affine_ras_mm  # voxels to LPS
    voxels = np.indices(t2.voxels.shape).reshape(3, -1)
    places_mm = (affine[:3, :3] @ voxels + affine[:3, 3:]).reshape(3, *t2.voxels.shape)
    middle_mm = places_mm.reshape(3, -1).mean(1)
    candidates, labels = [], np.zeros(t2.voxels.shape, np.uint8)
    probability = np.zeros(t2.voxels.shape, np.float32)
    for number, (offset_mm, radius_mm, sure) in enumerate(BALLS, start=1):
        from_centre_mm = np.linalg.norm(places_mm - (middle_mm + offset_mm)[:, None, None, None], axis=0)
        probability = np.maximum(probability, (sure * np.exp(-from_centre_mm / 5)).astype(np.float32))
        labels[from_centre_mm <= radius_mm] = number
        peak = np.unravel_index(from_centre_mm.argmin(), labels.shape)
        x, y, z = places_mm[(slice(None), *peak)].tolist()
        volume_mm3 = float((labels == number).sum() * abs(np.linalg.det(affine)))
        side: Any = ("right", "left")[number - 1]
        candidates.append(
            LesionCandidate(
                number=number, probability=sure, position_mm=(x, y, z), volume_mm3=volume_mm3, side=side, level="mid"
            )
        )
    return LesionFindings(probability, labels, affine, tuple(candidates))


def multi_frame(frames: list[Dataset]) -> Dataset:
    """Return classic images as one Enhanced MR object."""
    whole, first = Dataset(), frames[0]
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in ("SOPInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
                    "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "SeriesInstanceUID", "FrameOfReferenceUID",
                    "Modality", "SeriesNumber", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
                    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):  # fmt: skip
        setattr(whole, keyword, first[keyword].value)
    whole.SOPClassUID, whole.NumberOfFrames = EnhancedMRImageStorage, len(frames)
    whole.EchoPulseSequence = "SPIN"
    whole.EchoPlanarPulseSequence = "YES" if "DiffusionBValue" in first else "NO"
    shared = Dataset()
    shared.PlaneOrientationSequence = [item_of(ImageOrientationPatient=first.ImageOrientationPatient)]
    shared.PixelMeasuresSequence = [item_of(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)]
    shared.MREchoSequence = [item_of(EffectiveEchoTime=float(first.EchoTime))]
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = [frame_of(one) for one in frames]
    whole.PixelData = b"".join(one.PixelData for one in frames)
    return whole


def frame_of(image: Dataset) -> Dataset:
    """Return the functional groups of one frame."""
    group = Dataset()
    group.PlanePositionSequence = [item_of(ImagePositionPatient=image.ImagePositionPatient)]
    group.MRImageFrameTypeSequence = [item_of(FrameType=image.ImageType)]
    if "DiffusionBValue" in image:
        group.MRDiffusionSequence = [
            item_of(DiffusionBValue=float(image.DiffusionBValue), DiffusionDirectionality="ISOTROPIC")
        ]
    return group


def item_of(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


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
