"""The files below a folder as series: each file read once, copies told apart, an order that ignores files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydicom.errors import InvalidDicomError

from prostate_alm.imaging.apart import StoppedError, call_apart
from prostate_alm.imaging.dicom import EMPTY, NOT_DICOM, Folder, Instance, Series, Skipped, read_file
from prostate_alm.imaging.files import UNREADABLE_FOLDER, entries_below, read_header, require_folder
from prostate_alm.imaging.header import Header
from prostate_alm.imaging.kinds import image_kind
from prostate_alm.imaging.rulebook import Rules, default_rules
from prostate_alm.imaging.signal import read_signal

logger = logging.getLogger(__name__)

_NO_B_MEANS_ZERO = ("TOSHIBA", "CANON")
COPY_TOLERANCE = 1e-3  # mm, or of a cosine


def read_series(directory: Path, *, rules: Rules | None = None) -> tuple[Series, ...]:
    """Return every series below a folder, headers only, whatever the files are called.

    Args:
        directory: a folder; its subfolders are read, symbolic links to folders are not followed.
        rules: where b-values are and what marks a map; `rules.json` when None.

    Returns:
        Series by number, then uid; empty when nothing is DICOM. `read_folder` also names the skipped files.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: the path is a file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as empty:
        ...     read_series(Path(empty))
        ()
    """
    return read_folder(directory, rules=rules).series


def read_folder(directory: Path, *, rules: Rules | None = None) -> Folder:
    """Return the series below a folder and the files in it that are not images; see `read_series`.

    The files are read in a process of their own (`apart.py`); one that stops it is the only one that the folder skips.
    """
    require_folder(directory)
    try:
        return call_apart(_folder, directory, rules or default_rules())
    except StoppedError as error:
        return Folder((), (Skipped(Path(), error.reason, error.code),))


def _folder(directory: Path, rules: Rules) -> Folder:
    """Return what `read_folder` does, read in this process."""
    found: dict[tuple[str, str, str], list[tuple[Series, Instance]]] = {}
    skipped: list[Skipped] = []
    for path, fault in entries_below(directory):
        outcome = _other_entry(path, fault, directory=directory) if fault else read_file(path, directory, rules)
        if isinstance(outcome, Skipped):
            skipped.append(outcome)
            continue
        for series, instance in outcome:
            found.setdefault((series.patient_key, series.study_uid, series.uid), []).append((series, instance))
    assembled = (_assembled(pairs, rules) for pairs in found.values())
    ordered = tuple(sorted(assembled, key=lambda one: (one.number, one.uid)))
    folder = Folder(ordered, tuple(skipped))
    logger.debug("%d series, %d files skipped", len(ordered), len(skipped))
    return replace(folder, skipped=tuple(_judged(one, _kinds_of_names(folder), directory) for one in skipped))


def _other_entry(path: Path, fault: str, *, directory: Path) -> Skipped:
    """Return a link, a device or a folder that cannot be read; only the last can hide a part of the study."""
    code = "unreadable_file" if fault == UNREADABLE_FOLDER else ""
    return Skipped(path.relative_to(directory), fault, code)


def _kinds_of_names(folder: Folder) -> frozenset[tuple[Path, str]]:
    """Return the folders of the images, each with the suffixes of their names."""
    paths = (image.pixels.path for series in folder.series for image in series.instances)
    return frozenset((path.parent, path.suffix) for path in paths)


def _judged(skipped: Skipped, kinds: frozenset[tuple[Path, str]], directory: Path) -> Skipped:
    """Return a file that is no DICOM, as a lost image where it is empty or binary and named as images beside it."""
    path = directory / skipped.path
    if skipped.code or skipped.reason not in (EMPTY, NOT_DICOM) or (path.parent, path.suffix) not in kinds:
        return skipped
    with path.open("rb") as file:
        is_text = b"\0" not in (head := file.read(256)) and bool(head)
    return skipped if is_text else replace(skipped, reason=f"{skipped.reason}, between images", code="truncated")


def _assembled(pairs: Iterable[tuple[Series, Instance]], rules: Rules) -> Series:
    """Return one series with its distinct images in an order that ignores files: the first copy of each object."""
    ordered = sorted(pairs, key=lambda pair: _order(pair[1]))
    distinct: dict[tuple[str, int, int], Instance] = {}
    conflicts = set()
    for index, (_, instance) in enumerate(ordered):
        uid = instance.sop_instance_uid
        key = (uid, instance.pixels.frame, 0 if uid else index)  # without an identifier nothing is a copy
        kept = distinct.setdefault(key, instance)
        if kept is not instance and not _is_copy(instance, kept):
            conflicts.add(uid)
    heads = Counter(series for series, instance in ordered if instance.is_image) or Counter(one for one, _ in ordered)
    series = min(heads, key=lambda one: (-heads[one], repr(one)))  # of most images: other objects lack a description
    series = replace(series, instances=tuple(distinct.values()), conflicting_copies=len(conflicts))
    return replace(series, instances=_with_kinds(series, rules))


def _with_kinds(series: Series, rules: Rules) -> tuple[Instance, ...]:
    """Return the images of a series, each with its kind.

    Philips, GE and UIH write b = 0 into every MR image, so b = 0 alone makes diffusion only of echo-planar spin
    echoes. b = 0 has no direction, however it is labelled.
    """
    images = _with_zero_b(series)
    has_weighting = any((one.b_value_s_per_mm2 or 0) > 0 for one in images)
    return tuple(replace(one, kind=_kind(one, series, rules, has_weighting=has_weighting)) for one in images)


def _kind(image: Instance, series: Series, rules: Rules, *, has_weighting: bool) -> str:
    """Return what an image of a series is with respect to diffusion."""
    is_planar = "EP" in image.scanning_sequence and "GR" not in image.scanning_sequence
    return image_kind(
        image.image_type,
        f"{series.name}\\{image.derivation}",
        is_diffusion_weighted=image.b_value_s_per_mm2 is not None and (has_weighting or is_planar),
        sequence_name=image.sequence_name,
        directionality=image.directionality if image.b_value_s_per_mm2 else "",
        rules=rules,
    )


def _with_zero_b(series: Series) -> tuple[Instance, ...]:
    """Return the images of a series, with b = 0 where Toshiba and Canon mean it by leaving the element out."""
    weighted = {_likeness(one) for one in series.instances if one.b_value_s_per_mm2}
    if not weighted or not series.manufacturer.upper().startswith(_NO_B_MEANS_ZERO):
        return series.instances
    return tuple(
        replace(one, b_value_s_per_mm2=0.0, b_value_source="b = 0, which has no element,")
        if one.b_value_s_per_mm2 is None and _likeness(one) in weighted
        else one
        for one in series.instances
    )


def _likeness(image: Instance) -> tuple[object, ...]:
    """Return what images of one diffusion acquisition share."""
    return (image.image_type, image.scanning_sequence, image.echo_time_ms, image.rows, image.columns)


def _is_copy(other: Instance, kept: Instance) -> bool:
    """Return whether two objects of one identifier are the same image, whatever their transfer syntaxes.

    Copies that break off or that cannot be decoded are not compared.
    """
    if _facts(other) != _facts(kept) or not _same_place(other, kept):
        return False
    if not (kept.rows and kept.pixels.is_complete and other.pixels.is_complete):
        return True
    try:
        first, second = (read_signal(one.pixels, rows=one.rows, columns=one.columns) for one in (kept, other))
    except Exception:  # each decoder plug-in has its own exceptions; the one that is used raises them again
        return True
    return np.array_equal(first, second)


def _facts(image: Instance) -> tuple[object, ...]:
    """Return what copies of an image must share to the letter: all that decides how it is used."""
    return (
        (image.rows, image.columns, image.frame_of_reference_uid, image.image_type, image.scanning_sequence),
        (image.sequence_name, image.echo_time_ms, image.b_value_s_per_mm2, image.directionality),
    )


def _same_place(first: Instance, second: Instance) -> bool:
    """Return whether two images lie at one place, but for decimals that an archive has printed anew."""
    for name in ("position_mm", "orientation", "pixel_spacing_mm"):
        one, other = getattr(first, name), getattr(second, name)
        if (one is None) != (other is None):
            return False
        if one is not None and any(abs(a - b) > COPY_TOLERANCE for a, b in zip(one, other, strict=True)):
            return False
    return True


def _order(instance: Instance) -> tuple[int, str, int, bool, str]:
    """Return a sort key of content alone; whole copies come before broken ones."""
    return (
        instance.instance_number,
        instance.sop_instance_uid,
        instance.pixels.frame,
        not instance.pixels.is_complete,
        repr(instance),  # paths are not part of it
    )


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
