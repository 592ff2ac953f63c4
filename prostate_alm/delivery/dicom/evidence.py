"""Which images an answer rests on, as DICOM refers to them, and whose study they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from prostate_alm.imaging.apart import call_apart
from prostate_alm.imaging.dicom import Instance, Series
from prostate_alm.imaging.files import read_header
from prostate_alm.imaging.folder import read_folder
from prostate_alm.imaging.header import Header, Layer
from prostate_alm.imaging.selection import Selection, image_stacks

if TYPE_CHECKING:
    from prostate_alm.delivery.predict import StudyResult

REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
)  # fmt: skip
"""Of the patient and the study, present in every object, empty where the images do not say (type 1 and 2)."""
OPTIONAL = (
    "SpecificCharacterSet", "IssuerOfPatientID", "StudyDescription",
    "PatientIdentityRemoved", "DeidentificationMethod", "LongitudinalTemporalInformationModified",
)  # fmt: skip
"""Copied where the images have them; without the last three a de-identified study would stop saying that it is one."""
CODES = "DeidentificationMethodCodeSequence"
CODE_ELEMENTS = ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")


PRODUCT = "prostate-alm"
"""The manufacturer that our own objects name."""


class EvidenceError(ValueError):
    """A study to which no report can be added: nobody could know where it belongs."""


@dataclass(frozen=True, slots=True)
class Reference:
    """One object as others refer to it; `frames` count from 1 and are empty for an object that has but one image."""

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReferencedStack:
    """Images that form one volume, or those that stand for a series; `b_value_s_per_mm2` is None where it has none."""

    name: str
    b_value_s_per_mm2: float | None
    references: tuple[Reference, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Evidence:
    """The images behind an answer, and the elements of patient and study that every object of the study shares."""

    study: Dataset = field(repr=False)
    stacks: tuple[ReferencedStack, ...]

    @property
    def references(self) -> tuple[Reference, ...]:
        """Return every object once, its frames gathered from all stacks, in the order of the stacks."""
        gathered: dict[str, Reference] = {}
        for one in (one for stack in self.stacks for one in stack.references):
            before = gathered.get(one.sop_instance_uid)
            frames = sorted({*one.frames, *(before.frames if before else ())})
            gathered[one.sop_instance_uid] = Reference(
                one.sop_class_uid, one.sop_instance_uid, one.series_uid, tuple(frames)
            )
        return tuple(gathered.values())


def evidence_of(result: StudyResult, study_dir: Path | None) -> Evidence:
    """Return the images behind a result: those used, or one of each series where the study was refused.

    Args:
        result: of `predict_folder`; the files of the study must still be there.
        study_dir: folder of the study; needed where it was refused.

    Raises:
        EvidenceError: a refused study without its folder, or one that is not one study of one patient.
        OSError: an image is gone.
    """
    if result.volumes is not None:
        return selected_evidence(result.volumes.selection)
    if study_dir is None:
        raise EvidenceError("study_dir must be given for a refused study, got None. Name the folder of the study.")
    return seen_evidence(study_dir)


def selected_evidence(selection: Selection) -> Evidence:
    """Return the T2 and diffusion images of a selection that was used, and their study.

    Args:
        selection: not refused; its files must still be there.

    Raises:
        OSError: a file is gone.
    """
    stacks: list[ReferencedStack] = []
    for place, instances in image_stacks(selection):
        b_value = None if not stacks else instances[0].b_value_s_per_mm2
        name = f"{'T2' if not stacks else 'Diffusion'}, {place}"
        stacks.append(ReferencedStack(name, b_value, _references(instances)))
    path = image_stacks(selection)[0][1][0].pixels.path
    return Evidence(call_apart(_study_elements, path), tuple(stacks))


def seen_evidence(study_dir: Path) -> Evidence:
    """Return one image of each series of a study that was refused: enough to say which study was seen.

    Raises:
        EvidenceError: the folder holds no image, or those of several studies or patients.
        FileNotFoundError, NotADirectoryError: the path is no folder.
    """
    series = [one for one in read_folder(study_dir).series if one.manufacturer != PRODUCT]  # not what came back before
    owners = {(one.patient_key, one.study_uid) for one in series}
    if len(owners) != 1:
        raise EvidenceError(
            f"a report of a refused study must have one study of one patient to belong to, got {len(owners)} in the "
            "folder. Separate them, or do without the report."
        )
    stacks = tuple(filter(None, map(_first_image, series)))
    if not stacks:
        raise EvidenceError(
            "a report of a refused study must refer to an image, got none of a known kind in the folder. "
            "Do without the report."
        )
    known = {stack.references[0].sop_instance_uid for stack in stacks}
    first = next(one for item in series for one in item.instances if one.sop_instance_uid in known)
    return Evidence(call_apart(_study_elements, first.pixels.path), stacks)


def _first_image(series: Series) -> ReferencedStack | None:
    """Return the first image of a series, None where no standard says what its objects are."""
    (first,) = _references(series.instances[:1])
    if not _is_of_a_patient(UID(first.sop_class_uid)):
        return None
    return ReferencedStack(f"Series {series.number}", None, (first,))


def _is_of_a_patient(sop_class: UID) -> bool:
    """Return whether a class is one of today's for images of patients: not private, retired, of luggage or of metal."""
    is_image = sop_class.keyword.endswith("ImageStorage") and not sop_class.is_retired
    return is_image and not sop_class.keyword.startswith(("DICOS", "EddyCurrent"))


