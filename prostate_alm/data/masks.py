"""Masks of lesions and gland: what a label map must be, how it comes onto the grid of T2, how it is checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prostate_alm.data.manifest import Manifest, MaskKind, StudyRecord
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.geometry import POSITION_TOLERANCE_MM
from prostate_alm.imaging.volume import StudyVolumes, Volume, resample_labels
from prostate_alm.progress import Progress, silent

MASK_FILES: dict[MaskKind, str] = {"lesions": "lesions.nii.gz", "gland": "gland.nii.gz"}
HIGHEST_LABEL = 255

LabelMap = NDArray[np.uint8]
Labels = NDArray[np.float32] | LabelMap


@dataclass(frozen=True, eq=False)
class StudyMasks:
    """The masks of one study on the grid of T2 (I, J, K), and for each that could not be used the reason."""

    labels: dict[MaskKind, LabelMap]
    refused: dict[MaskKind, StudyRefused]


class MaskSource(Protocol):
    """Where the masks of one study come from."""

    def sha256(self) -> str:
        """Return a checksum of all that the masks are made from; raise `StudyRefused` for an unreadable file."""

    def read(self, study: StudyVolumes) -> StudyMasks:
        """Return the masks on the grid of T2; one that cannot be used does not stop the other."""


def numbered(labels: Labels) -> LabelMap:
    """Return a map in which each lesion has a number: a binary one is split, another stays as it is.

    Args:
        labels: (I, J, K), whole numbers from 0 to 255.

    Returns:
        (I, J, K). Of a map of 0 and 1 the connected components, neighbours being the 26 voxels around; they are
        numbered in the order of their first voxels by (k, j, i). Numbering a numbered map changes nothing.

    Raises:
        StudyRefused: `too_many_lesions`, a binary map has more than 255 components.

    >>> numbered(np.array([[[1]], [[0]], [[1]]], np.uint8)).ravel().tolist()
    [1, 0, 2]
    """
    if labels.max(initial=0) > 1:
        return labels.astype(np.uint8)
    components, count = ndimage.label(np.transpose(labels), structure=np.ones((3, 3, 3)))  # (K, J, I)
    if count > HIGHEST_LABEL:
        raise StudyRefused(
            "too_many_lesions",
            f"a mask must hold at most {HIGHEST_LABEL} lesions, got {count} parts that do not touch. Is it a mask?",
        )
    return in_order(np.transpose(components))


def in_order(labels: NDArray[Any]) -> LabelMap:
    """Return a map (I, J, K) whose labels are 1, 2, ... in the order of their first voxels by (k, j, i).

    >>> in_order(np.array([[[4]], [[0]], [[2]]])).ravel().tolist()
    [1, 0, 2]
    """
    whole = labels.astype(np.intp)
    values, first = np.unique(np.transpose(whole), return_index=True)
    found = values[np.argsort(first)]
    number = np.zeros(int(values.max(initial=0)) + 1, np.uint8)
    number[found[found > 0]] = np.arange(1, np.count_nonzero(found) + 1)
    return np.asarray(number[whole])


def require_labels(labels: Labels, *, name: str) -> None:
    """Raise `StudyRefused` (`bad_labels`) unless all values are whole numbers from 0 to 255.

    Args:
        labels: what a file holds, finite.
        name: of the file.
    """
    wrong = labels[(labels != np.rint(labels)) | (labels < 0) | (labels > HIGHEST_LABEL)]
    if wrong.size:
        raise StudyRefused(
            "bad_labels",
            f"labels must be whole numbers from 0 to {HIGHEST_LABEL}, got {wrong[0]:g} in {name}. "
            "Export the labels, not a probability or a smoothed mask.",
        )


def require_lattice(mask: Volume, image: Volume, *, name: str, image_name: str) -> None:
    """Raise `StudyRefused` (`other_geometry`) unless the voxels of a mask lie where those of its image do.

    The order and direction of the axes may differ, as they do between programs; places may by 0.1 mm.

    Args:
        mask: a label map.
        image: what it was drawn on.
        name: of the mask's file.
        image_name: of the image.
    """
    turn = np.linalg.inv(image.affine_ras_mm) @ mask.affine_ras_mm  # index of the mask -> index of the image
    order = np.rint(turn[:3, :3])
    is_order = bool((np.abs(order).sum(axis=0) == 1).all() and (np.abs(order).sum(axis=1) == 1).all())
    if is_order and tuple(np.abs(order) @ mask.voxels.shape) == image.voxels.shape:
        corners = _corners(mask.voxels.shape)
        nearest = np.clip(np.rint(turn @ corners), 0, np.append(np.array(image.voxels.shape) - 1, 1)[:, None])
        apart_mm = np.linalg.norm((mask.affine_ras_mm @ corners - image.affine_ras_mm @ nearest)[:3], axis=0).max()
        if apart_mm <= POSITION_TOLERANCE_MM:
            return
        found = f"corners {apart_mm:.2f} mm apart"
    else:
        found = f"{_size(mask)} against {_size(image)}"
    raise StudyRefused(
        "other_geometry",
        f"{name} must lie on the grid of {image_name} to {POSITION_TOLERANCE_MM:g} mm, got {found}. "
        "Is it of this study? Draw it on that image, or export it on its grid by nearest neighbour.",
    )


def _size(volume: Volume) -> str:
    spacing_mm = np.linalg.norm(volume.affine_ras_mm[:3, :3], axis=0)
    return f"{volume.voxels.shape} voxels of {' x '.join(f'{value:.2f}' for value in spacing_mm)} mm"


def _corners(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the indices of the eight outermost voxels, homogeneous, (4, 8)."""
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape], indexing="ij")).reshape(3, -1)
    return np.vstack([corners, np.ones(8)])


