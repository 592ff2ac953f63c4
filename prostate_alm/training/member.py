"""One member of an ensemble, from the settings of its bundle to its results; what a bundle's config calls."""

import logging
import platform
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism

from prostate_alm.data.manifest import Manifest, StudyRecord, check_files, read_manifest, sha256_of_file
from prostate_alm.data.splits import member_seed, split_member
from prostate_alm.data.synthetic import ensure_synthetic_cohort
from prostate_alm.method.losses import BaseLoss, make_loss
from prostate_alm.progress import progress_bar
from prostate_alm.training import results, run_folder, tracking
from prostate_alm.training.distributed import is_leader, leader_first
from prostate_alm.training.run_folder import RunFolder
from prostate_alm.training.settings import (
    Settings,
    bundle_arguments,
    bundle_configuration,
    check_command_line,
    exit_on_usage_error,
    read_settings,
)
from prostate_alm.training.trainer import TwoStageTraining

SYNTHETIC_COHORT_FOLDER = Path("data")
OUTPUT_ROOT = Path("outputs")
_NOT_IN_CONFIG = {"output_dir", "tracking_uri", "resume", "overwrite", "device", "manifest"}

logger = logging.getLogger(__name__)

Sample = dict[str, Any]
"""`t2` and `dwi` (paths of volumes), `label` (0 or 1) and `sample_id`."""


@dataclass(frozen=True)
class Member:
    """A member that is ready to be trained: its bundle, settings, samples of the three splits and folder.

    `config` is what determines its numbers, as written to `config.json`.
    """

    bundle: str
    settings: Settings
    config: dict[str, Any]
    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]
    folder: RunFolder

    @property
    def train_labels(self) -> list[int]:
        """Labels of the training samples, in order."""
        return [sample["label"] for sample in self.train]

    @property
    def train_ids(self) -> list[str]:
        """Ids of the training samples, in order."""
        return [sample["sample_id"] for sample in self.train]


def prepare_member(bundle: str, **values: Any) -> Member:
    """Check everything that a user can get wrong, make the synthetic cohort if none is given, and claim the folder.

    Seeds torch, numpy and random, so that the network that is built next starts from the member's own weights.

    Where several processes train together, rank 0 does all that first, and the others take its folder.

    Ends the process with exit code 2 and one line per fault on stderr when something is wrong.

    Args:
        bundle: name of the bundle; experiment in MLflow and default folder under `outputs/`.
        values: the fields of `Settings`.
    """
    prepared = leader_first(
        lambda: exit_on_usage_error(lambda: _prepare(bundle, values)),
        tell=lambda member: str(member.folder.path),
        follow=lambda path: _prepare(bundle, values | {"output_dir": path, "resume": True, "overwrite": False}),
    )
    set_determinism(seed=member_seed(prepared.settings.seed, prepared.settings.member, 0))  # for the first weights
    return prepared


def _prepare(bundle: str, values: dict[str, Any]) -> Member:
    _silence_missing_decoders()
    check_command_line()
    settings = read_settings(**values)
    path = settings.manifest or ensure_synthetic_cohort(SYNTHETIC_COHORT_FOLDER, progress=progress_bar)
    manifest = read_manifest(path)
    faults = check_files(manifest, path)
    if faults:
        raise ValueError("\n".join(faults))
    train, validation, test = member_samples(manifest, path.parent, seed=settings.seed, member=settings.member)
    config = _config(settings, manifest_path=path)
    tracking.prepare_store(tracking.resolve_uri(settings.tracking_uri), bundle)
    folder = _open_folder(settings, OUTPUT_ROOT / bundle, config)  # last: a refusal leaves no claimed folder behind
    return Member(bundle, settings, config, train, validation, test, folder)


def _silence_missing_decoders() -> None:
    """MONAI tells of a GPU decoder for DICOM that is not installed; volumes are NIfTI here, so nobody misses it."""
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


def _config(settings: Settings, *, manifest_path: Path) -> dict[str, Any]:
    """Return all that determines the numbers of a run, and what they were made with."""
    return {
        "settings": settings.model_dump(mode="json", exclude=_NOT_IN_CONFIG),
        **bundle_configuration(bundle_arguments()),
        "manifest": manifest_path.name,
        "manifest_sha256": sha256_of_file(manifest_path),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("prostate-alm", "torch", "monai")},
        },
    }


def _open_folder(settings: Settings, root: Path, config: dict[str, Any]) -> RunFolder:
    if settings.resume and settings.overwrite:
        raise ValueError("resume must not be given together with overwrite, got both. Choose one.")
    if settings.resume:
        return run_folder.resumed_run_folder(settings.output_dir or run_folder.latest_run_path(root, config), config)
    if settings.overwrite and settings.output_dir:
        return run_folder.overwritten_run_folder(settings.output_dir, config)
    return run_folder.new_run_folder(settings.output_dir or run_folder.next_run_path(root), config)


