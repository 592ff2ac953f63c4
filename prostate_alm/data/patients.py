"""Do two studies come from one person? Asked of the DICOM headers, answered without keeping what they say."""

import logging
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from prostate_alm.data.labels import Label
from prostate_alm.data.manifest import ManifestError

logger = logging.getLogger(__name__)


def require_joined_patients(labels: Sequence[Label], dicom_dir: Path) -> None:
    """Refuse labels that make two patients of one: the same Patient ID in DICOM, different `patient` in the table.

    Such studies could come to lie on both sides of a split, and the result would look better than it is. An empty
    Patient ID says nothing. One that all studies share is a placeholder of de-identification: then the table alone
    decides. The identifiers are compared in memory and are neither stored nor shown.

    Args:
        labels: the rows of the table.
        dicom_dir: folder with one sub-folder per id.

    Raises:
        ManifestError: names two studies that must have the same `patient`.
    """
    studies_of: dict[str, list[Label]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes odd values, which may identify the patient
        for label in labels:
            studies_of.setdefault(_patient_id(dicom_dir / label.id), []).append(label)
    if len(studies_of) == 1 and "" not in studies_of:
        logger.warning(
            "all studies carry one DICOM Patient ID: taken for a placeholder, the labels tell patients apart"
        )
        return
    studies_of.pop("", None)
    for studies in studies_of.values():
        for one, other in pairwise(studies):
            if one.patient != other.patient:
                raise ManifestError(
                    "studies of one person must have the same `patient` in the labels, "
                    f"got different ones for {one.id!r} and {other.id!r}, whose DICOM Patient ID is the same. "
                    "Give both the same value (or correct the Patient ID, if it is a placeholder)."
                )


def _patient_id(study_dir: Path) -> str:
    """Return the Patient ID of the first DICOM file that has the element, '' when none has."""
    for path in sorted(study_dir.rglob("*")):
        if not path.is_file():
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
        except InvalidDicomError:
            continue
        except Exception as error:  # a damaged file; reading the study says more
            logger.debug("header not read: %s", type(error).__name__)
            continue
        if "PatientID" in header:
            return str(header.PatientID or "").strip()
    return ""
