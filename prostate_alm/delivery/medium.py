"""A DICOM medium: the studies that its DICOMDIR lists, each gathered in a folder of links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from prostate_alm.imaging.apart import call_apart
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.files import read_header

_LEVELS = ("PATIENT", "STUDY", "SERIES")


def stage_medium(dicomdir: Path, target: Path) -> tuple[Path, ...]:
    """Make a folder of links to the files of each study that a DICOMDIR lists; return the folders.

    Files on the medium that it does not list are left out.

    Args:
        dicomdir: the DICOMDIR file; the medium is its folder.
        target: a folder to make.

    Raises:
        StudyRefused: damaged_medium, unsafe_medium (a file outside the medium), missing_file, or no_dicom.

    Reference:
        DICOM PS3.3 F.3 (Basic Directory IOD), PS3.10 section 8 (file IDs).
    """
    studies: dict[tuple[int, ...], list[Path]] = {}
    try:
        for study, file_id in call_apart(_all_listed, dicomdir):
            studies.setdefault(study, []).append(_on_medium(dicomdir.parent, file_id))
    except StudyRefused:
        raise
    except Exception as error:  # whatever a damaged directory provokes
        raise StudyRefused(
            "damaged_medium", f"DICOMDIR must be whole, got {type(error).__name__} in it. Name the folder of a study."
        ) from error
    if not studies:
        raise StudyRefused("no_dicom", "DICOMDIR must list images, got none. Name the folder of a study.")
    folders = []
    for number, files in enumerate(studies.values(), start=1):
        folder = target / f"study-{number}"
        folder.mkdir(parents=True)
        for index, path in enumerate(dict.fromkeys(files)):
            (folder / f"{index:06d}").symlink_to(path)
        folders.append(folder)
    return tuple(folders)


def _all_listed(dicomdir: Path) -> list[tuple[tuple[int, ...], list[str]]]:
    """Return what a DICOMDIR lists; called in the process that reads."""
    with dicomdir.open("rb") as file:
        read_header(file)  # within the limits of all headers
    return list(_listed(pydicom.dcmread(dicomdir)))


def _listed(directory: Dataset) -> Iterator[tuple[tuple[int, ...], list[str]]]:
    """Yield for each file that a directory lists the records of its patient and study, and its file ID.

    Records refer to each other by their place in the file; each is visited once, so that a circle ends.
    """
    records = {int(record.seq_item_tell or 0): record for record in directory.DirectoryRecordSequence}
    root = int(directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity)
    waiting: list[tuple[int, tuple[int, ...]]] = [(root, ())]
    visited: set[int] = set()
    while waiting:
        place, above = waiting.pop()
        if place == 0 or place in visited:
            continue
        visited.add(place)
        record = records[place]
        kind = str(record.DirectoryRecordType)
        inside = (*above, place) if kind in _LEVELS[:2] else above
        waiting.append((int(record.OffsetOfTheNextDirectoryRecord), above))
        waiting.append((int(record.OffsetOfReferencedLowerLevelDirectoryEntity), inside))
        if kind not in _LEVELS and "ReferencedFileID" in record:
            parts = record.ReferencedFileID
            yield inside, [str(part) for part in parts] if isinstance(parts, MultiValue) else [str(parts)]


def _on_medium(medium: Path, file_id: list[str]) -> Path:
    """Return the file of a file ID; a medium that was copied may have its names in lower case."""
    root = medium.resolve()
    if any(part in ("", ".", "..") or "/" in part or ":" in part for part in file_id):
        raise _unsafe()
    for parts in (file_id, [part.lower() for part in file_id]):
        path = root.joinpath(*parts)
        if path.is_file():
            if not path.resolve().is_relative_to(root):
                raise _unsafe()
            return path
    raise StudyRefused(
        "missing_file", "files that a DICOMDIR lists must be on its medium, got one that is not. Copy the whole medium."
    )


def _unsafe() -> StudyRefused:
    return StudyRefused("unsafe_medium", "files of a DICOMDIR must lie on its medium, got one outside. Do not open it.")
