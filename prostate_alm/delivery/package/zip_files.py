"""The files of a packed model: written the same to the byte, read within limits, each compared with its checksum."""

import hashlib
import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prostate_alm.whole_files import write_bytes_atomically

METADATA, INFERENCE, MEMBER_TRAINING = "configs/metadata.json", "configs/inference.json", "configs/member_train.json"
MODEL, README, LICENSE, CHECKSUMS = "models/model.pt", "docs/README.md", "LICENSE", "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
"""Of a signed pack: the Ed25519 signature of its checksums, 64 bytes."""

CONTENT = (METADATA, INFERENCE, MEMBER_TRAINING, MODEL, README, LICENSE)
"""What a packed model holds besides the checksums of these; nothing less and nothing more."""

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_OF_A_HUB = frozenset({".git", ".gitattributes", ".gitignore", ".cache", "README.md"})
"""What a hub of models lays beside the files of an unpacked one; never read. The card of the pack is docs/README.md."""

_TIME_STAMP = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold: when it was packed changes no byte
_UNIX, _READABLE_FILE = 3, stat.S_IFREG | 0o644
_CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


@dataclass(frozen=True)
class PackLimits:
    """The largest pack that is read; a hundred members of the default network have 15 MB."""

    archive_bytes: int = 160 << 20
    model_bytes: int = 136 << 20
    other_file_bytes: int = 16 << 20
    entries: int = 32

    def of(self, name: str) -> int:
        """Return the largest size of a file."""
        return self.model_bytes if name == MODEL else self.other_file_bytes


class PackageError(ValueError):
    """A packed model that cannot be used, or an ensemble that cannot be packed; `code` is stable.

    Codes: `no_model`, `unsafe_model`, `incomplete_model`, `tampered_model`, `newer_model`, `invalid_model`,
    `untrusted_model` of a pack; `not_packable` of an ensemble.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class PackContent:
    """The files of a pack by name, checked; `sha256` is of the zip, or of the checksums of a folder."""

    files: Mapping[str, bytes]
    sha256: str
    checksums: bytes
    signature: bytes | None


def write_archive(
    path: Path, files: Mapping[str, bytes], *, name: str, sign: Callable[[bytes], bytes] | None = None
) -> None:
    """Write files and their checksums below one folder of a zip, atomically.

    Nothing is compressed: weights hardly shrink, and what compression writes depends on the version of zlib.

    Args:
        path: the zip; one that is there is replaced.
        files: one for each name of `CONTENT`.
        name: of the folder; matches `NAME_PATTERN`.
        sign: checksums -> signature; None for a pack without one.
    """
    complete = {**files, CHECKSUMS: _checksums(files)}
    if sign is not None:
        complete[SIGNATURE] = sign(complete[CHECKSUMS])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(complete):
            entry = zipfile.ZipInfo(f"{name}/{file}", _TIME_STAMP)
            entry.create_system, entry.external_attr = _UNIX, _READABLE_FILE << 16
            archive.writestr(entry, complete[file])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, buffer.getvalue())


def _checksums(files: Mapping[str, bytes]) -> bytes:
    """Return checksums as `sha256sum --check` reads them."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def read_content(path: Path, *, limits: PackLimits = PackLimits()) -> PackContent:
    """Read a pack, a zip or the folder that it was unpacked to, and check its files.

    Nothing is written: a zip is read in memory, and a name in it that is not one of a pack's is refused.

    Args:
        path: the zip or the folder.
        limits: the largest sizes that are read.

    Raises:
        PackageError: no such pack, one that is unsafe to read, incomplete, or changed since it was packed.
    """
    if path.is_dir():
        files = _read_folder(path, limits)
        digest = hashlib.sha256(files.get(CHECKSUMS, b"")).hexdigest()
    else:
        content = _read_archive_bytes(path, limits)
        files = _read_zip(content, path.name, limits)
        digest = hashlib.sha256(content).hexdigest()
    _require_names(files.keys(), path.name)
    _require_checksums(files, path.name)
    kept = {name: files[name] for name in CONTENT}
    return PackContent(kept, digest, checksums=files[CHECKSUMS], signature=files.get(SIGNATURE))


def _read_archive_bytes(path: Path, limits: PackLimits) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise PackageError(
                "no_model", f"model must be a file or a folder, got another thing at {path}. Give the packed zip."
            )
        with path.open("rb") as stream:
            content = stream.read(limits.archive_bytes + 1)
    except OSError as error:
        raise PackageError(
            "no_model",
            f"model must be a packed model, got {path} ({error.strerror}). Pack one with: prostate-alm pack",
        ) from error
    if len(content) > limits.archive_bytes:
        raise PackageError(
            "unsafe_model",
            f"model must have at most {limits.archive_bytes} bytes, got more in {path.name}. Pack it again.",
        )
    return content


