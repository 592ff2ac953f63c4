"""Writing what goes back into a study as files: the structured report and the capture of the report's page."""

from __future__ import annotations

import hashlib
import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from prostate_alm.delivery.dicom_capture import secondary_capture
from prostate_alm.delivery.dicom_evidence import EvidenceError
from prostate_alm.delivery.dicom_sr import structured_report

if TYPE_CHECKING:
    from prostate_alm.delivery.package import PackedModel
    from prostate_alm.delivery.predict import StudyResult

REPORT_SUFFIX, CAPTURE_SUFFIX = ".sr.dcm", ".capture.dcm"


def write_dicom(
    result: StudyResult, model: PackedModel, output_dir: Path, *, study_dir: Path, created_at: datetime | None = None
) -> tuple[Path, ...]:
    """Write the structured report and, for an answered study, the capture of its page.

    Args:
        result: of `predict_folder`; the files of the study must still be there.
        model: the one that answered; it draws the page.
        output_dir: folder of the files STUDY.sr.dcm and STUDY.capture.dcm, STUDY being the answer's pseudonym; made
            where absent.
        study_dir: folder of the study.
        created_at: local time of both; now, if not given.

    Returns:
        The files. None for a study that was refused because it is not one study of one patient: a report could not
        say whose it is.

    Raises:
        ValueError: a file of that name is there and is no earlier report of this model about this study.
        OSError: an image is gone, or the folder cannot be written.
    """
    report = write_sr(result, output_dir, study_dir=study_dir, created_at=created_at)
    capture = write_capture(result, model, output_dir, created_at=created_at)
    return tuple(path for path in (report, capture) if path is not None)


def write_sr(
    result: StudyResult, output_dir: Path, *, study_dir: Path, created_at: datetime | None = None
) -> Path | None:
    """Write the structured report alone; see `write_dicom`."""
    try:
        report = structured_report(result, study_dir=study_dir, created_at=created_at)
    except EvidenceError:
        return None
    return _write(report, output_dir, suffix=REPORT_SUFFIX)


def write_capture(
    result: StudyResult, model: PackedModel, output_dir: Path, *, created_at: datetime | None = None
) -> Path | None:
    """Write the capture of the report's page alone, nothing for a refused study; see `write_dicom`."""
    if result.volumes is None:
        return None
    from prostate_alm.delivery.page import draw_page  # matplotlib takes a second, which a report alone does without

    capture = secondary_capture(result, draw_page(result, model), created_at=created_at)
    return _write(capture, output_dir, suffix=CAPTURE_SUFFIX)


def _write(made: Dataset, folder: Path, *, suffix: str) -> Path:
    """Write an object under a temporary name and rename it; replace nothing but an earlier object of its series."""
    pseudonym = hashlib.sha256(str(made.StudyInstanceUID).encode()).hexdigest()[:16]  # an answer may lack it
    path = folder / f"{pseudonym}{suffix}"
    if path.exists() and _series_uid(path) != made.SeriesInstanceUID:
        raise ValueError(
            f"output must be a new file or an earlier report of the same model and study, got {path.name} of another "
            "kind. Choose another folder."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on odd values that the images have and their report repeats
        made.save_as(partial, enforce_file_format=True)
    partial.replace(path)
    return path


def _series_uid(path: Path) -> str | None:
    """Return which series a file belongs to, None where it is no DICOM object."""
    try:
        return str(pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"]).get("SeriesInstanceUID", ""))
    except InvalidDicomError:
        return None
