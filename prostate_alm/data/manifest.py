"""The cohort manifest: one JSON per cohort, its schema, how it is read and how it is checked."""

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from prostate_alm.progress import Progress, silent
from prostate_alm.whole_files import sha256_of_file, write_text_atomically

SCHEMA_VERSION: Literal[1] = 1
"""Of a cohort whose diffusion volumes are b-values."""
CHANNELS_SCHEMA_VERSION: Literal[2] = 2
"""Of a cohort whose diffusion volumes are `diffusion_channels`."""
MASKS_SCHEMA_VERSION: Literal[3] = 3
"""Of a cohort, of either kind, in which a study has masks or had one refused."""

DiffusionChannel = Literal["adc", "high_b"]
MaskKind = Literal["lesions", "gland"]
MASK_KINDS: tuple[MaskKind, ...] = ("lesions", "gland")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
BValueNumber = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ManifestError(ValueError):
    """A manifest, or a table of labels, that cannot be used; the message is one line that says what to do."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _name(text: str) -> str:
    """Return a name; raise `ValueError` for one that a spreadsheet runs as a formula, or that steers a terminal."""
    if text[0] in "=+-@" or not text.isprintable():
        raise ValueError("name must begin with none of = + - @ and be printable: tables are opened in spreadsheets")
    return text


Name = Annotated[str, Field(min_length=1), AfterValidator(_name)]
"""What tables for people hold of a study."""


class VolumeFile(_Record):
    """A converted volume: `path` relative to the manifest, below its folder, with `/`; the SHA-256 of its bytes."""

    path: str = Field(min_length=1)
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _below_the_manifest(cls, path: str) -> str:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path or ":" in path:
            raise ValueError("path must be relative to the manifest and below its folder")
        return path


def is_absent(value: object) -> bool:
    """Return whether a study lacks what is then left out: earlier versions do not know it, and keep their bytes."""
    return value is None


class StudyRecord(_Record):
    """One study of the cohort.

    `b_values_s_per_mm2` of the manifest holds for every study; `b_values_computed` says which of them were not acquired
    but computed by a mono-exponential fit of `b_values_acquired_s_per_mm2`. In a cohort of `diffusion_channels` there
    are no flags, and what was acquired may be unknown.

    `finding` is which of several classes the study is of, where the cohort has them: `label` says of each class whether
    it must not be missed.

    `lesions` is a label map on the grid of T2: 0 background, k >= 1 the k-th lesion; None where nobody drew any, an
    empty map where somebody looked and found none. `gland` is 1 within the prostate.
    """

    id: Name
    patient: Name
    label: Literal[0, 1]
    split: Literal["train", "test"]
    t2: VolumeFile
    dwi: VolumeFile
    b_values_acquired_s_per_mm2: tuple[BValueNumber, ...]
    b_values_computed: tuple[bool, ...]
    finding: Name | None = Field(default=None, exclude_if=is_absent)
    lesions: VolumeFile | None = Field(default=None, exclude_if=is_absent)
    gland: VolumeFile | None = Field(default=None, exclude_if=is_absent)


class RefusedStudy(_Record):
    """A labelled study that is not part of the cohort, and why."""

    id: Name
    code: str
    reason: str


class RefusedMask(_Record):
    """A mask of a study that could not be used, and why; the study is part of the cohort without it."""

    id: Name
    mask: MaskKind
    code: str
    reason: str


class Provenance(_Record):
    """Where the cohort comes from: software, labels and free words on source, label definition and licence."""

    created_by: str
    labels_sha256: Sha256
    source: str = ""
    label_definition: str = ""
    licence: str = ""


class Manifest(_Record):
    """A cohort: labelled studies whose volumes lie beside the manifest.

    The last axis of a study's diffusion file is either `b_values_s_per_mm2` (schema version 1) or, for collections
    that were published so, `diffusion_channels` (version 2): a map of the apparent diffusion coefficient, and an image
    at a high b-value that may differ from study to study. Where studies have masks, the version is 3, of either kind.

    `lesions_make_label` says that label 1 means that there is a lesion: a map of lesions holds one where the label is 1
    and none where it is 0.

    Raises:
        pydantic.ValidationError: when ids or b-values repeat, when studies of one patient lie in two splits, when
            b-values and channels are both given or neither, when `b_values_computed` of a study is not as long as
            `b_values_s_per_mm2`, or when the version is not that of what there is.
    """

    schema_version: Literal[1, 2, 3] = SCHEMA_VERSION
    name: str = Field(min_length=1)
    b_values_s_per_mm2: tuple[BValueNumber, ...]
    diffusion_channels: tuple[DiffusionChannel, ...] = Field(default=(), exclude_if=operator.not_)
    provenance: Provenance
    studies: tuple[StudyRecord, ...] = Field(min_length=1)
    refused: tuple[RefusedStudy, ...] = ()
    refused_masks: tuple[RefusedMask, ...] = Field(default=(), exclude_if=operator.not_)
    lesions_make_label: bool = Field(default=True, exclude_if=bool)

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        repeated = repeats([study.id for study in self.studies] + [study.id for study in self.refused])
        if repeated:
            raise ValueError(f"study ids must be unique, got {repeated[0]!r} more than once")
        _check_channels(self)
        _check_version(self)
        _check_masks(self)
        if fault := fault_of_findings([(study.id, study.label, study.finding) for study in self.studies]):
            raise ValueError(fault)
        if len(set(self.b_values_s_per_mm2)) < len(self.b_values_s_per_mm2):
            raise ValueError(f"b_values_s_per_mm2 must be distinct, got {list(self.b_values_s_per_mm2)}")
        pairs = {(study.patient, study.split) for study in self.studies}
        shared = repeats(patient for patient, _ in pairs)
        if shared:
            raise ValueError(f"a patient must lie in one split, got {shared[0]!r} in train and test")
        for study in self.studies:
            if len(study.b_values_computed) != len(self.b_values_s_per_mm2):
                raise ValueError(f"b_values_computed of {study.id!r} must have one flag per b-value of the manifest")
            if self.b_values_s_per_mm2 and not study.b_values_acquired_s_per_mm2:
                raise ValueError(f"b_values_acquired_s_per_mm2 of {study.id!r} must hold at least one b-value")
        return self

    @property
    def has_masks(self) -> bool:
        """Whether a study has masks, or had one that was refused."""
        return bool(self.refused_masks) or any(study.lesions or study.gland for study in self.studies)

    @property
    def diffusion_volumes(self) -> int:
        """Number of diffusion volumes of each study."""
        return len(self.b_values_s_per_mm2) + len(self.diffusion_channels)


def fault_of_findings(studies: Iterable[tuple[str, int, str | None]]) -> str:
    """Return what is wrong with the findings of studies, '' when nothing is.

    Args:
        studies: id, label and finding of each.

    >>> fault_of_findings([("a", 0, "none"), ("b", 1, "none")])
    "studies of one finding must have one label, got 'b' with 'none' and label 1, others have 0"
    """
    known: dict[str | None, int] = {}
    for name, label, finding in studies:
        if known and (finding is None) != (None in known):
            return f"finding must be given for all studies or for none, got {name!r} unlike others"
        if finding is not None and known.setdefault(finding, label) != label:
            return (
                f"studies of one finding must have one label, got {name!r} with {finding!r} and label {label}, "
                f"others have {known[finding]}"
            )
        known.setdefault(finding, label)
    return ""


def _check_channels(manifest: Manifest) -> None:
    b_values, channels = manifest.b_values_s_per_mm2, manifest.diffusion_channels
    if bool(b_values) == bool(channels):
        raise ValueError("there must be b_values_s_per_mm2 or diffusion_channels, and not both")
    if len(set(channels)) < len(channels):
        raise ValueError(f"diffusion_channels must be distinct, got {list(channels)}")


def _check_version(manifest: Manifest) -> None:
    version, what = version_of(channels=bool(manifest.diffusion_channels), masks=manifest.has_masks)
    if manifest.schema_version != version:
        raise ValueError(f"schema_version must be {version} for {what}, got {manifest.schema_version}")


def version_of(*, channels: bool, masks: bool) -> tuple[Literal[1, 2, 3], str]:
    """Return the version of a cohort's schema, and the fields that ask for it.

    >>> version_of(channels=True, masks=False)
    (2, 'diffusion_channels')
    """
    if masks:
        return MASKS_SCHEMA_VERSION, "masks"
    return (CHANNELS_SCHEMA_VERSION, "diffusion_channels") if channels else (SCHEMA_VERSION, "b_values_s_per_mm2")


def _check_masks(manifest: Manifest) -> None:
    studies = {study.id: study for study in manifest.studies}
    for one in manifest.refused_masks:
        if one.id not in studies or getattr(studies[one.id], one.mask) is not None:
            raise ValueError(f"refused_masks must be of studies that lack them, got {one.mask} of {one.id!r}")
    if not manifest.lesions_make_label and not manifest.has_masks:
        raise ValueError("lesions_make_label must be left out of a cohort without masks")


def require_channels(manifest_path: Path | None, path_channels: Sequence[int]) -> None:
    """Check that a network of a T2 path and a diffusion path takes the volumes of a cohort.

    Args:
        manifest_path: the cohort; None for the synthetic one, of three b-values.
        path_channels: input channels of the network's paths; a network of one path is not checked, since which volumes
            it takes is a matter of the transforms.

    Raises:
        ManifestError: the manifest cannot be read, or the network takes another number of volumes.

    >>> require_channels(None, (1, 3))
    """
    volumes = 3 if manifest_path is None else read_manifest(Path(manifest_path)).diffusion_volumes
    if len(path_channels) == 2 and list(path_channels) != [1, volumes]:
        raise ManifestError(
            f"path_channels must be [1, {volumes}] for T2 and the {volumes} diffusion volumes of the manifest, got "
            f"{list(path_channels)} for {manifest_path or 'the synthetic cohort'}. "
            f'Give --path_channels "[1, {volumes}]".'
        )


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
        text = path.read_bytes()
    except OSError as error:
        raise ManifestError(
            f"manifest must be a readable file, got {path} ({error.strerror}). "
            "Build one with: prostate-alm manifest build DICOM_DIR --labels labels.csv --output NAME.json"
        ) from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError(_fault_in_words(error, path)) from error


def _fault_in_words(error: ValidationError, path: Path) -> str:
    """Return the first fault as one line; never the faulty value, which may be anything."""
    first = error.errors(include_input=False, include_url=False)[0]
    if first["type"] == "json_invalid":
        return (
            f"manifest must be JSON, got {first['ctx']['error']} in {path}. "
            "Build it again with: prostate-alm manifest build"
        )
    place = ".".join(str(part) for part in first["loc"]) or "the whole file"
    more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
    rule = first["msg"].removeprefix("Value error, ")
    return (
        f"manifest must follow schema version {SCHEMA_VERSION} to {MASKS_SCHEMA_VERSION}, got: {rule} in {path} at "
        f"{place}{more}. See data_manifest/README.md for the schema."
    )


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write the manifest atomically: the file is either the old one or the new one."""
    write_text_atomically(path, manifest.model_dump_json(indent=1) + "\n")


