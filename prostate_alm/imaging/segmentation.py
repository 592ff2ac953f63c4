"""DICOM Segmentation objects: which segments are lesions or the gland, and where they lie in the patient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.geometry import LPS_TO_RAS, ORIENTATION_TOLERANCE, POSITION_TOLERANCE_MM
from prostate_alm.imaging.volume import Volume

MaskKind = Literal["lesions", "gland"]

SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
}
LESION_CODES = {
    "52988006": "Lesion",
    "4147007": "Mass",
    "108369006": "Neoplasm",
    "86049000": "Malignant neoplasm, primary",
    "M-01100": "Lesion (SRT)",
    "M-8FFFF": "Neoplasm (SRT)",
}
GLAND_CODES = {"41216001": "Prostate", "181422007": "Entire prostate", "T-9200B": "Prostate (SRT)"}
LESION_WORDS = ("lesion", "tumor", "tumour", "cancer")
GLAND_LABELS = ("prostate", "prostate gland", "whole prostate", "whole gland", "gland")

MOST_SLICES = 1000  # of a grid that spans all frames; a position far away would fill the memory
_EXPORT = "Export it again as a binary segmentation of the study's images."


@dataclass(frozen=True, eq=False, slots=True)
class Segmentation:
    """One object: `place` names it without its file, `masks` are its segments of a kind, in the order of their numbers.

    All masks of an object share one grid.
    """

    place: str
    study_uid: str
    frame_of_reference_uid: str
    masks: dict[MaskKind, tuple[NDArray[np.bool_], ...]]
    affine_ras_mm: NDArray[np.float64]

    def volume(self, kind: MaskKind) -> Volume | None:
        """Return the segments of a kind as labels 1, 2, ... or None where there are none.

        Raises:
            StudyRefused: `contradictory_masks`, two segments of lesions share voxels.
        """
        if kind not in self.masks:
            return None
        stack = np.stack(self.masks[kind])  # (S, I, J, K)
        if kind == "lesions" and int(stack.sum(axis=0).max()) > 1:
            raise StudyRefused(
                "contradictory_masks",
                f"segments of lesions must not share voxels, got {int((stack.sum(axis=0) > 1).sum())} in two of "
                f"{self.place}. {_EXPORT}",
            )
        numbers = np.arange(1, len(stack) + 1)[:, None, None, None]
        return Volume((stack * numbers).max(axis=0).astype(np.float32), self.affine_ras_mm)


def segmentation_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, at any depth, that are DICOM Segmentation objects, in the order of their paths.

    Candidates that an answer of prostate-alm put into the study are none: what a model thought is no truth to train on.
    """
    tags = ["SOPClassUID", "Manufacturer", "SegmentSequence"]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            header = pydicom.dcmread(path, specific_tags=tags, stop_before_pixels=True)
        except (InvalidDicomError, OSError, EOFError, ValueError, KeyError):  # another file: not ours to judge
            continue
        if header.get("SOPClassUID") in SOP_CLASSES and not _is_an_answer(header):
            yield path


def _is_an_answer(header: pydicom.Dataset) -> bool:
    """Return whether a segmentation came back from prostate-alm itself."""
    kinds = {str(one.get("SegmentAlgorithmType", "")) for one in header.get("SegmentSequence", ())}
    return header.get("Manufacturer") == "prostate-alm" and kinds == {"AUTOMATIC"}


def read_segmentation(path: Path) -> Segmentation:
    """Read the segments of lesions and gland of one object.

    A segment is known by the code of its property type, else by its label: one with `lesion`, `tumour` or `cancer` in
    it is a lesion, one that is called `prostate` or `whole gland` is the gland. Others are left out.

    Args:
        path: the file.

    Returns:
        What it holds; a grid spans all frames that are stored, since empty ones often are not.

    Raises:
        StudyRefused: `no_segment`, neither a lesion nor the gland is in it; `fractional_segmentation`;
            `no_geometry`, `mixed_geometry` or `uneven_slices` of its frames; `undecodable_pixels`.

    Reference: DICOM PS3.3 A.51, C.8.20; PS3.16 CID 7151, 7159.
    """
    data = pydicom.dcmread(path)
    place = f"SEG of series {int(data.get('SeriesNumber') or 0)}"
    kinds = {int(one.SegmentNumber): kind for one in data.SegmentSequence if (kind := _kind(one)) is not None}
    if not kinds:
        raise StudyRefused(
            "no_segment",
            f"a segmentation must hold a lesion or the prostate, got {len(data.SegmentSequence)} other segments in "
            f"{place}. Name the segments with the codes of data_manifest/README.md, or leave the object out.",
        )
    planes = list(_planes(data, place=place))
    affine_ras_mm, heights = _grid(data, planes, place=place)
    size = (int(data.Columns), int(data.Rows), int(heights.max()) + 1)
    masks: dict[int, NDArray[np.bool_]] = {number: np.zeros(size, np.bool_) for number in sorted(kinds)}
    for (number, _, plane), height in zip(planes, heights, strict=True):
        for wanted, mask in masks.items():
            if number in (None, wanted):
                mask[:, :, height] |= (wanted == plane.T) if number is None else plane.T > 0
    of_kind: dict[MaskKind, tuple[NDArray[np.bool_], ...]] = {}
    for number, mask in masks.items():
        of_kind[kinds[number]] = (*of_kind.get(kinds[number], ()), mask)
    return Segmentation(
        place, str(data.StudyInstanceUID), str(data.get("FrameOfReferenceUID", "")), of_kind, affine_ras_mm
    )


