"""Tiny studies in the formats of public collections, for tests that pytest imports without a package."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import quick_dicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

SHAPE = (8, 9, 6)
"""Columns, rows and slices of a T2 volume."""
ADC_MM2_PER_S = 1.5e-3


def oblique_affine(*, spacing_mm: tuple[float, float, float] = (2.0, 2.0, 3.0), shift_mm: float = 0.0) -> np.ndarray:
    """Return an affine to RAS as axial prostate T2 has: tilted by 6 degrees about the left-right axis."""
    angle = np.radians(6)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2]])
    affine[:3, 3] = np.array([7.0, 9.0, -8.0]) + shift_mm
    return affine


def voxels_of(seed: int, shape: tuple[int, ...] = SHAPE, *, highest: int = 1000) -> np.ndarray:
    """Return random whole numbers, float32."""
    return np.random.default_rng(seed).integers(1, highest, shape).astype(np.float32)


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a NIfTI file in scanner coordinates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, oblique_affine() if affine is None else affine)
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    nib.save(image, path)
    return path


def write_mha(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a compressed MetaImage of 16 bits, LPS, as the collections have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ (oblique_affine() if affine is None else affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels.astype(np.int16).transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), True)
    return path


def write_dicom(folder: Path, *, seed: int, b_values: Iterable[float] = (50.0, 400.0, 800.0)) -> Path:
    """Write an axial T2 series and a diffusion series as small DICOM files, one folder a series."""
    _write_series(folder / "3.000000-t2tsetra-1", seed, "t2_tse_tra", 3, None)
    for b_value in b_values:
        _write_series(folder / "5.000000-ep2ddifftra-2", seed, "ep2d_diff_tra", 5, b_value)
    return folder


def _write_series(folder: Path, seed: int, description: str, number: int, b_value: float | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    signal = voxels_of(seed, (SHAPE[2], SHAPE[1], SHAPE[0])) * np.exp(-(b_value or 0.0) * ADC_MM2_PER_S)
    for index, plane in enumerate(signal):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = MRImageStorage
        image.SOPInstanceUID = _uid(f"{folder} {seed} {number} {b_value} {index}")
        image.StudyInstanceUID, image.SeriesInstanceUID = _uid(f"{seed}"), _uid(f"{seed} {number}")
        image.FrameOfReferenceUID = _uid(f"{seed} frame")
        image.PatientName, image.PatientID, image.Modality = "Secret^Name", f"SECRET-{seed % 10}", "MR"
        image.SeriesDescription, image.SeriesNumber, image.InstanceNumber = description, number, index + 1
        is_t2 = b_value is None
        image.ImageType = ["ORIGINAL", "PRIMARY", "M"] if is_t2 else ["ORIGINAL", "PRIMARY", "DIFFUSION", "TRACEW"]
        image.ScanningSequence, image.EchoTime = ("SE", 104.0) if is_t2 else ("EP", 63.0)
        image.RepetitionTime, image.PixelSpacing, image.SliceThickness = 5000.0, [2.0, 2.0], 3.0
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [-8.0, -9.0, 3.0 * index]
        if b_value is not None:
            image.DiffusionBValue = float(b_value)
        image.Rows, image.Columns = plane.shape
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.PixelData = np.round(plane).astype("<u2").tobytes()
        name = f"1-{index + 1:02d}-{b_value or 0:g}.dcm"
        quick_dicom.save(image, folder / name)


def _uid(name: str) -> str:
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:12], 'big')}"


def write_rows(path: Path, rows: Iterable[Iterable[object]], *, delimiter: str = ",") -> Path:
    """Write a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(delimiter.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


class Files:
    """The functions of this module."""

    shape = SHAPE
    affine = staticmethod(oblique_affine)
    voxels = staticmethod(voxels_of)
    nifti = staticmethod(write_nifti)
    mha = staticmethod(write_mha)
    dicom = staticmethod(write_dicom)
    rows = staticmethod(write_rows)


@pytest.fixture(scope="session")
def files() -> type[Files]:
    """Return the writers of small files."""
    return Files
