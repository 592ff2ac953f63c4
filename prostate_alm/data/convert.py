"""One DICOM study to volumes on disk: two NIfTI files and a sidecar that says how they were made."""

import hashlib
import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prostate_alm import __version__
from prostate_alm.data.manifest import DiffusionChannel, ManifestError, MaskKind, RefusedStudy, is_absent
from prostate_alm.data.masks import MASK_FILES, MaskSource, StudyMasks
from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.rulebook import Rules, default_rules
from prostate_alm.imaging.volume import StudyVolumes, load_study
from prostate_alm.whole_files import partial_folder, sha256_of_file

T2_FILE, DWI_FILE, SIDECAR_FILE = "t2.nii.gz", "dwi.nii.gz", "study.json"
_FILES = (T2_FILE, DWI_FILE, *MASK_FILES.values())
SOFTWARE = f"prostate-alm {__version__}"

_GZIP_FORMAT = 16 + zlib.MAX_WBITS  # zlib's sign for a gzip header and trailer
_SCANNER_COORDINATES = 1  # the NIfTI code of an affine that gives the scanner's own millimetres

logger = logging.getLogger(__name__)


class MasksSidecar(BaseModel):
    """What `study.json` says of masks.

    `source_sha256` is that of what they were made from, `lesions` the number of lesions, None without a map of them;
    `refused` holds code and reason of each mask that could not be used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source_sha256: str
    lesions: int | None = None
    refused: dict[MaskKind, tuple[str, str]] = {}


class Sidecar(BaseModel):
    """What `study.json` beside the volumes of a study says of how they were made.

    A conversion is repeated when `created_by`, `source_sha256`, `b_values_s_per_mm2`, `diffusion_channels`,
    `rules_sha256` (None for the default rules of the selection) or the checksum of `masks` would come out differently,
    or when a file no longer has its `sha256`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    created_by: str
    source_sha256: str
    b_values_s_per_mm2: tuple[float, ...]
    b_values_acquired_s_per_mm2: tuple[float, ...]
    b_values_computed: tuple[bool, ...]
    series: tuple[dict[str, Any], ...]
    sha256: dict[str, str]
    rules_sha256: str | None = None
    diffusion_channels: tuple[DiffusionChannel, ...] = ()
    masks: MasksSidecar | None = Field(default=None, exclude_if=is_absent)


class StudySource(Protocol):
    """Where the volumes of one study come from: files, and how they are read.

    `b_values_s_per_mm2` are those of the diffusion volumes, in order; `diffusion_channels` takes their place where a
    collection has no volumes at common b-values. `rules_sha256` is that of the rules of the selection, None for the
    default ones or none. `masks` is where lesions and gland come from, None where nobody drew them.
    """

    @property
    def b_values_s_per_mm2(self) -> tuple[float, ...]: ...  # noqa: D102

    @property
    def diffusion_channels(self) -> tuple[DiffusionChannel, ...]: ...  # noqa: D102

    @property
    def rules_sha256(self) -> str | None: ...  # noqa: D102

    @property
    def masks(self) -> MaskSource | None: ...  # noqa: D102

    def sha256(self) -> str:
        """Return a checksum of all that the volumes are made from; raise `StudyRefused` for an unreadable file."""

    def read(self) -> StudyVolumes:
        """Return the volumes on the grid of T2; raise `StudyRefused` where they cannot be used."""


@dataclass(frozen=True)
class DicomStudy:
    """A folder of DICOM files, of which the rules choose the series; see `imaging.volume.load_study`."""

    folder: Path
    b_values_s_per_mm2: tuple[float, ...]
    rules: Rules | None = None
    masks: MaskSource | None = None

    @property
    def diffusion_channels(self) -> tuple[DiffusionChannel, ...]:
        """None: the volumes are b-values."""
        return ()

    @property
    def rules_sha256(self) -> str | None:
        """Checksum of the rules, None for the default ones."""
        return None if self.rules is None or self.rules == default_rules() else self.rules.sha256()

    def sha256(self) -> str:
        """Return a checksum of the contents of all files, whatever their names; see `StudySource.sha256`."""
        try:
            digests = sorted(sha256_of_file(path) for path in self.folder.rglob("*") if path.is_file())
        except OSError as error:  # no path in the reason: folders and files are often named after patients
            raise unreadable(error) from error
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    def read(self) -> StudyVolumes:
        """Return the volumes of the series that the rules choose."""
        return guarded(
            lambda: load_study(self.folder, b_values_s_per_mm2=self.b_values_s_per_mm2, rules=self.rules),
            advice="See what `prostate-alm study explain` says of its folder, and report the error.",
        )


