"""Do two studies come from one person? Asked of the DICOM headers, answered without keeping what they say."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prostate_alm.data.labels import Label
from prostate_alm.imaging.files import files_below
from prostate_alm.imaging.identifiers import identifiers_of

logger = logging.getLogger(__name__)


def joined_patients(labels: Sequence[Label], dicom_dir: Path) -> list[Label]:
    """Return the labels with one `patient` for all studies of one DICOM Patient ID.

    Studies of one person on both sides of a split make the result look better than it is. An empty Patient ID says
    nothing. One that all studies share is a placeholder of de-identification: then the table alone decides. The
    identifiers are compared in memory and are neither stored nor shown.

    Args:
        labels: the rows of the table.
        dicom_dir: folder with one sub-folder per id.

    Returns:
        The same rows in the same order; joined patients have the first of their names.
    """
    ids_of = _studies_of_patient_ids(labels, dicom_dir)
    if len(labels) > 1 and len(ids_of) == 1 and "" not in ids_of:
        logger.warning("all studies have one DICOM Patient ID: taken for a placeholder, the labels tell patients apart")
        return list(labels)
    name_of = {label.patient: label.patient for label in labels}
    for patient_id, studies in ids_of.items():
        names = {name_of[one.patient] for one in studies}
        if patient_id and len(names) > 1:
            shown = ", ".join(one.id for one in studies[:3])
            logger.warning("%d studies have one DICOM Patient ID and count as one patient: %s", len(studies), shown)
            name_of.update({patient: min(names) for patient, name in name_of.items() if name in names})
    return [replace(label, patient=name_of[label.patient]) for label in labels]


def _studies_of_patient_ids(labels: Sequence[Label], dicom_dir: Path) -> dict[str, list[Label]]:
    found: dict[str, list[Label]] = {}
    for label in labels:
        found.setdefault(_patient_id(dicom_dir / label.id), []).append(label)
    return found


def _patient_id(study_dir: Path) -> str:
    """Return the Patient ID of the first DICOM file that has the element, '' when none has."""
    for path in files_below(study_dir):
        found = identifiers_of(path)
        if found is not None and found.patient_id:
            return found.patient_id
    return ""