def _references(instances: Sequence[Instance]) -> tuple[Reference, ...]:
    """Return images as references, the frames of one object together, sorted by instance number."""
    frames: dict[str, list[int]] = {}
    firsts: dict[str, Instance] = {}
    for one in sorted(instances, key=lambda one: (one.instance_number, one.sop_instance_uid, one.pixels.frame)):
        frames.setdefault(one.sop_instance_uid, []).append(one.pixels.frame + 1)
        firsts.setdefault(one.sop_instance_uid, one)
    classes = call_apart(_classes, [firsts[uid].pixels.path for uid in frames])
    return tuple(
        Reference(sop_class, uid, firsts[uid].series_uid, tuple(numbers) if is_multi_frame else ())
        for (uid, numbers), (sop_class, is_multi_frame) in zip(frames.items(), classes, strict=True)
    )


def _classes(paths: Sequence[Path]) -> list[tuple[str, bool]]:
    """Return the class of each object, and whether it says how many frames it has; called in the process that reads."""
    headers = (Header((_top(path),)) for path in paths)
    return [(one.text("SOPClassUID"), one.raw("NumberOfFrames") is not None) for one in headers]


def _study_elements(path: Path) -> Dataset:
    """Return what an object of the same study must repeat, as it stands in an image: odd values stay as they are.

    An archive files an object by these elements, so that a corrected one could put it beside another patient.
    """
    source = _top(path)
    copied = Dataset()
    for keyword in (*REQUIRED, *OPTIONAL):
        tag = tag_for_keyword(keyword) or 0
        if source.raw(tag) is not None or keyword in REQUIRED:
            copied.add(_element(keyword, source.value(tag)))
    codes = source.sequence(tag_for_keyword(CODES) or 0)
    if codes:
        copied.add(_element(CODES, [_code(item) for item in codes]))
    return copied


def _element(keyword: str, value: object) -> DataElement:
    """Return an element whose value is not judged."""
    return DataElement(tag_for_keyword(keyword) or 0, dictionary_VR(keyword), value, validation_mode=IGNORE)


def _code(item: Layer) -> Dataset:
    """Return a code without anything private that its item may hold."""
    copied = Dataset()
    for keyword in CODE_ELEMENTS:
        value = item.value(tag_for_keyword(keyword) or 0)
        if value is not None:
            copied.add(_element(keyword, value))
    return copied


def _top(path: Path) -> Layer:
    """Return the elements of a file that is known to be an image."""
    with path.open("rb") as file:
        return read_header(file).top
