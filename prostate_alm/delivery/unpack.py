"""Unpacking a zip archive that nobody vouches for."""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prostate_alm.imaging.dicom import StudyRefused

_ENCRYPTED = 0x1  # bit of a member's flags
_CHUNK_BYTES = 2**20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)


@dataclass(frozen=True)
class UnpackLimits:
    """The most that an archive may become; a large multi-study export stays far below.

    `ratio` is of the unpacked to the packed size of the whole archive, asked beyond `ratio_from_bytes`: deflate cannot
    pass 1032, images of noise reach 3, empty ones 200.
    """

    files: int = 50_000
    unpacked_bytes: int = 8 * 2**30
    ratio: float = 100.0
    ratio_from_bytes: int = 2**28
    free_bytes: int = 2**28


LIMITS = UnpackLimits()


def looks_like_zip(path: Path) -> bool:
    """Return whether a file begins as a zip archive does, or is called one (it may be cut short or empty)."""
    if path.suffix.lower() == ".zip":
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    except OSError:
        return False


def unpack(source: Path, target: Path, *, limits: UnpackLimits = LIMITS) -> None:
    """Unpack an archive into a new folder; every member is checked before the first byte is written.

    Args:
        source: the archive.
        target: a folder to make.
        limits: the most that it may become.

    Raises:
        StudyRefused: encrypted_archive, unsafe_archive (a path that leaves the archive, or a link), oversized_archive,
            or damaged_archive.
    """
    target.mkdir(parents=True)
    try:
        with zipfile.ZipFile(source) as archive:
            members = archive.infolist()
            _require_small(members, source.stat().st_size, free_bytes=shutil.disk_usage(target).free, limits=limits)
            places = [_safe_parts(member) for member in members]
            for member, parts in zip(members, places, strict=True):
                if parts and not member.is_dir():
                    _write(archive, member, target.joinpath(*parts))
    except StudyRefused:
        raise
    except _DAMAGE as error:
        raise StudyRefused(
            "damaged_archive", f"archive must be a whole zip, got {type(error).__name__} in it. Send it again."
        ) from error


def _require_small(
    members: Sequence[zipfile.ZipInfo], packed_bytes: int, *, free_bytes: int, limits: UnpackLimits
) -> None:
    """Refuse an archive that would fill the disk; the declared sizes bind, since no member is read beyond its own."""
    total = sum(member.file_size for member in members)
    rules = (
        (len(members) <= limits.files, f"at most {limits.files} files", f"{len(members)}"),
        (total <= limits.unpacked_bytes, f"at most {limits.unpacked_bytes / 2**30:g} GiB", f"{total / 2**30:.1f} GiB"),
        (
            total <= limits.ratio_from_bytes or total <= limits.ratio * packed_bytes,
            f"at most {limits.ratio:g} times its packed size",
            f"{total / max(packed_bytes, 1):.0f} times",
        ),
        (total + limits.free_bytes <= free_bytes, "smaller than the room in the temporary folder", f"{total} bytes"),
    )
    for is_kept, rule, found in rules:
        if not is_kept:
            raise StudyRefused(
                "oversized_archive",
                f"archive must unpack to {rule}, got {found}. Unpack it yourself and name its folder.",
            )


def _safe_parts(member: zipfile.ZipInfo) -> list[str]:
    """Return the folders and the name of a member within the archive, or refuse it."""
    if member.flag_bits & _ENCRYPTED:
        raise StudyRefused(
            "encrypted_archive",
            "archive must not be encrypted, got encrypted files. Unpack it yourself and name its folder.",
        )
    mode = stat.S_IFMT(member.external_attr >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise StudyRefused("unsafe_archive", "archive must hold files only, got a link or a device. Do not open it.")
    parts = re.split(r"[/\\]", member.filename)
    is_absolute = parts[0] == "" or re.match(r"[A-Za-z]:", member.filename)
    if is_absolute or ".." in parts or "\0" in member.orig_filename:
        raise StudyRefused(
            "unsafe_archive", "paths in an archive must stay within it, got one that leaves it. Do not open it."
        )
    return [part for part in parts if part not in ("", ".")]


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as packed, path.open("xb") as file:  # x: a name that comes twice is damage
        shutil.copyfileobj(packed, file, _CHUNK_BYTES)
