"""Studies whose volumes are image files (MetaImage, NIfTI): read, checked, brought onto the grid of T2."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from prostate_alm.data.convert import guarded, unreadable
from prostate_alm.data.manifest import DiffusionChannel
from prostate_alm.data.masks import MaskSource
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume, harmonise, resample
from prostate_alm.whole_files import sha256_of_file

SAME_GRID_MM = 0.01  # far below a voxel: such volumes are not interpolated
_PERPENDICULAR = 1e-3  # largest cosine between two axes of a grid; headers are rounded

_ADVICE = "Fetch the file again, and report the error if it stays."


@dataclass(frozen=True)
class AdcStudy:
    """T2, a map of the apparent diffusion coefficient, and an image at a high b-value, one file each.

    `b_values_acquired_s_per_mm2` is what is known of the b-values that were acquired; it may be empty.
    """

    t2: Path
    adc: Path
    high_b: Path
    b_values_acquired_s_per_mm2: tuple[float, ...] = ()
    masks: MaskSource | None = None

    @property
    def b_values_s_per_mm2(self) -> tuple[float, ...]:
        """None: the volumes are channels."""
        return ()

    @property
    def diffusion_channels(self) -> tuple[DiffusionChannel, ...]:
        """The ADC and the image at a high b-value."""
        return "adc", "high_b"

    @property
    def rules_sha256(self) -> None:
        """None: nothing is chosen by rules."""
        return None

    def sha256(self) -> str:
        """Return a checksum of the three files, each in its role."""
        return checksum(self.t2, self.adc, self.high_b)

    def read(self) -> StudyVolumes:
        """Return T2, and ADC and high b-value on its grid."""
        return guarded(self._read, advice=_ADVICE)

    def _read(self) -> StudyVolumes:
        t2 = read_volume(self.t2)
        diffusion = tuple(on_grid(read_volume(path), t2, name=path.name) for path in (self.adc, self.high_b))
        return StudyVolumes(t2, diffusion, (), self.b_values_acquired_s_per_mm2, (), Selection(None, (), None, ()))


@dataclass(frozen=True)
class DwiStudy:
    """T2, and one file of diffusion volumes (I, J, K, B) with their b-values.

    `b_values_computed` are flags of volumes that the file's author computed; () where all were acquired.
    """

    t2: Path
    dwi: Path
    b_values_of_volumes_s_per_mm2: tuple[float, ...]
    b_values_s_per_mm2: tuple[float, ...]
    b_values_acquired_s_per_mm2: tuple[float, ...]
    b_values_computed: tuple[bool, ...] = ()
    masks: MaskSource | None = None

    @property
    def diffusion_channels(self) -> tuple[DiffusionChannel, ...]:
        """None: the volumes are b-values."""
        return ()

    @property
    def rules_sha256(self) -> None:
        """None: nothing is chosen by rules."""
        return None

    def sha256(self) -> str:
        """Return a checksum of the two files and of what is known of the b-values."""
        known = (self.b_values_of_volumes_s_per_mm2, self.b_values_acquired_s_per_mm2, self.b_values_computed)
        return hashlib.sha256(f"{checksum(self.t2, self.dwi)} {known}".encode()).hexdigest()

    def read(self) -> StudyVolumes:
        """Return T2, and a volume on its grid for each wanted b-value."""
        return guarded(self._read, advice=_ADVICE)

    def _read(self) -> StudyVolumes:
        t2 = read_volume(self.t2)
        volumes = read_volumes(self.dwi)
        held = self.b_values_of_volumes_s_per_mm2
        if len(volumes) != len(held):
            raise StudyRefused(
                "other_b_values",
                f"{self.dwi.name} must have one volume for each of its {len(held)} b-values, got {len(volumes)}. "
                "Correct the .bval file.",
            )
        chosen, fitted = harmonise(volumes, held, b_values_s_per_mm2=self.b_values_s_per_mm2)
        flags = self.b_values_computed or (False,) * len(held)
        computed = tuple(
            is_fitted or flags[int(np.abs(np.subtract(held, wanted)).argmin())]
            for wanted, is_fitted in zip(self.b_values_s_per_mm2, fitted, strict=True)
        )
        on_t2 = tuple(on_grid(one, t2, name=self.dwi.name) for one in chosen)
        return StudyVolumes(
            *(t2, on_t2, self.b_values_s_per_mm2, self.b_values_acquired_s_per_mm2, computed),
            Selection(None, (), None, ()),
        )


def checksum(*files: Path) -> str:
    """Return a checksum of the contents of files in their order; their names do not count.

    Raises:
        StudyRefused: one cannot be read.
    """
    try:
        return hashlib.sha256(" ".join(sha256_of_file(path) for path in files).encode()).hexdigest()
    except OSError as error:
        raise unreadable(error) from error


def read_volume(path: Path) -> Volume:
    """Return the one volume of an image file.

    Args:
        path: MetaImage (.mha) or NIfTI (.nii, .nii.gz).

    Returns:
        Float32 voxels (I, J, K) and their affine to RAS, mm.

    Raises:
        StudyRefused: the file is damaged, holds several volumes, no geometry, or values that are no numbers.
    """
    volumes = read_volumes(path)
    if len(volumes) != 1:
        raise StudyRefused(
            "other_dimensions", f"{path.name} must hold one volume, got {len(volumes)}. Fetch the file again."
        )
    return volumes[0]


def read_volumes(path: Path) -> tuple[Volume, ...]:
    """Return the volumes of an image file along its last axis.

    Args:
        path: a MetaImage or a NIfTI file, voxels (I, J, K) or (I, J, K, B).

    Returns:
        B volumes (I, J, K), one for a file of one volume; the affine is in mm, RAS.

    Raises:
        StudyRefused: the file cannot be read, has other dimensions, or holds no usable voxels or geometry.
    """
    voxels, affine_ras_mm = _read_metaimage(path) if path.suffix == ".mha" else _read_nifti(path)
    if voxels.ndim not in (3, 4) or min(voxels.shape) < 1 or voxels.shape[2] < 2:
        raise StudyRefused(
            "other_dimensions", f"{path.name} must hold volumes of two slices or more, got the shape {voxels.shape}."
        )
    if not np.isfinite(voxels).all():
        raise StudyRefused("undecodable_pixels", f"voxels must be numbers, got others in {path.name}. Fetch it again.")
    _require_geometry(affine_ras_mm, path)
    stacked = voxels if voxels.ndim == 4 else voxels[..., None]  # (I, J, K, B)
    return tuple(Volume(stacked[..., index], affine_ras_mm) for index in range(stacked.shape[-1]))


def _read_metaimage(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    import SimpleITK  # takes half a second, which listing a collection need not wait for

    sitk: Any = SimpleITK
    try:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    except RuntimeError as error:  # its message holds paths and lines of C++
        raise _damaged(path) from error
    size = image.GetDimension()
    if size != 3:
        raise StudyRefused("other_dimensions", f"{path.name} must hold one volume, got {size} dimensions.")
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    lps_to_ras = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0)), lps_to_ras @ affine


def _read_nifti(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    try:
        image: Any = nib.load(path)
        voxels = image.get_fdata(dtype=np.float32, caching="unchanged")
    except FileNotFoundError as error:
        raise unreadable(error) from error
    except Exception as error:  # gzip, zlib and nibabel have their own exceptions for damaged files
        raise _damaged(path) from error
    if not int(image.header["sform_code"]) and not int(image.header["qform_code"]):
        raise StudyRefused("no_geometry", f"{path.name} must say where it lies, got neither sform nor qform.")
    return voxels, np.asarray(image.affine, dtype=np.float64)


def _damaged(path: Path) -> StudyRefused:
    return StudyRefused(
        "truncated", f"image files must be whole, got {path.name}, which cannot be read. Fetch the file again."
    )


def _require_geometry(affine_ras_mm: NDArray[np.float64], path: Path) -> None:
    """Refuse a grid whose axes are not perpendicular: resampling would be a guess."""
    lengths = np.linalg.norm(affine_ras_mm[:3, :3], axis=0)
    if not np.isfinite(affine_ras_mm).all() or lengths.min() <= 0:
        raise StudyRefused("no_geometry", f"voxels of {path.name} must have a size and a place, got none.")
    axes = affine_ras_mm[:3, :3] / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > _PERPENDICULAR:
        raise StudyRefused("no_geometry", f"axes of {path.name} must be perpendicular, got a sheared grid.")


def on_grid(volume: Volume, t2: Volume, *, name: str) -> Volume:
    """Return a volume on the grid of T2: linear between voxel centres, 0 outside the field of view.

    One that lies on that grid already is returned as it is.

    Args:
        volume: diffusion.
        t2: the reference.
        name: of the file, for the message.

    Raises:
        StudyRefused: `no_overlap`, the centre of either volume lies outside the other: they are of different patients,
            or the geometry of one is wrong.
    """
    if volume.voxels.shape == t2.voxels.shape and _near(volume, t2):
        return Volume(volume.voxels, t2.affine_ras_mm)
    for one, other in ((volume, t2), (t2, volume)):
        if not _holds(one, _centre_ras_mm(other)):
            raise StudyRefused(
                "no_overlap",
                f"T2 and {name} must show one region, got volumes of which one does not hold the other's centre. "
                "Are they of one patient? Fetch the study again.",
            )
    return resample(volume, reference=t2)


def _near(one: Volume, other: Volume) -> bool:
    """Return whether the corners of two grids of one shape coincide."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in one.voxels.shape], indexing="ij")).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])  # (4, 8)
    return bool(np.abs((one.affine_ras_mm - other.affine_ras_mm) @ homogeneous).max() <= SAME_GRID_MM)


def _centre_ras_mm(volume: Volume) -> NDArray[np.float64]:
    return np.asarray(volume.affine_ras_mm @ np.append((np.array(volume.voxels.shape) - 1) / 2, 1.0))


def _holds(volume: Volume, point_ras_mm: Sequence[float] | NDArray[np.float64]) -> bool:
    index = (np.linalg.inv(volume.affine_ras_mm) @ point_ras_mm)[:3]
    return bool(np.all(index >= -0.5) and np.all(index <= np.array(volume.voxels.shape) - 0.5))