def check_files(manifest: Manifest, manifest_path: Path, *, progress: Progress = silent) -> list[str]:
    """Compare every volume and every mask with its checksum; `masks.check_masks` reads what masks hold.

    Args:
        manifest: the cohort.
        manifest_path: where it was read from; the paths of its volumes are relative to that folder.
        progress: called with (studies done, studies in all) after each study.

    Returns:
        One line for each volume that is missing or changed; empty when all are as the manifest says.
    """
    faults = []
    for done, study in enumerate(manifest.studies, start=1):
        files = {"t2": study.t2, "dwi": study.dwi, "lesions": study.lesions, "gland": study.gland}
        for kind, volume in files.items():
            if volume is None:
                continue
            fault = _volume_fault(volume, manifest_path)
            if fault:
                faults.append(f"{kind} of study {study.id} {fault}")
        progress(done, len(manifest.studies))
    return faults


def _volume_fault(volume: VolumeFile, manifest_path: Path) -> str:
    """Return what is wrong with a volume, '' when nothing is."""
    path = manifest_path.parent / volume.path
    if not path.is_file():
        return f"must exist, got no file at {volume.path} beside {manifest_path.name}. Build the manifest again."
    if sha256_of_file(path) != volume.sha256:
        return (
            f"must have the manifest's SHA-256, got another in {volume.path}. "
            "The file changed since the manifest was built: restore it or build the manifest again."
        )
    return ""
