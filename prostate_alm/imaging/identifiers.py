"""Whose study a file belongs to: what an answer or a table must know of a file without reading the study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydicom.errors import InvalidDicomError

from prostate_alm.imaging.apart import StoppedError, call_apart
from prostate_alm.imaging.files import read_header
from prostate_alm.imaging.header import Header


@dataclass(frozen=True, slots=True)
class Identifiers:
    """The identifiers in a file, each '' where it has none."""

    study_uid: str = ""
    series_uid: str = ""
    patient_id: str = field(default="", repr=False)
    accession_number: str = field(default="", repr=False)
    is_directory: bool = False  # a DICOMDIR


def identifiers_of(path: Path) -> Identifiers | None:
    """Return the identifiers in a file, none where it is damaged; None where it is not DICOM.

    It is read in the process that reads (`apart.py`), so that no file can do harm.
    """
    try:
        return call_apart(_identifiers, path)
    except StoppedError:
        return Identifiers()


def _identifiers(path: Path) -> Identifiers | None:
    try:
        with path.open("rb") as file:
            found = read_header(file)
    except InvalidDicomError:
        return None
    except Exception:  # whatever a damaged file provokes; reading the study will say so
        return Identifiers()
    header = Header((found.top,))
    return Identifiers(
        study_uid=header.text("StudyInstanceUID"),
        series_uid=header.text("SeriesInstanceUID"),
        patient_id=header.text("PatientID"),
        accession_number=header.text("AccessionNumber"),
        is_directory=found.is_directory,
    )
