"""A member of the lesions bundle: its settings, and its samples with their lesions from the manifest of a cohort."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
from torch import nn

from prostate_alm.data.manifest import Manifest, VolumeFile
from prostate_alm.data.masks import check_masks
from prostate_alm.data.synthetic import DEFAULT_COHORT, SyntheticCohort
from prostate_alm.method.lesions import lesion_id
from prostate_alm.method.losses import Maker
from prostate_alm.training.cohort_member import CohortSettings, member_samples, silence_missing_decoders
from prostate_alm.training.map_losses import MAP_LOSSES, make_map_loss
from prostate_alm.training.member import Member, open_trained
from prostate_alm.training.settings import Sample, Samples

logger = logging.getLogger(__name__)


class LesionSettings(CohortSettings):
    """Settings of a member that finds lesions; a case is positive where it has one, whatever its label.

    Studies of which nobody drew the lesions have no part. Without a manifest or a recipe the cohort is a small
    synthetic one with masks.
    """

    losses: ClassVar[Mapping[str, Maker]] = MAP_LOSSES
    bundle: ClassVar[str] = "lesions"
    synthetic: ClassVar[SyntheticCohort] = DEFAULT_COHORT.model_copy(update={"masks": True})

    @property
    def experiment_name(self) -> str:
        """Name of the experiment in MLflow and of its folder of ensembles."""
        return "lesions"

    def loss_named(self, name: str, parameters: Mapping[str, Any]) -> nn.Module:
        """Return a base loss of maps by its name."""
        return make_map_loss(name, **parameters)

    def read_samples(self) -> Samples:
        """Return the samples of the member; each has the file `lesions` and the `numbers` of the lesions in it.

        Raises:
            ValueError: the manifest, the recipe, a volume, a mask or a split cannot be used; one line for each fault.
        """
        path, manifest = self.read_cohort()
        faults = check_masks(manifest, path)
        if faults:
            raise ValueError("\n".join(faults))
        usable, numbers = drawn_cohort(manifest, path.parent)
        _tell_of_others(manifest, len(numbers))
        drawn = {study.id: study.lesions for study in usable.studies if study.lesions is not None}
        parts = member_samples(usable, path.parent, seed=self.seed, member=self.member, ratio=self.ratio)
        train, validation, test, extra = (
            [
                _with_lesions(one, drawn[one["sample_id"]], numbers[one["sample_id"]], path.parent)
                for one in self.cropped(part, manifest, path.parent)
            ]
            for part in parts
        )
        return Samples(train, validation, test, extra, identity=self.identity_of(path))


def drawn_cohort(manifest: Manifest, folder: Path) -> tuple[Manifest, dict[str, tuple[int, ...]]]:
    """Return the studies whose lesions were drawn, each positive where it has one, and the numbers of these by id.

    Args:
        manifest: of the cohort.
        folder: where it lies.
    """
    files = {study.id: study.lesions for study in manifest.studies if study.lesions is not None}
    numbers = {key: _numbers(folder / file.path) for key, file in files.items()}
    studies = [
        study.model_copy(update={"label": int(bool(numbers[study.id]))})
        for study in manifest.studies
        if study.id in numbers
    ]
    return manifest.model_copy(update={"studies": tuple(studies)}), numbers


def open_member(**places: Any) -> Member:
    """Open a trained member of the lesions bundle to evaluate it again: see `member.open_trained`."""
    silence_missing_decoders()
    return open_trained(LesionSettings, **places)


def lesion_ids(samples: Iterable[Sample]) -> list[str]:
    """Return the ids of the lesions of samples, each as its multiplier is known.

    >>> lesion_ids([{"sample_id": "a", "numbers": (1, 2)}, {"sample_id": "b", "numbers": ()}])
    ['a/lesion-1', 'a/lesion-2']
    """
    return [lesion_id(sample["sample_id"], number) for sample in samples for number in sample["numbers"]]


def lesion_counts(samples: Samples) -> dict[str, int]:
    """Return the number of lesions of each sample of a member, by id, whether a crop shows them or not."""
    every = (*samples.train, *samples.validation, *samples.test, *samples.test_extra)
    return {sample["sample_id"]: len(sample["numbers"]) for sample in every}


def studies_in(folder: str | Path | None) -> list[dict[str, str]]:
    """Return the converted studies below a folder, as `manifest build` writes them: T2 and diffusion on its grid.

    Raises:
        ValueError: there is none.
    """
    found = sorted(Path(folder).glob("**/t2.nii.gz")) if folder else []
    studies = [{"t2": str(path), "dwi": str(path.with_name("dwi.nii.gz"))} for path in found]
    if not studies:
        raise ValueError(
            f"dataset_dir must be a folder with studies of t2.nii.gz and dwi.nii.gz, got {folder}. "
            "Make them with: prostate-alm manifest build"
        )
    return studies


def _tell_of_others(manifest: Manifest, drawn: int) -> None:
    if not drawn:
        raise ValueError(
            f"manifest must have studies whose lesions were drawn, got none among {len(manifest.studies)} in "
            f"{manifest.name}. Build it with masks: data_manifest/README.md"
        )
    if drawn < len(manifest.studies):
        logger.warning(
            "%d of %d studies have no map of lesions: left out", len(manifest.studies) - drawn, len(manifest.studies)
        )


def _numbers(path: Path) -> tuple[int, ...]:
    image: Any = nib.load(path)
    return tuple(int(number) for number in np.unique(np.asarray(image.dataobj)) if number > 0)


def _with_lesions(sample: Sample, file: VolumeFile, numbers: tuple[int, ...], folder: Path) -> Sample:
    return sample | {
        "lesions": str(folder / file.path),
        "numbers": numbers,
        "volumes_sha256": (*sample["volumes_sha256"], file.sha256),
    }