def lesions_on(t2: Volume, drawn: Volume, *, name: str) -> LabelMap:
    """Return a map of lesions on the grid of T2, by the nearest voxel, each with its number.

    Args:
        t2: the reference.
        drawn: 0 and lesions, on any grid; see `numbered`.
        name: of the file.

    Returns:
        (I, J, K) of T2. The parts of a binary map are numbered in the order in which they lie on that grid.

    Raises:
        StudyRefused: `outside`, T2 does not show a lesion, or no voxel of it is nearest to one of the lesion.
    """
    is_binary = drawn.voxels.max(initial=0) <= 1
    lesions = Volume(numbered(drawn.voxels).astype(np.float32), drawn.affine_ras_mm)
    moved = resample_labels(lesions, reference=t2).voxels
    _require_inside(lesions, t2, moved, name=name)
    return in_order(moved) if is_binary else moved.astype(np.uint8)


def _require_inside(lesions: Volume, t2: Volume, moved: NDArray[np.float32], *, name: str) -> None:
    index = np.argwhere(lesions.voxels > 0)
    numbers = lesions.voxels[tuple(index.T)]
    homogeneous = np.column_stack([index, np.ones(len(index))])
    places = (homogeneous @ (np.linalg.inv(t2.affine_ras_mm) @ lesions.affine_ras_mm).T)[:, :3]
    half = 0.5 + 1e-3  # a rounded header may put the outermost voxel's face beyond that of T2
    outside = ((places < -half) | (places > np.array(t2.voxels.shape) - 1 + half)).any(axis=1)
    for number in np.unique(numbers):
        voxels = int(np.count_nonzero(outside & (numbers == number)))
        if voxels or not (moved == number).any():
            found = f"{voxels} voxels outside" if voxels else "one too small for a voxel of T2"
            raise StudyRefused(
                "outside",
                f"T2 must show each lesion, got {found} of lesion {number:g} in {name}. Is the mask of this study?",
            )


def gland_on(t2: Volume, drawn: Volume, *, name: str) -> LabelMap:
    """Return the gland, 1 where a map has any label, on the grid of T2 by the nearest voxel.

    Raises:
        StudyRefused: `empty_gland`, nothing of it lies within T2.
    """
    gland = Volume((drawn.voxels > 0).astype(np.float32), drawn.affine_ras_mm)
    moved = resample_labels(gland, reference=t2).voxels.astype(np.uint8)
    if not moved.any():
        where = "within T2" if gland.voxels.any() else "in the file"
        raise StudyRefused(
            "empty_gland",
            f"a gland mask must hold the gland, got no voxel of it {where} in {name}. Leave the file out.",
        )
    return moved


def label_fault(label: int, lesions: int) -> str:
    """Return how a study's label contradicts its number of lesions, '' where it does not."""
    if bool(label) == (lesions > 0):
        return ""
    return (
        f"lesions must make the label, none for 0 and one or more for 1, got {lesions} with label {label}. "
        "Correct one of them, or build with --lesions-beside-label."
    )


def check_masks(manifest: Manifest, manifest_path: Path, *, progress: Progress = silent) -> list[str]:
    """Read every mask and compare it with its T2 and with the study's label; checksums are `manifest.check_files`'.

    Args:
        manifest: the cohort.
        manifest_path: where it was read from.
        progress: called with (studies done, studies in all) after each study.

    Returns:
        One line for each fault: a grid that is not that of T2, labels that are not whole numbers from 0 to 255, an
        empty gland, lesions that contradict the label where they make it. Empty where there is none.
    """
    faults: list[str] = []
    for done, study in enumerate(manifest.studies, start=1):
        faults += _faults(study, manifest, manifest_path.parent)
        progress(done, len(manifest.studies))
    return faults


def _faults(study: StudyRecord, manifest: Manifest, folder: Path) -> Iterator[str]:
    files = {"lesions": study.lesions, "gland": study.gland}
    for kind, file in files.items():
        if file is None:
            continue
        try:
            mask: Any = nib.load(folder / file.path)
            t2: Any = nib.load(folder / study.t2.path)
            labels = np.asarray(mask.dataobj)
        except Exception as error:  # gzip, zlib and nibabel have their own exceptions for damaged files
            yield f"{kind} of study {study.id} must be readable, got {type(error).__name__}. Build the manifest again."
            continue
        try:
            _require_grid(mask, t2, name=file.path)
            require_labels(labels, name=file.path)
        except StudyRefused as error:
            yield f"{kind} of study {study.id}: {error.reason}"
            continue
        if kind == "gland" and not labels.any():
            yield f"gland of study {study.id} must hold the gland, got no voxel in {file.path}. Leave the mask out."
        if kind == "lesions" and manifest.lesions_make_label:
            fault = label_fault(study.label, len(np.unique(labels[labels > 0])))
            if fault:
                yield f"study {study.id}: {fault}"


def _require_grid(mask: Any, t2: Any, *, name: str) -> None:
    """Raise `StudyRefused` unless a mask has the axes of T2 in their order: training reads voxel by voxel."""
    one, other = (Volume(np.empty(image.shape, np.float32), image.affine) for image in (mask, t2))
    require_lattice(one, other, name=name, image_name="T2")
    apart_mm = np.abs((one.affine_ras_mm - other.affine_ras_mm) @ _corners(one.voxels.shape)).max()
    if apart_mm > POSITION_TOLERANCE_MM:
        raise StudyRefused(
            "other_geometry",
            f"{name} must have the axes of T2 in their order, got corners {apart_mm:.2f} mm apart. "
            "Build the manifest again.",
        )
