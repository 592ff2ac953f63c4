"""Where studies come from: a folder, a folder of many studies, a zip archive, a DICOMDIR medium.

What is opened was made by others: nothing is written outside a temporary folder, no path leaves its archive or medium,
and no archive grows beyond `LIMITS`.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from prostate_alm.delivery.unpack import looks_like_zip, unpack
from prostate_alm.imaging.apart import call_apart
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.files import files_below, read_header
from prostate_alm.imaging.folder import identifiers_of
from prostate_alm.whole_files import sha256_of_file

DICOMDIR = "DICOMDIR"
_LEVELS = ("PATIENT", "STUDY", "SERIES")


class SourceError(ValueError):
    """A path that names no study."""


@dataclass(frozen=True)
class StudyFolder:
    """A folder that holds one study; `place` is how the user knows it. Both may name a patient."""

    folder: Path = field(repr=False)
    place: str = field(repr=False)


def find_sources(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the folders, archives and media below the named paths, each once, in order.

    A folder is one study, unless it is a folder of studies: see `studies_below`.

    Raises:
        SourceError: a path does not exist, or is a pipe or a device.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir() and not path.is_file():  # a pipe would be waited for
            raise SourceError(f"study must be an existing folder, zip or DICOMDIR, got {path}. Check the path.")
        found.update(dict.fromkeys(studies_below(path, archives=True) if path.is_dir() else [path]))
    return tuple(found)


@contextlib.contextmanager
def open_source(source: Path) -> Iterator[tuple[StudyFolder, ...]]:
    """Yield the studies of a source as folders; those unpacked or gathered exist until the context ends.

    Args:
        source: a folder, an archive or a DICOMDIR file, as `find_sources` returns them.

    Raises:
        StudyRefused: unsafe_archive, encrypted_archive, oversized_archive, damaged_archive, unsafe_medium,
            missing_file, damaged_medium or no_dicom.
    """
    if source.is_dir():
        yield (StudyFolder(source, str(source)),)
        return
    with tempfile.TemporaryDirectory(prefix="prostate-alm-") as name:
        target = Path(name)
        if looks_like_zip(source):
            unpack(source, target / "files")
            yield tuple(_in_archive(source, target))
        elif _is_medium(source):
            yield tuple(_on_medium(source, target))
        else:
            raise StudyRefused(
                "no_dicom",
                "study must be a folder, a zip or a DICOMDIR, got a file of another kind. Name the study's folder.",
            )


def content_sha256(folder: Path) -> str:
    """Return a digest of the contents of all files below a folder, whatever their names and order.

    Raises:
        StudyRefused: unreadable_file.
    """
    try:
        digests = sorted(sha256_of_file(path) for path in files_below(folder))
    except OSError as error:
        raise StudyRefused(
            "unreadable_file", f"files of a study must be readable, got: {error.strerror}. Check their permissions."
        ) from error
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def studies_below(folder: Path, *, archives: bool, above: tuple[Path, ...] = ()) -> list[Path]:
    """Return the studies of a folder: itself, or each of its sub-folders where it is a folder of studies.

    It is a folder of studies where no DICOM file lies directly in it, its sub-folders are of two studies or more, and
    no two of them hold single series of one study. Sub-folders without DICOM count as studies then, to be refused by
    name. A folder with a DICOMDIR is a medium; archives directly in a folder count like sub-folders.

    Args:
        folder: where to look.
        archives: whether zip archives in it are studies; not within an archive, where they could nest without end.
        above: folders that led here; a link back to one of them is left out.
    """
    if (folder / DICOMDIR).is_file():
        return [folder / DICOMDIR]
    entries = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
    if any(identifiers_of(one) is not None for one in entries if one.is_file()):
        return [folder]
    zips = [one for one in entries if archives and one.is_file() and looks_like_zip(one)]
    above = (*above, folder.resolve())
    subfolders = [one for one in entries if one.is_dir() and one.resolve() not in above]
    if not zips and not _hold_several_studies(subfolders):
        with_dicom = [one for one in subfolders if _study_of(one) is not None]
        return studies_below(with_dicom[0], archives=archives, above=above) if len(with_dicom) == 1 else [folder]
    return zips + [study for one in subfolders for study in studies_below(one, archives=archives, above=above)]


def _hold_several_studies(subfolders: Sequence[Path]) -> bool:
    """Return whether sub-folders are studies of their own rather than series of one."""
    folders_of: dict[str, list[Path]] = {}
    for one in subfolders:
        study = str(one) if (one / DICOMDIR).is_file() else _study_of(one)
        if study is not None:
            folders_of.setdefault(study, []).append(one)
    if len(folders_of) < 2:
        return False
    shared = [one for several in folders_of.values() if len(several) > 1 for one in several]
    return not any(_is_one_series(one) for one in shared)


def _is_one_series(folder: Path) -> bool:
    """Return whether the DICOM files below a folder are of one series."""
    found = None
    for one in map(identifiers_of, files_below(folder)):
        if one is None:
            continue
        if found is not None and one.series_uid != found:
            return False
        found = one.series_uid
    return True


def _study_of(folder: Path) -> str | None:
    """Return the study of the first DICOM file below a folder, '' where that is damaged, None where there is none."""
    found = (identifiers_of(path) for path in files_below(folder) if path.name != DICOMDIR)
    first = next((one for one in found if one is not None), None)
    return None if first is None else first.study_uid


def _is_medium(path: Path) -> bool:
    """Return whether a file is a DICOMDIR, whatever it is called."""
    if path.name.upper() == DICOMDIR:
        return True
    found = identifiers_of(path)
    return found is not None and found.is_directory


def _in_archive(source: Path, target: Path) -> Iterator[StudyFolder]:
    """Yield the studies of an unpacked archive, which may hold several, or a medium."""
    files = target / "files"
    for number, one in enumerate(studies_below(files, archives=False)):
        inside = one.relative_to(files)
        if one.is_dir():
            yield StudyFolder(one, str(source / inside))
        else:
            for study in _on_medium(one, target / f"medium-{number}"):
                yield StudyFolder(study.folder, str(source / inside))


def _on_medium(source: Path, target: Path) -> Iterator[StudyFolder]:
    for folder in stage_medium(source, target / "studies"):
        yield StudyFolder(folder, str(source))


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
            studies.setdefault(study, []).append(_listed_file(dicomdir.parent, file_id))
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


def _listed_file(medium: Path, file_id: list[str]) -> Path:
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
