"""A member of the prostate bundle: its settings, and its samples from the manifest of a cohort."""

import logging
import warnings
from pathlib import Path
from typing import ClassVar

from prostate_alm.data.manifest import Manifest, StudyRecord, check_files, read_manifest, sha256_of_file
from prostate_alm.data.splits import split_member
from prostate_alm.data.synthetic import default_manifest_path, ensure_synthetic_cohort
from prostate_alm.progress import progress_bar
from prostate_alm.training.member import Member, open_trained, prepare
from prostate_alm.training.samples import Sample, Samples
from prostate_alm.training.settings import Settings

SYNTHETIC_COHORT_FOLDER = Path("data")


class CohortSettings(Settings):
    """Settings of a member that is trained on a cohort; without a manifest, on the synthetic one."""

    manifest: Path | None
    not_in_config: ClassVar[frozenset[str]] = Settings.not_in_config | {"manifest"}  # known by its content

    @property
    def experiment_name(self) -> str:
        """Name of the experiment in MLflow and of its folder of ensembles."""
        return "prostate"

    @property
    def data_name(self) -> str:
        """Name of the cohort."""
        return (self.manifest or default_manifest_path(SYNTHETIC_COHORT_FOLDER)).stem

    def read_samples(self) -> Samples:
        """Return the samples of the member from its manifest, whose volumes are checked.

        Raises:
            ValueError: the manifest, a volume or a split cannot be used; one line for each fault.
        """
        path = self.manifest or ensure_synthetic_cohort(SYNTHETIC_COHORT_FOLDER, progress=progress_bar)
        manifest = read_manifest(path)
        faults = check_files(manifest, path)
        if faults:
            raise ValueError("\n".join(faults))
        train, validation, test = member_samples(manifest, path.parent, seed=self.seed, member=self.member)
        identity = {"manifest": path.name, "manifest_sha256": sha256_of_file(path)}
        return Samples(train, validation, test, [], identity)


def prepare_member(settings: CohortSettings) -> Member:
    """Prepare a member of the prostate bundle: see `member.prepare`."""
    silence_missing_decoders()
    return prepare("prostate", settings)


def open_member(settings: CohortSettings) -> Member:
    """Open a trained member of the prostate bundle to evaluate it again: see `member.open_trained`."""
    silence_missing_decoders()
    return open_trained("prostate", settings)


def silence_missing_decoders() -> None:
    """MONAI tells of a GPU decoder for DICOM that is not installed; volumes are NIfTI here, so nobody misses it."""
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


def member_samples(
    manifest: Manifest, folder: Path, *, seed: int, member: int
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Return the training, validation and test samples of a member.

    Args:
        manifest: the cohort.
        folder: where the manifest lies; its paths are relative to it.
        seed: seed of the experiment.
        member: number of the member, from 0.
    """
    by_id = {study.id: study for study in manifest.studies}
    training = [study for study in manifest.studies if study.split == "train"]
    labels = {study.id: int(study.label) for study in training}
    patients = {study.id: study.patient for study in training}
    train, validation = split_member(labels, patients, seed=seed, member=member)
    test = [study.id for study in manifest.studies if study.split == "test"]
    _require_test_of_both_classes([by_id[i] for i in test])
    first, second, third = ([sample_of(by_id[i], folder) for i in ids] for ids in (train, validation, test))
    return first, second, third


def _require_test_of_both_classes(studies: list[StudyRecord]) -> None:
    classes = {study.label for study in studies}
    if classes != {0, 1}:
        raise ValueError(
            f"the test split must hold both classes, got {len(studies)} studies with labels {sorted(classes)}. "
            "Change the split column of the labels and build the manifest again."
        )


def sample_of(study: StudyRecord, folder: Path) -> Sample:
    """Return what the bundle's transforms make the image of a study from.

    Args:
        study: of a manifest.
        folder: where the manifest lies.
    """
    return {
        "t2": str(folder / study.t2.path),
        "dwi": str(folder / study.dwi.path),
        "label": int(study.label),
        "sample_id": study.id,
    }
