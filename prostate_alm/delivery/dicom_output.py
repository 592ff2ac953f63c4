"""What goes back into a study as files: the structured report and the capture of the report's page."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from prostate_alm.delivery.answers import answer_name
from prostate_alm.delivery.prediction import Answer

if TYPE_CHECKING:
    from prostate_alm.delivery.package import PackedModel
    from prostate_alm.delivery.predict import StudyResult

Kind = Literal["sr", "capture"]
KINDS: tuple[Kind, ...] = ("sr", "capture")


class OutputError(ValueError):
    """A file that must not be written over."""


def write_dicom(
    result: StudyResult,
    model: PackedModel,
    output_dir: Path,
    *,
    study_dir: Path,
    kinds: Sequence[Kind] = KINDS,
    created_at: datetime | None = None,
) -> tuple[Path, ...]:
    """Write the structured report and the capture of the report's page.

    Args:
        result: of `predict_folder`; the files of the study must still be there.
        model: the one that answered; it draws the page.
        output_dir: folder of the files STUDY.sr.dcm and STUDY.capture.dcm, STUDY being the answer's pseudonym; made
            where absent.
        study_dir: folder of the study.
        kinds: which of the two.
        created_at: local time of both; now, if not given.

    Returns:
        The files. There are none for a refused study that is not one study of one patient.

    Raises:
        OutputError: a file of that name is there and is no earlier one of this model and study.
        OSError: an image is gone, or the folder cannot be written.
    """
    objects = dicom_objects(result, model, study_dir=study_dir, kinds=kinds, created_at=created_at)
    check_objects(objects, result.answer, output_dir)
    return write_objects(objects, result.answer, output_dir) if objects else ()


def dicom_objects(
    result: StudyResult,
    model: PackedModel,
    *,
    study_dir: Path,
    kinds: Sequence[Kind] = KINDS,
    created_at: datetime | None = None,
) -> dict[Kind, bytes]:
    """Return what `write_dicom` writes, as the content of files."""
    from prostate_alm.delivery.dicom_evidence import (
        EvidenceError,
    )  # highdicom takes a second, which a JSON does without
    from prostate_alm.delivery.dicom_sr import structured_report

    made: dict[Kind, bytes] = {}
    with contextlib.suppress(EvidenceError):  # nobody could know whose report it is; the answer says why
        if "sr" in kinds:
            made["sr"] = _encoded(structured_report(result, study_dir=study_dir, created_at=created_at))
        if "capture" in kinds:
            from prostate_alm.delivery.dicom_capture import secondary_capture
            from prostate_alm.delivery.page import draw_page

            page = draw_page(result, model)
            made["capture"] = _encoded(secondary_capture(result, page, study_dir=study_dir, created_at=created_at))
    return made


def object_path(answer: Answer, folder: Path, kind: Kind) -> Path:
    """Return where the object of an answer is written: beside its JSON, under the same name."""
    return folder / f"{answer_name(answer).removesuffix('.json')}.{kind}.dcm"


def missing_objects(answer: Answer, folder: Path, *, kinds: Sequence[Kind]) -> bool:
    """Return whether a folder lacks an object that the answer could have."""
    return answer.study is not None and any(not object_path(answer, folder, kind).exists() for kind in kinds)


def check_objects(objects: Mapping[Kind, bytes], answer: Answer, folder: Path) -> None:
    """Refuse to replace anything but earlier objects of the same model and study.

    Raises:
        OutputError: a file is there under the name of one of them that is something else.
    """
    for kind, content in objects.items():
        path = object_path(answer, folder, kind)
        if path.exists() and _series_uid(path) != _series_uid(BytesIO(content)):
            raise OutputError(
                f"output must be new or earlier files of the same model and study, got another {path.name}. "
                "Choose another folder."
            )


def write_objects(objects: Mapping[Kind, bytes], answer: Answer, folder: Path) -> tuple[Path, ...]:
    """Write objects as files, each whole or not at all, over what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: object_path(answer, folder, kind) for kind in objects}
    for kind, path in paths.items():
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(objects[kind])
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return tuple(paths.values())


def _encoded(made: Dataset) -> bytes:
    """Return an object as the content of a file."""
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on odd values that the images have and their report repeats
        made.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _series_uid(file: Path | BytesIO) -> str | None:
    """Return which series a file belongs to, None where it is no DICOM object."""
    try:
        return str(pydicom.dcmread(file, specific_tags=["SeriesInstanceUID"]).get("SeriesInstanceUID", ""))
    except InvalidDicomError:
        return None
