"""The images of T2 as frames that our own images share: where each lies, and how others refer to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, MRImageStorage
from pydicom.valuerep import DSfloat

from prostate_alm.delivery.dicom import codes
from prostate_alm.delivery.dicom.evidence import Evidence, Reference
from prostate_alm.delivery.dicom.objects import new_uid
from prostate_alm.delivery.lesions import LesionFindings
from prostate_alm.delivery.prediction import LesionCandidate, ModelIdentity
from prostate_alm.imaging.geometry import LPS_TO_RAS, POSITION_TOLERANCE_MM, Stack, stack_images
from prostate_alm.imaging.selection import Selection, image_stacks

_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")


@dataclass(frozen=True, eq=False, slots=True)
class Frames:
    """The T2 images of a study, ascending along their normal, whose places an image of ours takes over.

    Args:
        stack: images and grid; a volume on it is (X, Y, Z), as `imaging/volume.py` orders it.
        evidence: how objects of the study refer to the images.
    """

    stack: Stack
    evidence: Evidence

    @property
    def affine_lps(self) -> NDArray[np.float64]:
        """Return the (4, 4) affine from voxel indices of a volume to the patient's coordinates in mm."""
        affine: NDArray[np.float64] = LPS_TO_RAS @ self.stack.affine_ras_mm
        return affine

    @property
    def frame_of_reference_uid(self) -> str:
        """Return the frame of reference of T2; where it has none, one that belongs to its series alone."""
        first = self.stack.instances[0]
        return first.frame_of_reference_uid or str(new_uid(first.series_uid, "frame of reference"))

    def planes(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a volume (X, Y, Z) as images (K, rows, columns) in the order of the frames.

        Raises:
            ValueError: it has another shape than T2.
        """
        if volume.shape != self.stack.shape:
            raise ValueError(f"volume must be on the grid of T2, {self.stack.shape}, got {volume.shape}. Resample it.")
        return np.ascontiguousarray(volume[:, ::-1].transpose(2, 1, 0))

    def require_grid(self, affine_lps: NDArray[np.float64]) -> None:
        """Check that a volume lies where T2 does.

        Raises:
            ValueError: a corner of it would be elsewhere.
        """
        corners = np.array(np.meshgrid(*((0, size - 1) for size in self.stack.shape))).reshape(3, -1)
        corners = np.vstack([corners, np.ones(corners.shape[1])])
        off_mm = float(np.abs((affine_lps - self.affine_lps) @ corners).max())
        if not off_mm <= POSITION_TOLERANCE_MM:
            raise ValueError(f"findings must lie on the grid of T2, got them {off_mm:.2f} mm off. Resample them.")

    def places(self) -> dict[str, Any]:
        """Return where the frames lie, as arguments of highdicom."""
        first = self.stack.instances[0]
        return {
            "pixel_measures": PixelMeasuresSequence(
                first.pixel_spacing_mm or (), self._thickness_mm, self.stack.gap_mm
            ),
            "plane_orientation": PlaneOrientationSequence("PATIENT", first.orientation or ()),
            "plane_positions": [
                PlanePositionSequence("PATIENT", one.position_mm or ()) for one in self.stack.instances
            ],
        }

    def as_source(self) -> Dataset:
        """Return what highdicom needs to know of the images; `refer_to_frames` says afterwards which they all are."""
        first, source = self.stack.instances[0], Dataset()
        for keyword in _PATIENT:  # `take_over_study` fills them
            setattr(source, keyword, None)
        source.StudyDate = source.StudyTime = None
        source.StudyInstanceUID, source.SeriesInstanceUID = self.evidence.study.StudyInstanceUID, first.series_uid
        source.SOPClassUID, source.SOPInstanceUID = MRImageStorage, first.sop_instance_uid
        source.FrameOfReferenceUID, source.Modality = self.frame_of_reference_uid, "MR"
        source.Rows, source.Columns = first.rows, first.columns
        for keyword, values in (
            ("ImagePositionPatient", first.position_mm),
            ("ImageOrientationPatient", first.orientation),
            ("PixelSpacing", first.pixel_spacing_mm),
            ("SliceThickness", (self._thickness_mm,)),
        ):
            setattr(source, keyword, [DSfloat(one, auto_format=True) for one in values or ()])
        return source

    def refer_to_frames(self, made: Dataset, derivation: CodedConcept) -> None:
        """Say of each frame of an image of ours which T2 image it lies on, in place, and name every object once."""
        references = {one.sop_instance_uid: one for one in self.evidence.stacks[0].references}
        positions_mm = np.array([one.position_mm for one in self.stack.instances])  # (K, 3)
        for groups in made.PerFrameFunctionalGroupsSequence:
            place_mm = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
            image = self.stack.instances[int(np.linalg.norm(positions_mm - place_mm, axis=1).argmin())]
            source = _item(references[image.sop_instance_uid])
            if references[image.sop_instance_uid].frames:
                source.ReferencedFrameNumber = image.pixels.frame + 1
            source.PurposeOfReferenceCodeSequence = [codes.SOURCE_IMAGE]
            source.SpatialLocationsPreserved = "YES"
            item = Dataset()
            item.DerivationCodeSequence, item.SourceImageSequence = [derivation], [source]
            groups.DerivationImageSequence = [item]
        made.SourceImageSequence = [_item(one) for one in references.values()]
        series = Dataset()
        series.SeriesInstanceUID = self.stack.instances[0].series_uid
        series.ReferencedInstanceSequence = [_item(one) for one in references.values()]
        made.ReferencedSeriesSequence = [series]

    @property
    def _thickness_mm(self) -> float:
        return self.stack.instances[0].slice_thickness_mm or self.stack.gap_mm


@dataclass(frozen=True, eq=False, slots=True)
class PlacedLesions:
    """What a lesion model found, on the images of T2.

    Raises:
        ValueError: the findings are on another grid.
    """

    findings: LesionFindings
    frames: Frames

    def __post_init__(self) -> None:
        self.frames.require_grid(self.findings.affine_lps)

    @property
    def candidates(self) -> tuple[LesionCandidate, ...]:
        """Return the candidates, the surest first."""
        return self.findings.candidates

    def uid_of(self, model: ModelIdentity, one: LesionCandidate) -> UID:
        """Return the Tracking UID by which segmentation and report mean the same candidate."""
        return new_uid(str(self.frames.evidence.study.StudyInstanceUID), model.sha256, "lesion", str(one.number))


def label_of(one: LesionCandidate) -> str:
    """Return what a candidate is called in every object."""
    return f"Lesion candidate {one.number}, probability {one.probability:.2f}"


def frames_of(selection: Selection, evidence: Evidence) -> Frames:
    """Return the frames of the T2 images of a selection.

    Raises:
        StudyRefused: they are not one complete, evenly spaced stack.
    """
    place, images = image_stacks(selection)[0]
    return Frames(stack_images(images, place=place), evidence)


def _item(one: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    return item
