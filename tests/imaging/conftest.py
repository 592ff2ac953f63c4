"""Small synthetic MR studies as DICOM data sets, to be bent by a test and then written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_dicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

REAL_STUDY = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "prostatex" / "ProstateX-0001"
OBLIQUE = (1.0, 0.0, 0.0, 0.0, np.cos(0.11), -np.sin(0.11))  # 6.3 degrees, as in the real study
ADC_MM2_PER_S = 1.5e-3


def uid(name: str) -> str:
    """Return a valid UID that depends on the name alone."""
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:12], 'big')}"


def make_series(number: int, **changes: Any) -> list[Dataset]:
    """Return the images of one axial T2 series; `changes` replaces the defaults or adds elements by keyword."""
    options: dict[str, Any] = {
        "slices": 6, "gap_mm": 3.0, "shape": (8, 10), "origin_mm": (-5.0, -4.0, 0.0), "b_values": (None,),
        "study": "study", "frame": "frame", "signal": None,
    }  # fmt: skip
    options.update({key: changes.pop(key) for key in list(changes) if key in options})
    elements: dict[str, Any] = {
        "SeriesDescription": "t2_tse_tra", "ImageType": ["ORIGINAL", "PRIMARY", "M"], "ScanningSequence": "SE",
        "EchoTime": 104.0, "RepetitionTime": 5000.0, "ImageOrientationPatient": list(OBLIQUE), "ScanOptions": "",
        "PixelSpacing": [0.5, 0.5], "SliceThickness": 3.0, "AcquisitionDate": "20240102",
        "AcquisitionTime": f"{100000 + 100 * number}.000000", "SequenceName": "*tse2d1_25",
    }  # fmt: skip
    elements.update(changes)
    images = []
    for b_value in options["b_values"]:
        for index in range(options["slices"]):
            images.append(_image(number, index, len(images), b_value, options, elements))
    return images


def make_diffusion(number: int, *, b_values: Sequence[float] = (50.0, 400.0, 800.0), **changes: Any) -> list[Dataset]:
    """Return the trace images of a diffusion series with the standard b-value element."""
    defaults: dict[str, Any] = {
        "SeriesDescription": "ep2d_diff_tra", "ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW"],
        "ScanningSequence": "EP", "EchoTime": 63.0, "RepetitionTime": 2700.0, "PixelSpacing": [1.0, 1.0],
        "shape": (6, 7), "origin_mm": (-4.0, -3.0, 0.0), "SequenceName": "",
    }  # fmt: skip
    return make_series(number, b_values=b_values, **(defaults | changes))


def make_study(**changes: Any) -> list[Dataset]:
    """Return a study that is used: axial T2 (series 2) and diffusion at b 50, 400, 800 (series 3)."""
    return make_series(2, **changes) + make_diffusion(3, **changes)


def make_enhanced(images: Sequence[Dataset], **top: Any) -> Dataset:
    """Return the images of one series as the frames of one Enhanced MR object, each value in its functional group."""
    whole, first = Dataset(), images[0]
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = first.file_meta.TransferSyntaxUID
    for element in first:
        if element.keyword in _OF_THE_OBJECT:
            whole.add(element)
    whole.SOPClassUID, whole.NumberOfFrames = EnhancedMRImageStorage, len(images)
    whole.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", "MIXED"]
    whole.EchoPulseSequence = "SPIN"
    whole.EchoPlanarPulseSequence = "YES" if first.ScanningSequence == "EP" else "NO"
    if first.get("SequenceName"):
        whole.PulseSequenceName = first.SequenceName
    shared = Dataset()
    shared.PlaneOrientationSequence = [make_item(ImageOrientationPatient=first.ImageOrientationPatient)]
    shared.PixelMeasuresSequence = [make_item(PixelSpacing=first.PixelSpacing, SliceThickness=3.0)]
    shared.MREchoSequence = [make_item(EffectiveEchoTime=float(first.EchoTime))]
    shared.MRTimingAndRelatedParametersSequence = [make_item(RepetitionTime=first.RepetitionTime)]
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = [_frame(image) for image in images]
    whole.PixelData = b"".join(image.PixelData for image in images)
    for keyword, value in top.items():
        setattr(whole, keyword, value)
    return whole


def make_item(**elements: Any) -> Dataset:
    """Return a data set of the given elements."""
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


_OF_THE_OBJECT = frozenset(
    {"SOPInstanceUID", "PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"}
    | {"Modality", "Manufacturer", "MagneticFieldStrength", "SeriesNumber", "SeriesDescription", "InstanceNumber"}
    | {"AcquisitionDate", "AcquisitionTime", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation"}
    | {"BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"}
)


def _frame(image: Dataset) -> Dataset:
    """Return the functional groups of one frame; b = 0 has no direction."""
    group = Dataset()
    group.PlanePositionSequence = [make_item(ImagePositionPatient=image.ImagePositionPatient)]
    group.MRImageFrameTypeSequence = [make_item(FrameType=image.ImageType)]
    if "DiffusionBValue" in image:
        told = image.get("DiffusionDirectionality") or ("ISOTROPIC" if image.DiffusionBValue else "NONE")
        group.MRDiffusionSequence = [make_item(DiffusionBValue=image.DiffusionBValue, DiffusionDirectionality=told)]
    return group


def save(folder: Path, images: Iterable[Dataset]) -> Path:
    """Write the images under names that say nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        quick_dicom.save(image, folder / f"{index:04d}")
    return folder


