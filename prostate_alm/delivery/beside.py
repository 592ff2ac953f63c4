"""What is written beside an answer: the report to look at, and the DICOM objects that go back into the study."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pydicom

from prostate_alm.delivery.answers import answer_name
from prostate_alm.delivery.dicom.objects import encoded
from prostate_alm.delivery.prediction import Answer, Refused
from prostate_alm.delivery.report.words import Words, english, report_head
from prostate_alm.imaging.folder import identifiers_of
from prostate_alm.whole_files import write_bytes_atomically

if TYPE_CHECKING:
    from prostate_alm.delivery.package.opened import PackedModel
    from prostate_alm.delivery.predict import StudyResult

BesideKind = Literal["sr", "capture", "report", "saliency"]
KINDS: tuple[BesideKind, ...] = ("sr", "capture", "report", "saliency")
File = Literal["sr", "seg", "map", "capture", "report", "saliency"]
"""What a file holds; of a model of lesions the segments of candidates and the map belong to the structured report."""
_SUFFIXES: dict[File, str] = {
    "sr": ".sr.dcm",
    "seg": ".seg.dcm",
    "map": ".map.dcm",
    "capture": ".capture.dcm",
    "report": ".html",
    "saliency": ".saliency.dcm",
}


class OutputError(ValueError):
    """A file that must not be written over."""


def write_beside(
    result: StudyResult,
    model: PackedModel,
    output_dir: Path,
    *,
    study_dir: Path,
    kinds: Sequence[BesideKind] = KINDS,
    words: Words | None = None,
    created_at: datetime | None = None,
) -> tuple[Path, ...]:
    """Write the structured report, the capture of the report's page, the report as HTML, and the map of saliency.

    Args:
        result: of `predict_folder`; the files of the study must still be there.
        model: the one that answered; it draws the page.
        output_dir: folder of the files STUDY.sr.dcm, STUDY.capture.dcm, STUDY.html and
            STUDY.saliency.dcm, STUDY being the answer's
            pseudonym, and of STUDY.seg.dcm and STUDY.map.dcm where a report says where lesions are; made where absent.
        study_dir: folder of the study.
        kinds: which of them.
        words: language and label of report and page; English without a label when None.
        created_at: local time of the DICOM objects; now, if not given.

    Returns:
        The files. There are no DICOM objects for a refused study that is not one study of one patient.

    Raises:
        OutputError: a file of that name is there and is no earlier one of this model and study.
        OSError: an image is gone, or the folder cannot be written.
    """
    files = files_beside(result, model, study_dir=study_dir, kinds=kinds, words=words, created_at=created_at)
    check_files(files, result.answer, output_dir)
    return write_files(files, result.answer, output_dir) if files else ()


def files_beside(
    result: StudyResult,
    model: PackedModel,
    *,
    study_dir: Path,
    kinds: Sequence[BesideKind] = KINDS,
    words: Words | None = None,
    created_at: datetime | None = None,
) -> dict[File, bytes]:
    """Return what `write_beside` writes, as the content of files."""
    made: dict[File, bytes] = {}
    if "report" in kinds:
        from prostate_alm.delivery.report.html import report_file

        made["report"] = report_file(result, model, words)
    if {"sr", "capture", "saliency"} & set(kinds):
        # highdicom takes a second, which a JSON does without
        from prostate_alm.delivery.dicom.evidence import EvidenceError

        with contextlib.suppress(EvidenceError):  # nobody could know whose report it is; the answer says why
            if "sr" in kinds:
                made |= _reported(result, study_dir, created_at)
            if "capture" in kinds:
                made["capture"] = _capture(result, model, words, study_dir=study_dir, created_at=created_at)
            if "saliency" in kinds:
                made |= _saliency(result, model, created_at)
    return made


def _reported(result: StudyResult, study_dir: Path, created_at: datetime | None) -> dict[File, bytes]:
    from prostate_alm.delivery.dicom.results import report_objects

    objects = report_objects(result, study_dir=study_dir, created_at=created_at)
    return {kind: encoded(one) for kind, one in objects.items()}


def _saliency(result: StudyResult, model: PackedModel, created_at: datetime | None) -> dict[File, bytes]:
    from prostate_alm.delivery.dicom.results import saliency_map

    made = saliency_map(result, model, created_at=created_at)
    return {} if made is None else {"saliency": encoded(made)}


def _capture(
    result: StudyResult, model: PackedModel, words: Words | None, *, study_dir: Path, created_at: datetime | None
) -> bytes:
    from prostate_alm.delivery.dicom.capture import secondary_capture
    from prostate_alm.delivery.report.page import draw_page

    page = draw_page(result, model, words)
    return encoded(secondary_capture(result, page, study_dir=study_dir, created_at=created_at))


def file_beside(answer: Answer, folder: Path, kind: File) -> Path:
    """Return where a file of an answer is written: beside its JSON, under the same name."""
    return folder / f"{answer_name(answer).removesuffix('.json')}{_SUFFIXES[kind]}"


def lacks_files(answer: Answer, folder: Path, *, kinds: Sequence[BesideKind], words: Words | None = None) -> bool:
    """Return whether a folder lacks a file that the answer could have, or has a report in another language or label."""
    paths = {kind: file_beside(answer, folder, kind) for kind in _files_of(answer, kinds)}
    if answer.study is None or not paths:
        return False
    return not all(path.exists() for path in paths.values()) or (
        "report" in paths and not _begins_as(paths["report"], _head_of(words))
    )


def _files_of(answer: Answer, kinds: Sequence[BesideKind]) -> tuple[File, ...]:
    """Return what the files of an answer hold."""
    if isinstance(answer, Refused):
        return tuple(kind for kind in kinds if kind != "saliency")  # no network looked
    if "sr" not in kinds or answer.lesions is None:
        return tuple(kinds)
    return (*kinds, "map", "seg") if answer.lesions else (*kinds, "map")


def check_files(files: Mapping[File, bytes], answer: Answer, folder: Path) -> None:
    """Refuse to replace anything but earlier files of the same model and study.

    Raises:
        OutputError: a file is there under the name of one of them that is something else.
    """
    for kind, content in files.items():
        path = file_beside(answer, folder, kind)
        same = _is_earlier_report if kind == "report" else _is_of_the_same_series
        if path.exists() and not same(path, content):
            raise OutputError(
                f"output must be new or earlier files of the same model and study, got another {path.name}. "
                "Choose another folder."
            )


def write_files(files: Mapping[File, bytes], answer: Answer, folder: Path) -> tuple[Path, ...]:
    """Write files, each whole or not at all, over what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {kind: file_beside(answer, folder, kind) for kind in files}
    for kind, path in paths.items():
        write_bytes_atomically(path, files[kind])
    return tuple(paths.values())


def _is_earlier_report(path: Path, content: bytes) -> bool:
    """Return whether a file begins as the report does: no page of another origin is replaced, nor another label."""
    return _begins_as(path, content[: content.index(b"</title>")])


def _begins_as(path: Path, head: bytes) -> bool:
    return path.read_bytes()[: len(head)] == head


def _head_of(words: Words | None) -> bytes:
    return report_head(words or english()).encode()


def _is_of_the_same_series(path: Path, content: bytes) -> bool:
    found = identifiers_of(path)
    return found is not None and found.series_uid == str(pydicom.dcmread(BytesIO(content)).SeriesInstanceUID)
