"""A member of the prostate bundle: its settings, and its samples from the manifest of a cohort."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from prostate_alm.data.manifest import Manifest, StudyRecord, check_files, read_manifest, require_channels
from prostate_alm.data.splits import split_at_ratio, split_member
from prostate_alm.data.synthetic import DEFAULT_COHORT, SyntheticCohort, ensure_synthetic_cohort, make_from_recipe
from prostate_alm.data.volume_cache import require_fixed
from prostate_alm.progress import progress_bar
from prostate_alm.training.gland_crop import localiser_sha256, with_glands
from prostate_alm.training.member import Member, open_trained, prepare
from prostate_alm.training.settings import Sample, Samples, Settings
from prostate_alm.whole_files import sha256_of_file

_TEST_DRAW = 0
"""Seed of the positives that a test set at a class ratio keeps: the same for all members and experiments."""


class CohortSettings(Settings):
    """Settings of a member that is trained on a cohort.

    The cohort is that of `manifest`, else the synthetic one of `recipe`, else a small synthetic one; those are made in
    `dataset_dir`. With a `ratio`, positive patients are dropped from training and test until there are `ratio`
    negatives for each.

    `crop` says around what the network sees a study: the middle of T2, or the gland, by its mask where the manifest has
    one and else by `localiser`, the folder of a trained one (`gland_crop.CropToGland`).
    """

    dataset_dir: Path
    manifest: Path | None
    recipe: Path | None
    ratio: float | None = Field(gt=0, allow_inf_nan=False)
    cache_dir: Path | None
    crop: Literal["centre", "gland"] = Field(default="centre", exclude_if=lambda crop: crop == "centre")
    localiser: Path | None = Field(default=None, exclude_if=lambda folder: folder is None)
    not_in_config: ClassVar[frozenset[str]] = Settings.not_in_config | {
        *("dataset_dir", "manifest", "recipe"),  # the cohort is known by its content
        "cache_dir",
        "localiser",  # by the checksum of its weights
    }
    bundle: ClassVar[str] = "prostate"
    synthetic: ClassVar[SyntheticCohort] = DEFAULT_COHORT
    """The cohort that is used where none is given."""

    @model_validator(mode="after")
    def _localiser_is_used(self) -> Self:
        if self.localiser and self.crop == "centre":
            raise ValueError(f"localiser must go with a crop around the gland, got {self.localiser}. Add --crop gland")
        return self

    @model_validator(mode="after")
    def _one_cohort(self) -> Self:
        if self.manifest and self.recipe:
            raise ValueError(
                f"recipe must be left out where there is a manifest, got {self.recipe} with {self.manifest}. Give one."
            )
        return self

    @property
    def experiment_name(self) -> str:
        """Name of the experiment in MLflow and of its folder of ensembles."""
        return "prostate"

    @property
    def data_name(self) -> str:
        """Name of the cohort, and the class ratio where one is set."""
        name = self.synthetic.name if (given := self.manifest or self.recipe) is None else given.stem
        return name if self.ratio is None else f"{name}-1-{self.ratio:g}"

    def read_samples(self) -> Samples:
        """Return the samples of the member from its manifest, whose volumes are checked.

        Raises:
            ValueError: the manifest, the recipe, a volume or a split cannot be used; one line for each fault.
        """
        path, manifest = self.read_cohort()
        numbers = self.class_numbers(manifest, path)
        parts = member_samples(manifest, path.parent, seed=self.seed, member=self.member, ratio=self.ratio)
        for sample in (one for part in parts for one in part):
            sample["label"] = numbers[sample["sample_id"]]
        train, validation, test, extra = (self.cropped(part, manifest, path.parent) for part in parts)
        return Samples(train, validation, test, extra, identity=self.identity_of(path))

    def cropped(self, samples: list[Sample], manifest: Manifest, folder: Path) -> list[Sample]:
        """Return samples that say where their gland is found, where the crop is around it; else as they are."""
        if self.crop == "centre":
            return samples
        return with_glands(samples, manifest.studies, folder, self.localiser)

    def read_cohort(self) -> tuple[Path, Manifest]:
        """Return the manifest, made where none is given, and where it lies; its files are checked.

        Raises:
            ValueError: one line for each fault.
        """
        return cohort_in(self.dataset_dir, manifest=self.manifest, recipe=self.recipe, synthetic=self.synthetic)

    def identity_of(self, manifest: Path) -> dict[str, str]:
        """Return what says in `config.json` which cohort it is."""
        of_cohort = {"manifest": manifest.name, "manifest_sha256": sha256_of_file(manifest)}
        if self.localiser is None:
            return of_cohort
        return of_cohort | {"localiser_sha256": localiser_sha256(self.localiser)}

    def class_numbers(self, manifest: Manifest, path: Path) -> dict[str, int]:
        """Return the class of each study by its id: its label, where there are two.

        Args:
            manifest: the cohort.
            path: where it was read from, for the message only.

        Raises:
            ValueError: the cohort does not have the classes.
        """
        return {study.id: int(study.label) for study in manifest.studies}


def cohort_in(
    dataset_dir: Path, *, manifest: Path | str | None, recipe: Path | str | None, synthetic: SyntheticCohort
) -> tuple[Path, Manifest]:
    """Return the manifest of a cohort, made where none is given, and where it lies; its files are checked.

    Args:
        dataset_dir: where a synthetic cohort is made.
        manifest: that of the cohort; None for a synthetic one.
        recipe: of a synthetic cohort; None for `synthetic`.
        synthetic: made where neither is given.

    Raises:
        ValueError: one line for each fault.
    """
    if recipe:
        path = make_from_recipe(Path(recipe), dataset_dir, progress=progress_bar)
    else:
        path = Path(manifest) if manifest else ensure_synthetic_cohort(dataset_dir, synthetic, progress=progress_bar)
    cohort = read_manifest(path)
    if faults := check_files(cohort, path):
        raise ValueError("\n".join(faults))
    return path, cohort


def prepare_member(
    settings: CohortSettings, path_channels: Sequence[int], transforms: Sequence[Callable[..., Any]]
) -> Member:
    """Prepare a member of a bundle that is trained on a cohort: see `member.prepare`.

    Args:
        settings: of the bundle.
        path_channels: input channels of the network's paths; compared with the volumes of the cohort.
        transforms: before the cache; none is random.
    """
    silence_missing_decoders()
    require_fixed(transforms)
    require_channels(settings.manifest, path_channels)
    return prepare(settings)


def open_member(**places: Any) -> Member:
    """Open a trained member of the prostate bundle to evaluate it again: see `member.open_trained`."""
    silence_missing_decoders()
    return open_trained(CohortSettings, **places)


def silence_missing_decoders() -> None:
    """MONAI tells of a GPU decoder for DICOM that is not installed; volumes are NIfTI here, so nobody misses it."""
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


def member_samples(
    manifest: Manifest, folder: Path, *, seed: int, member: int, ratio: float | None = None
) -> tuple[list[Sample], list[Sample], list[Sample], list[Sample]]:
    """Return the training, validation and test samples of a member, and the test positives that the ratio leaves out.

    Args:
        manifest: the cohort.
        folder: where the manifest lies; its paths are relative to it.
        seed: seed of the experiment; it also draws the training positives that a ratio keeps, the same for all members.
        member: number of the member, from 0.
        ratio: N of the class ratio 1:N; None for all studies.
    """
    by_id = {study.id: study for study in manifest.studies}
    training, test = ([study for study in manifest.studies if study.split == split] for split in ("train", "test"))
    kept, _ = _at_ratio(training, ratio=ratio, seed=seed)
    labels = {name: int(by_id[name].label) for name in kept}
    patients = {name: by_id[name].patient for name in kept}
    train, validation = split_member(labels, patients, seed=seed, member=member)
    _require_test_of_both_classes(test)
    tested, extra = _at_ratio(test, ratio=ratio, seed=_TEST_DRAW)
    parts = train, validation, tested, extra
    first, second, third, fourth = ([sample_of(by_id[i], folder) for i in ids] for ids in parts)
    return first, second, third, fourth


def _at_ratio(studies: list[StudyRecord], *, ratio: float | None, seed: int) -> tuple[list[str], list[str]]:
    """Return the ids that stay and the ids that are dropped."""
    if ratio is None:
        return [study.id for study in studies], []
    labels = {study.id: int(study.label) for study in studies}
    return split_at_ratio(labels, {study.id: study.patient for study in studies}, ratio=ratio, seed=seed)


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
        "volumes_sha256": (study.t2.sha256, study.dwi.sha256),
        "label": int(study.label),
        "sample_id": study.id,
    }