def _read_zip(content: bytes, name: str, limits: PackLimits) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = _safe_entries(archive, name, limits)
            _require_names(entries.keys(), name)  # before anything is inflated
            return {file: _read_entry(archive, entry, limits.of(file)) for file, entry in entries.items()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise PackageError(
            "no_model", f"model must be a whole zip, got {error} in {name}. Copy or pack it again."
        ) from error


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    with archive.open(entry) as stream:
        return stream.read(most)  # never more than the entry's declared size, which was compared with the limit


def _safe_entries(archive: zipfile.ZipFile, name: str, limits: PackLimits) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by their name below the top folder."""
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise _unsafe(f"model must hold at most {limits.entries} files, got {len(entries)}", name)
    found: dict[str, zipfile.ZipInfo] = {}
    tops = set()
    for entry in entries:
        top, file = _split_name(entry, name)
        tops.add(top)
        if entry.is_dir():
            continue
        if file in found:
            raise _unsafe(f"model must hold each file once, got {file} twice", name)
        _require_plain(entry, file, name, limits)
        found[file] = entry
    if len(tops) > 1:
        raise _unsafe(f"model must hold one folder, got {len(tops)}", name)
    return found


def _split_name(entry: zipfile.ZipInfo, name: str) -> tuple[str, str]:
    """Return the top folder and the rest of an entry's name."""
    text = entry.orig_filename
    parts = PurePosixPath(text).parts
    if not parts or text.startswith("/") or "\\" in text or ":" in text or "\0" in text or ".." in parts:
        raise _unsafe("model must hold relative paths below one folder, got another path", name)
    return parts[0], "/".join(parts[1:])


def _require_plain(entry: zipfile.ZipInfo, file: str, name: str, limits: PackLimits) -> None:
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise _unsafe("model must hold plain files, got a link or device", name)
    if entry.flag_bits & 1:
        raise _unsafe("model must not be encrypted, got an encrypted file", name)
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _unsafe(f"model must be stored or deflated, got compression {entry.compress_type}", name)
    if entry.file_size > limits.of(file):
        raise _unsafe(f"a file of the model must have at most {limits.of(file)} bytes, got {entry.file_size}", name)


def _unsafe(fault: str, name: str) -> PackageError:
    return PackageError("unsafe_model", f"{fault} in {name}. Get the model again from where it was packed.")


def _read_folder(folder: Path, limits: PackLimits) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for place, folders, names in os.walk(folder):
        if Path(place) == folder:
            folders[:], names[:] = ([one for one in given if one not in _OF_A_HUB] for given in (folders, names))
        for name in sorted((*folders, *names)):
            path = Path(place, name)
            if path.is_symlink():
                raise _unsafe("model must hold plain files, got a link", folder.name)
        for name in names:
            path = Path(place, name)
            file = path.relative_to(folder).as_posix()
            if len(files) == limits.entries:
                raise _unsafe(f"model must hold at most {limits.entries} files, got more", folder.name)
            if not path.is_file() or path.stat().st_size > limits.of(file):
                raise _unsafe(f"a file of the model must have at most {limits.of(file)} bytes, got more", folder.name)
            files[file] = path.read_bytes()
    if not files:
        raise PackageError(
            "no_model", f"model must be a packed model, got an empty folder {folder.name}. Unpack one there."
        )
    return files


def _require_names(found: Set[str], name: str) -> None:
    wanted = {*CONTENT, CHECKSUMS}
    missing, unknown = sorted(wanted - found), sorted(found - wanted - {SIGNATURE})
    if missing:
        raise PackageError(
            "incomplete_model", f"model must hold {missing[0]}, got none in {name}. Pack it with: prostate-alm pack"
        )
    if unknown:
        raise PackageError(
            "incomplete_model",
            f"model must hold its {len(wanted)} files only, got {len(unknown)} more in {name}, first {unknown[0]!r}. "
            "Move them elsewhere.",
        )


def _require_checksums(files: Mapping[str, bytes], name: str) -> None:
    stored: dict[str, str] = {}
    for line in files[CHECKSUMS].decode("utf-8", "replace").splitlines():
        match = _CHECKSUM_LINE.fullmatch(line)
        if match is None or match[2] in stored:
            raise _tampered(f"{CHECKSUMS} must have one checksum a line, got another line", name)
        stored[match[2]] = match[1]
    if set(stored) != set(CONTENT):
        raise _tampered(f"{CHECKSUMS} must name each file of the model, got {len(stored)} names", name)
    for file in CONTENT:
        if hashlib.sha256(files[file]).hexdigest() != stored[file]:
            raise _tampered(f"{file} must have the SHA-256 that it was packed with, got another", name)


def _tampered(fault: str, name: str) -> PackageError:
    return PackageError("tampered_model", f"{fault} in {name}. Get the model again from where it was packed.")
