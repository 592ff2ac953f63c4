"""The cohort that a bundle trains on when it is given none: synthetic studies, made as DICOM, read like any others."""

from collections.abc import Callable
from pathlib import Path

from prostate_alm.data.build import build_manifest
from prostate_alm.data.workers import available_workers
from prostate_alm.imaging.phantom import make_cohort
from prostate_alm.progress import Progress, silent

DEFAULT_STUDIES = 60


def default_manifest_path(folder: Path, *, studies: int = DEFAULT_STUDIES, seed: int = 0) -> Path:
    """Return where `ensure_synthetic_cohort` puts the manifest.

    >>> default_manifest_path(Path("data")).as_posix()
    'data/phantom-60-seed0.json'
    """
    return folder / f"phantom-{studies}-seed{seed}.json"


def ensure_synthetic_cohort(
    folder: Path,
    *,
    studies: int = DEFAULT_STUDIES,
    seed: int = 0,
    progress: Callable[[str], Progress] = lambda _: silent,
) -> Path:
    """Return the manifest of a synthetic cohort in `folder`; make what of it is missing.

    Args:
        folder: receives the DICOM studies with their labels, the manifest and its volumes.
        studies: number of studies.
        seed: seed of the cohort; the same seed gives the same studies.
        progress: name of the work -> what is called after each study, e.g. `progress_bar`.

    Raises:
        ValueError: `studies` or `seed` is out of range, or there are too few studies to split.
    """
    manifest = default_manifest_path(folder, studies=studies, seed=seed)
    if manifest.is_file():
        return manifest
    dicom_dir = folder / f"{manifest.stem}-dicom"
    make_cohort(dicom_dir, studies=studies, seed=seed, progress=progress("making studies"))
    build_manifest(
        dicom_dir,
        dicom_dir / "labels.csv",
        output=manifest,
        test_share=1 / 3,
        source="synthetic studies of prostate-alm, see docs/phantom.md",
        label_definition="1 = equivocal lesion (contrast would have helped), 0 = none or unmistakable",
        licence="Apache-2.0",
        workers=available_workers(),
        progress=progress("reading studies"),
    )
    return manifest
