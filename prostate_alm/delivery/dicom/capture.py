"""The page of a report as a DICOM secondary capture that belongs to the study: for viewers that show no reports."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom.evidence import PRODUCT, Evidence, Reference, evidence_of
from prostate_alm.delivery.dicom.objects import equipment, new_uid, take_over_study
from prostate_alm.delivery.prediction import ModelIdentity

if TYPE_CHECKING:
    from prostate_alm.delivery.predict import StudyResult

SERIES_NUMBER = 9902
SERIES_DESCRIPTION = "prostate-alm page, research use only"


def secondary_capture(
    result: StudyResult,
    page: NDArray[np.uint8],
    *,
    study_dir: Path | None = None,
    created_at: datetime | None = None,
) -> Dataset:
    """Return a report page as a Secondary Capture image in the study of the images.

    Series UID = f(study, model), SOP Instance UID = f(study, model, pixels).

    Args:
        result: of `predict_folder`; the files of the study must still be there.
        page: (H, W, 3) RGB, without identifiers: the image says that none are burned in.
        study_dir: folder of the study; needed where it was refused, since nothing of it was selected.
        created_at: local time of the capture; now, if not given.

    Returns:
        An uncompressed RGB image with file meta information: `save_as(path, enforce_file_format=True)` writes it.

    Raises:
        ValueError: the page is no such array.
        EvidenceError: the refused study is not one study of one patient, or `study_dir` is missing.
        OSError: an image is gone.

    Reference:
        DICOM PS3.3 A.8.1, C.8.6.
    """
    _check_page(page)
    evidence = evidence_of(result, study_dir)
    return capture_of(result.answer.model, page, evidence, created_at=created_at or datetime.now())


def capture_of(model: ModelIdentity, page: NDArray[np.uint8], evidence: Evidence, *, created_at: datetime) -> Dataset:
    """Return the capture of a page that rests on the given images; see `secondary_capture`."""
    key = (str(evidence.study.StudyInstanceUID), model.sha256, "page")
    pixels = hashlib.sha256(repr(page.shape).encode() + page.tobytes()).hexdigest()
    image = SCImage(
        pixel_array=np.ascontiguousarray(page),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # highdicom wants one; a page has none, and it is taken out below
        study_instance_uid=str(evidence.study.StudyInstanceUID),
        series_instance_uid=new_uid(*key, "series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=new_uid(*key, pixels),
        instance_number=1,
        series_description=SERIES_DESCRIPTION,
        content_date=created_at.date(),
        content_time=created_at.time().replace(microsecond=0),
        **equipment(model),
    )
    _describe(image)
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = image.ContentDate, image.ContentTime
    image.SourceImageSequence = [_source(one) for one in evidence.references]
    take_over_study(image, evidence, created_at=created_at)
    return image


def _check_page(page: NDArray[np.uint8]) -> None:
    if page.ndim != 3 or page.shape[-1] != 3 or page.dtype != np.uint8 or not page.size:
        raise ValueError(
            f"page must be an RGB array (H, W, 3) of uint8, got {page.shape} of {page.dtype}. Draw it with draw_page."
        )


def _describe(image: Dataset) -> None:
    """Say what the image is: a page made by a program, nothing lost, and that it does not tell who the patient is."""
    image.ConversionType = "WSD"
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.PatientOrientation = None
    image.BodyPartExamined = "PROSTATE"
    image.BurnedInAnnotation = "NO"
    image.LossyImageCompression = "00"
    image.DerivationDescription = "Page drawn by a program from the images it refers to. Research use only."
    image.SecondaryCaptureDeviceManufacturer = PRODUCT
    image.SecondaryCaptureDeviceManufacturerModelName = image.ManufacturerModelName
    image.SecondaryCaptureDeviceSoftwareVersions = image.SoftwareVersions


def _source(one: Reference) -> Dataset:
    """Return a reference to a source image."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    if one.frames:
        item.ReferencedFrameNumber = list(one.frames)
    return item