def _image(
    number: int, index: int, count: int, b_value: float | None, options: dict[str, Any], elements: dict[str, Any]
) -> Dataset:
    """Return one image."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = MRImageStorage
    image.SOPInstanceUID = uid(f"{options['study']} {number} {count}")
    image.PatientName, image.PatientID = "Secret^Name", "SECRET-ID"
    image.StudyInstanceUID, image.SeriesInstanceUID = uid(options["study"]), uid(f"{options['study']} {number}")
    image.FrameOfReferenceUID = uid(options["frame"])
    image.Modality, image.Manufacturer, image.MagneticFieldStrength = "MR", "TEST", 3.0
    image.SeriesNumber, image.InstanceNumber = number, count + 1
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    cosines = np.array(image.ImageOrientationPatient, dtype=float)
    normal = np.cross(cosines[:3], cosines[3:])
    position = np.array(options["origin_mm"]) + index * options["gap_mm"] * normal
    image.ImagePositionPatient = [f"{value:.9g}" for value in position]
    if b_value is not None:
        image.DiffusionBValue = float(b_value)
    _set_pixels(image, _signal(number, index, b_value, options))
    return image


def _signal(number: int, index: int, b_value: float | None, options: dict[str, Any]) -> np.ndarray:
    """Return the stored values: random, falling mono-exponentially with b."""
    if options["signal"] is not None:
        return np.asarray(options["signal"](index, b_value))
    base = np.random.default_rng(1000 * number + index).integers(500, 4000, options["shape"])
    return np.round(base * np.exp(-(b_value or 0.0) * ADC_MM2_PER_S))


def _set_pixels(image: Dataset, values: np.ndarray) -> None:
    """Store values as 12 bits in 16, as MR scanners do."""
    image.Rows, image.Columns = values.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelData = values.astype("<u2").tobytes()


class Builder:
    """The functions of this module, for tests that pytest imports without a package."""

    series = staticmethod(make_series)
    diffusion = staticmethod(make_diffusion)
    study = staticmethod(make_study)
    enhanced = staticmethod(make_enhanced)
    item = staticmethod(make_item)
    save = staticmethod(save)
    uid = staticmethod(uid)
    adc_mm2_per_s = ADC_MM2_PER_S


@pytest.fixture(scope="session")
def build() -> type[Builder]:
    """Return the builder of synthetic studies."""
    return Builder


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Iterable[Dataset]], Path]:
    """Return a function that writes images into a fresh folder."""
    return lambda images: save(tmp_path / "study", images)


@pytest.fixture(scope="session")
def real_study() -> Path:
    """Return the folder of the real study, or skip."""
    if not REAL_STUDY.is_dir():
        pytest.skip("the real PROSTATEx study is not beside this checkout")
    return REAL_STUDY