def _kind(segment: Any) -> MaskKind | None:
    """Return what a segment is of, by its code or else by its label."""
    (code,) = segment.get("SegmentedPropertyTypeCodeSequence") or (pydicom.Dataset(),)
    value, label = str(code.get("CodeValue", "")), str(segment.get("SegmentLabel", "")).strip().lower()
    if value in LESION_CODES or (value not in GLAND_CODES and any(word in label for word in LESION_WORDS)):
        return "lesions"
    return "gland" if value in GLAND_CODES or label in GLAND_LABELS else None


def _planes(data: Any, *, place: str) -> Iterator[tuple[int | None, Any, NDArray[Any]]]:
    """Yield segment number (None in a label map), functional groups and pixels (R, C) of each frame."""
    kind = data.get("SegmentationType", "")
    if kind not in ("BINARY", "LABELMAP"):
        raise StudyRefused(
            "fractional_segmentation",
            f"a segmentation must be BINARY or LABELMAP, got {kind or 'no type'} in {place}. {_EXPORT}",
        )
    try:
        pixels = data.pixel_array
    except Exception as error:  # whatever a decoder says of damaged pixels
        raise StudyRefused(
            "undecodable_pixels", f"pixels must be decodable, got {type(error).__name__} in {place}. {_EXPORT}"
        ) from error
    frames = pixels if pixels.ndim == 3 else pixels[None]
    for groups, plane in zip(data.PerFrameFunctionalGroupsSequence, frames, strict=True):
        number = None
        if kind == "BINARY":
            number = int(_group(data, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        yield number, groups, plane


def _group(data: Any, groups: Any, name: str) -> Any:
    """Return a functional group of a frame, its own or the shared one."""
    found = groups.get(name) or data.SharedFunctionalGroupsSequence[0].get(name)
    return found[0] if found else pydicom.Dataset()


def _grid(
    data: Any, planes: list[tuple[int | None, Any, NDArray[Any]]], *, place: str
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the affine of the grid that holds all frames (columns, rows, slices), and the slice of each."""
    measures = [_group(data, groups, "PixelMeasuresSequence") for _, groups, _ in planes]
    orientations = [
        _group(data, groups, "PlaneOrientationSequence").get("ImageOrientationPatient") for _, groups, _ in planes
    ]
    positions = [_group(data, groups, "PlanePositionSequence").get("ImagePositionPatient") for _, groups, _ in planes]
    spacings = [one.get("PixelSpacing") for one in measures]
    if not planes or not all((*orientations, *positions, *spacings)):
        raise StudyRefused(
            "no_geometry", f"frames must say where they lie, got one that does not in {place}. {_EXPORT}"
        )
    cosines, spacing_mm = np.array(orientations, dtype=float), np.array(spacings, dtype=float)
    if np.ptp(cosines, axis=0).max() > ORIENTATION_TOLERANCE or np.ptp(spacing_mm, axis=0).max() > 1e-3:
        raise StudyRefused(
            "mixed_geometry", f"frames must share one orientation and spacing, got several in {place}. {_EXPORT}"
        )
    row, column = cosines[0, :3], cosines[0, 3:]
    normal = np.cross(row, column)
    corners_mm = np.array(positions, dtype=float)  # (F, 3)
    heights_mm = corners_mm @ normal
    first = int(heights_mm.argmin())
    gap_mm = _gap_mm(heights_mm, measures[0])
    steps = (heights_mm - heights_mm[first]) / gap_mm
    drift_mm = np.ptp(corners_mm @ np.column_stack([row, column]), axis=0).max()
    uneven_mm = np.abs(steps - np.rint(steps)).max() * gap_mm
    if max(drift_mm, uneven_mm) > POSITION_TOLERANCE_MM or steps.max() >= MOST_SLICES:
        raise StudyRefused(
            "uneven_slices",
            f"frames must lie {gap_mm:.2f} mm apart on one normal within {MOST_SLICES} slices, got one "
            f"{max(drift_mm, uneven_mm):.2f} mm off in {steps.max() + 1:.0f} slices in {place}. {_EXPORT}",
        )
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([row * spacing_mm[0, 1], column * spacing_mm[0, 0], normal * gap_mm])
    affine[:3, 3] = corners_mm[first]
    return LPS_TO_RAS @ affine, np.rint(steps).astype(np.intp)


def _gap_mm(heights_mm: NDArray[np.float64], measures: Any) -> float:
    """Return the distance of slices: the one told, else the least between frames, else the thickness."""
    told = measures.get("SpacingBetweenSlices")
    if told:
        return abs(float(told))
    gaps = np.diff(np.unique(np.round(heights_mm, 3)))
    return float(gaps.min()) if gaps.size else float(measures.get("SliceThickness") or 1.0)