def _open_run(member: Member) -> tracking.MemberRun:
    """Open the interrupted MLflow run of this folder, or start one."""
    settings = member.settings
    uri = tracking.resolve_uri(settings.tracking_uri)
    identity = member.folder.read_json(run_folder.TRACKING)
    run = tracking.resume_member_run(tracking_uri=uri, identity=identity) if identity else None
    if run is None:
        run = tracking.start_member_run(
            tracking_uri=uri,
            experiment=member.bundle,
            ensemble_name=f"{settings.loss}-{'alm' if settings.alm else 'baseline'}",
            member_name=f"member-{settings.member:02d}",
            tags={"manifest_sha256": member.config["manifest_sha256"]},
        )
        run.log_params(member.config["settings"] | {"manifest": member.config["manifest"], "device": settings.device})
        member.folder.write_json(run_folder.TRACKING, run.identity())
    return run


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
    first, second, third = ([_sample(by_id[i], folder) for i in ids] for ids in (train, validation, test))
    return first, second, third


def _require_test_of_both_classes(studies: list[StudyRecord]) -> None:
    classes = {study.label for study in studies}
    if classes != {0, 1}:
        raise ValueError(
            f"the test split must hold both classes, got {len(studies)} studies with labels {sorted(classes)}. "
            "Change the split column of the labels and build the manifest again."
        )


def _sample(study: StudyRecord, folder: Path) -> Sample:
    return {
        "t2": str(folder / study.t2.path),
        "dwi": str(folder / study.dwi.path),
        "label": int(study.label),
        "sample_id": study.id,
    }


def base_loss(member: Member, parameters: Mapping[str, Any]) -> BaseLoss:
    """Return F(θ) of the member's settings; losses that weigh classes get the class counts of its training samples.

    Ends the process with exit code 2 when a parameter is unknown or out of range.

    Args:
        member: holds the name of the loss and the training labels.
        parameters: parameters of `make_loss`, e.g. {"gamma": 4}; those not named keep their defaults.
    """
    positives = sum(member.train_labels)
    counts = (len(member.train_labels) - positives, positives)
    needed = {"class_counts": counts} if member.settings.loss in ("cb_bce", "ldam") else {}

    def make() -> BaseLoss:
        try:
            return make_loss(member.settings.loss, **needed | dict(parameters))
        except TypeError as error:  # a parameter that the loss does not have
            raise ValueError(str(error)) from error

    return exit_on_usage_error(make)


def run_member(member: Member, training: TwoStageTraining) -> dict[str, Any]:
    """Train, evaluate and write the results; the MLflow run ends as FINISHED, or as FAILED when anything goes wrong.

    Returns:
        The content of `metrics.json`; empty on other ranks than 0, which only take part in the training.
    """
    if member.folder.is_finished:
        logger.info("%s is finished already; its results stay as they are", member.folder.path)
        return _report(member, member.folder.read_json(run_folder.METRICS))
    if not is_leader():
        training.run(member.folder.file(run_folder.CHECKPOINT))
        return {}
    run = _open_run(member)
    try:
        training.run(member.folder.file(run_folder.CHECKPOINT), on_epoch=run.log_epochs)
        metrics = _write_results(member, training, run)
        run.finish()
    except BaseException:
        run.fail()
        raise
    return _report(member, metrics)


def _write_results(member: Member, training: TwoStageTraining, run: tracking.MemberRun) -> dict[str, Any]:
    folder = member.folder
    splits = {
        "validation": training.evaluate(training.loaders.validation),
        "test": training.evaluate(training.loaders.test),
    }
    metrics: dict[str, Any] = {
        split: results.summarise(scores.labels, scores.logits) for split, scores in splits.items()
    }
    results.write_predictions(folder.file(run_folder.PREDICTIONS), splits)
    results.write_history(folder.file(run_folder.HISTORY), training.history)
    results.draw_roc(folder.file(run_folder.ROC_FIGURE), splits["test"].labels, splits["test"].logits)
    torch.save(training.network.state_dict(), folder.file(run_folder.MODEL))
    figures = {f"test_{key}": value for key, value in metrics["test"].items()}
    figures |= {f"best_val_{key}": value for key, value in metrics["validation"].items()}
    run.log_summary(figures)
    run.log_files([folder.file(name) for name in (run_folder.ROC_FIGURE, run_folder.CONFIG, run_folder.PREDICTIONS)])
    folder.write_json(run_folder.METRICS, metrics)  # last: it says that the run is finished
    return metrics


def _report(member: Member, metrics: dict[str, Any]) -> dict[str, Any]:
    test = metrics["test"]
    logger.info(
        "test AUC %.3f, FPR %.1f %% at 95 %% TPR, %.1f %% at 100 %% TPR (%d positives, %d negatives)",
        test["auc"],
        100 * test["fpr_at_tpr95"],
        100 * test["fpr_at_tpr100"],
        test["positives"],
        test["negatives"],
    )
    logger.info("results: %s", member.folder.path)
    return metrics
