"""The page of a report as a DICOM secondary capture that belongs to the study: for viewers that show no reports."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom_evidence import PRODUCT, Evidence, Reference, selected_evidence
from prostate_alm.delivery.dicom_object import equipment, new_uid, take_over_study
from prostate_alm.delivery.prediction import Answer

if TYPE_CHECKING:
    from prostate_alm.delivery.predict import StudyResult

SERIES_NUMBER = 9902
SERIES_DESCRIPTION = "prostate-alm page, research use only"


def secondary_capture(result: StudyResult, page: NDArray[np.uint8], *, created_at: datetime | None = None) -> Dataset:
    """Return a report page as a Secondary Capture image in the study of the images.

    Series UID = f(study, model), SOP Instance UID = f(study, model, pixels).

    Args:
        result: of `predict_folder`, not refused; the files of the study must still be there.
        page: (H, W, 3) RGB. It must hold no identifiers unless the answer has them (`identify`), in which case the
            image says that they are burned in.
        created_at: local time of the capture; now, if not given.

    Returns:
        An uncompressed RGB image with file meta information: `save_as(path, enforce_file_format=True)` writes it.

    Raises:
        ValueError: the page is no such array, or the study was refused.
        OSError: an image is gone.

    Reference:
        DICOM PS3.3 A.8.1, C.8.6.
    """
    if result.volumes is None:
        raise ValueError("a capture must show an answered study, got a refused one. Its structured report says why.")
    evidence = selected_evidence(result.volumes.selection)
    return capture_of(result.answer, page, evidence, created_at=created_at or datetime.now())


def capture_of(answer: Answer, page: NDArray[np.uint8], evidence: Evidence, *, created_at: datetime) -> Dataset:
    """Return the capture of a page that rests on the given images; see `secondary_capture`."""
    _check_page(page)
    key = (str(evidence.study.StudyInstanceUID), answer.model.sha256, "page")
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
        **equipment(answer.model),
    )
    _describe(image, is_identified=answer.identity is not None)
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = image.ContentDate, image.ContentTime
    image.SourceImageSequence = [_source(one) for one in evidence.references]
    take_over_study(image, evidence, created_at=created_at)
    return image


def _check_page(page: NDArray[np.uint8]) -> None:
    if page.ndim != 3 or page.shape[-1] != 3 or page.dtype != np.uint8 or not page.size:
        raise ValueError(
            f"page must be an RGB array (H, W, 3) of uint8, got {page.shape} of {page.dtype}. Draw it with draw_page."
        )


def _describe(image: Dataset, *, is_identified: bool) -> None:
    """Say what the image is: a page made by a program, nothing lost, and whether it tells who the patient is."""
    image.ConversionType = "WSD"
    image.ImageType = ["DERIVED", "SECONDARY"]
    image.PatientOrientation = None
    image.BodyPartExamined = "PROSTATE"
    image.BurnedInAnnotation = "YES" if is_identified else "NO"
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