def unreadable(error: OSError) -> StudyRefused:
    """Return the refusal of a study with a file that cannot be read."""
    return StudyRefused(
        "unreadable_file", f"files of a study must be readable, got: {error.strerror}. Check their permissions."
    )


def guarded(read: Callable[[], StudyVolumes], *, advice: str) -> StudyVolumes:
    """Call `read`; a study that defeats a reader must not stop the rest of its cohort.

    Raises:
        StudyRefused: that of `read`, or `unexpected_error` in place of any other exception.
    """
    try:
        return read()
    except StudyRefused:
        raise
    except Exception as error:
        logger.debug("study refused after an unexpected error", exc_info=True)
        raise StudyRefused(
            "unexpected_error", f"study must be readable, got {type(error).__name__} while reading it. {advice}"
        ) from error


def convert_or_refuse(study: tuple[str, StudySource], *, volumes_dir: Path) -> Sidecar | RefusedStudy:
    """Convert a study, known by its id, to `volumes_dir/id`; return why not when it cannot be used."""
    name, source = study
    try:
        return convert_source(source, volumes_dir / name)
    except StudyRefused as error:
        return RefusedStudy(id=name, code=error.code, reason=error.reason)


def convert_study(
    study_dir: Path, output_dir: Path, *, b_values_s_per_mm2: Sequence[float], rules: Rules | None = None
) -> Sidecar:
    """Convert a folder of DICOM files: see `convert_source`.

    Args:
        study_dir: folder with the study's DICOM files.
        output_dir: folder of the volumes; made where absent.
        b_values_s_per_mm2: the B wanted b-values, each >= 0.
        rules: words, limits and places of the selection; the default ones when None.

    Raises:
        StudyRefused, ManifestError, OSError: see `convert_source`.
    """
    return convert_source(DicomStudy(study_dir, tuple(float(b) for b in b_values_s_per_mm2), rules), output_dir)


def convert_source(source: StudySource, output_dir: Path) -> Sidecar:
    """Write the volumes of one study and return their sidecar; do nothing when that was done from the same files.

    `output_dir` receives `t2.nii.gz` (I, J, K), `dwi.nii.gz` (I, J, K, B) and the masks that there are, on the grid of
    T2, and `study.json`. A folder of that name is complete or was not made by this function; other files in it stay.

    Args:
        source: the study's files.
        output_dir: folder of the volumes; made where absent.

    Raises:
        StudyRefused: the study cannot be used.
        ManifestError: `output_dir` holds files that are no conversion.
        OSError: the volumes cannot be written.
    """
    require_conversion_or_nothing(output_dir)
    source_sha256 = source.sha256()
    masks_sha256 = source.masks and source.masks.sha256()
    earlier = _earlier_conversion(output_dir)
    wanted = (
        *(SOFTWARE, source_sha256, source.b_values_s_per_mm2),
        *(source.rules_sha256, source.diffusion_channels, masks_sha256),
    )
    if earlier and _made_of(earlier) == wanted:
        return earlier
    volumes = source.read()
    masks = None if source.masks is None else source.masks.read(volumes)
    with partial_folder(output_dir) as partial:
        of_masks = (
            _write_masks(masks, partial, volumes.t2.affine_ras_mm, masks_sha256) if masks and masks_sha256 else None
        )
        sidecar = _write(volumes, partial, source=source, source_sha256=source_sha256, masks=of_masks)
        _move(partial, output_dir)
    return sidecar


def _made_of(sidecar: Sidecar) -> tuple[object, ...]:
    """Return what a conversion depends on."""
    return (
        *(sidecar.created_by, sidecar.source_sha256, sidecar.b_values_s_per_mm2),
        *(sidecar.rules_sha256, sidecar.diffusion_channels, sidecar.masks and sidecar.masks.source_sha256),
    )


def require_conversion_or_nothing(output_dir: Path) -> None:
    """Raise `ManifestError` where a folder holds files that `convert_study` did not write."""
    if output_dir.exists() and not (output_dir / SIDECAR_FILE).is_file():
        raise ManifestError(
            f"the folder of a study's volumes must be absent or hold its {SIDECAR_FILE}, got {output_dir} without one. "
            "It was not made by `manifest build`: move it away or choose another output."
        )


