"""The cohort manifest: one JSON per cohort, its schema, how it is read and how it is checked."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHEMA_VERSION: Literal[1] = 1


class ManifestError(ValueError):
    """A manifest, or a table of labels, that cannot be used; the message is one line that says what to do."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VolumeFile(_Record):
    """A converted volume: `path` relative to the manifest, and the SHA-256 of its bytes."""

    path: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class StudyRecord(_Record):
    """One study of the cohort.

    `b_values_s_per_mm2` of the manifest holds for every study; `b_values_computed` says which of them were not acquired
    but computed by a mono-exponential fit of `b_values_acquired_s_per_mm2`.
    """

    id: str = Field(min_length=1)
    patient: str = Field(min_length=1)
    label: Literal[0, 1]
    split: Literal["train", "test"]
    t2: VolumeFile
    dwi: VolumeFile
    b_values_acquired_s_per_mm2: tuple[float, ...]
    b_values_computed: tuple[bool, ...]


class RefusedStudy(_Record):
    """A labelled study that is not part of the cohort, and why."""

    id: str
    code: str
    reason: str


class Provenance(_Record):
    """Where the cohort comes from: software, labels and free words on source, label definition and licence."""

    created_by: str
    labels_sha256: str
    source: str = ""
    label_definition: str = ""
    licence: str = ""


class Manifest(_Record):
    """A cohort: labelled studies whose volumes lie beside the manifest.

    Raises:
        pydantic.ValidationError: when ids repeat, when studies of one patient lie in two splits, or when
            `b_values_computed` of a study is not as long as `b_values_s_per_mm2`.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(min_length=1)
    b_values_s_per_mm2: tuple[float, ...]
    provenance: Provenance
    studies: tuple[StudyRecord, ...] = Field(min_length=1)
    refused: tuple[RefusedStudy, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        repeated = repeats(study.id for study in self.studies)
        if repeated:
            raise ValueError(f"study ids must be unique, got {repeated[0]!r} more than once")
        pairs = {(study.patient, study.split) for study in self.studies}
        shared = repeats(patient for patient, _ in pairs)
        if shared:
            raise ValueError(f"a patient must lie in one split, got {shared[0]!r} in train and test")
        for study in self.studies:
            if len(study.b_values_computed) != len(self.b_values_s_per_mm2):
                raise ValueError(f"b_values_computed of {study.id!r} must have one flag per b-value of the manifest")
        return self


def repeats(values: Iterable[str]) -> list[str]:
    """Return the values that occur more than once, sorted.

    >>> repeats(["a", "b", "a"])
    ['a']
    """
    return sorted(value for value, count in Counter(values).items() if count > 1)


def read_manifest(path: Path) -> Manifest:
    """Read and validate a manifest; the volumes are not touched (see `check_files`).

    Args:
        path: the JSON file.

    Raises:
        ManifestError: the file is missing, is not JSON, or breaks the schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(
            f"manifest must be a readable file, got {path} ({error.strerror}). "
            "Build one with: prostate-alm manifest build DICOM_DIR --labels labels.csv --output NAME.json"
        ) from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"manifest must be JSON, got {error.msg} in {path} line {error.lineno} column {error.colno}. "
            "Build it again with: prostate-alm manifest build"
        ) from error
    return _validated(content, path)


def _validated(content: object, path: Path) -> Manifest:
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ManifestError(
            f"manifest must follow schema version {SCHEMA_VERSION}, got: {first['msg']} in {path} at {place}{more}. "
            "See data_manifest/README.md for the schema."
        ) from error


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest atomically: the file is either the old one or the new one."""
    write_text_atomically(path, manifest.model_dump_json(indent=1) + "\n")


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` to a temporary file beside `path`, then rename it over `path`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of the file's bytes in lower-case hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_files(manifest: Manifest, manifest_path: Path) -> list[str]:
    """Compare every volume with its checksum.

    Returns:
        One line for each volume that is missing or changed; empty when all are as the manifest says.
    """
    faults = []
    for study in manifest.studies:
        for kind, volume in (("t2", study.t2), ("dwi", study.dwi)):
            path = manifest_path.parent / volume.path
            if not path.is_file():
                faults.append(
                    f"{kind} of study {study.id} must exist, got no file at {volume.path} beside {manifest_path.name}. "
                    "Build the manifest again."
                )
            elif sha256_of_file(path) != volume.sha256:
                faults.append(
                    f"{kind} of study {study.id} must have the manifest's SHA-256, got another in {volume.path}. "
                    "The file changed since the manifest was built: restore it or build the manifest again."
                )
    return faults