def _earlier_conversion(output_dir: Path) -> Sidecar | None:
    """Return the sidecar of a conversion whose volumes are as it says, else None."""
    path = output_dir / SIDECAR_FILE
    if not path.is_file():
        return None
    try:
        sidecar = Sidecar.model_validate_json(path.read_bytes())
    except ValidationError:  # damaged, or written by another version
        return None
    volumes = [output_dir / name for name in {T2_FILE, DWI_FILE, *sidecar.sha256}]
    intact = all(one.is_file() and sha256_of_file(one) == sidecar.sha256.get(one.name) for one in volumes)
    return sidecar if intact else None


def _write_masks(
    masks: StudyMasks, folder: Path, affine_ras_mm: NDArray[np.float64], source_sha256: str
) -> MasksSidecar:
    for kind, labels in masks.labels.items():
        (folder / MASK_FILES[kind]).write_bytes(labels_bytes(labels, affine_ras_mm))
    lesions = masks.labels.get("lesions")
    return MasksSidecar(
        source_sha256=source_sha256,
        lesions=None if lesions is None else len(np.unique(lesions[lesions > 0])),
        refused={kind: (error.code, error.reason) for kind, error in masks.refused.items()},
    )


def _write(
    volumes: StudyVolumes, folder: Path, *, source: StudySource, source_sha256: str, masks: MasksSidecar | None
) -> Sidecar:
    affine_ras_mm = volumes.t2.affine_ras_mm
    diffusion = np.stack([volume.voxels for volume in volumes.dwi], axis=-1)  # (I, J, K, B)
    (folder / T2_FILE).write_bytes(nifti_bytes(volumes.t2.voxels, affine_ras_mm))
    (folder / DWI_FILE).write_bytes(nifti_bytes(diffusion, affine_ras_mm))
    sidecar = Sidecar(
        created_by=SOFTWARE,
        source_sha256=source_sha256,
        b_values_s_per_mm2=volumes.b_values_s_per_mm2,
        b_values_acquired_s_per_mm2=volumes.b_values_acquired_s_per_mm2,
        b_values_computed=volumes.b_values_computed,
        series=tuple(_without_words(row) for row in volumes.selection.to_dict()["series"]),
        sha256={name: sha256_of_file(folder / name) for name in _FILES if (folder / name).exists()},
        rules_sha256=source.rules_sha256,
        diffusion_channels=source.diffusion_channels,
        masks=masks,
    )
    (folder / SIDECAR_FILE).write_text(sidecar.model_dump_json(indent=1) + "\n", encoding="utf-8", newline="\n")
    return sidecar


def _without_words(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the selection without what was typed at the scanner, which may be a name."""
    return {key: value for key, value in row.items() if key != "description"}


def nifti_bytes(voxels: NDArray[np.float32], affine_ras_mm: NDArray[np.float64]) -> bytes:
    """Return a NIfTI file; 16 bits with a slope keep it small, the quantisation is 1/65535 of the range."""
    # Noise has no repeated strings: looking for runs only takes half the time of level 1 and 7 to 19 % more space.
    # zlib writes no time stamp: same input, same bytes.
    compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP_FORMAT, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return compressor.compress(_nifti(voxels, affine_ras_mm, np.int16)) + compressor.flush()


def labels_bytes(labels: NDArray[np.uint8], affine_ras_mm: NDArray[np.float64]) -> bytes:
    """Return a NIfTI file of 8 bits without a slope: labels stay as they are."""
    return zlib.compress(_nifti(labels, affine_ras_mm, np.uint8), wbits=_GZIP_FORMAT)


def _nifti(voxels: NDArray[Any], affine_ras_mm: NDArray[np.float64], stored: type[np.generic]) -> bytes:
    image = nib.Nifti1Image(voxels, affine_ras_mm)
    image.set_sform(affine_ras_mm, code=_SCANNER_COORDINATES)
    image.set_qform(affine_ras_mm, code=_SCANNER_COORDINATES)
    image.set_data_dtype(stored)
    image.header.set_xyzt_units("mm")
    return bytes(image.to_bytes())


def _move(partial: Path, output_dir: Path) -> None:
    """Give a finished conversion its name; an interruption leaves a sidecar whose checksums show it."""
    if not output_dir.exists():
        partial.rename(output_dir)
        return
    for name in (*_FILES, SIDECAR_FILE):
        if (partial / name).exists():
            (partial / name).replace(output_dir / name)
    partial.rmdir()
