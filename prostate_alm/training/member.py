"""One member of an ensemble, from the settings of its bundle to its results; what a bundle's config calls."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from monai.utils import set_determinism
from torch import nn

from prostate_alm.data.splits import member_seed
from prostate_alm.training import results, run_folder, tracking
from prostate_alm.training.distributed import is_leader, leader_first
from prostate_alm.training.engines import Training
from prostate_alm.training.run_folder import RunFolder
from prostate_alm.training.samples import Samples
from prostate_alm.training.settings import (
    Settings,
    bundle_arguments,
    bundle_configuration,
    bundle_files,
    exit_on_full_disk,
    exit_on_usage_error,
)

OUTPUT_ROOT = Path("outputs")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A member that is ready to be trained: its bundle, settings, samples and folder.

    `config` is what determines its numbers, as written to `config.json`.
    """

    bundle: str
    settings: Settings
    config: dict[str, Any]
    samples: Samples
    folder: RunFolder

    def in_its_precision(self) -> Self:
        """Return the member with the precision that was chosen when its training began, whatever this machine has."""
        config = self.folder.read_json(run_folder.CONFIG)
        settings = self.settings.model_copy(update={"precision": config[run_folder.DTYPE]})
        return replace(self, config=config, settings=settings)

    @property
    def checkpoint(self) -> Path:
        """File for the state after each epoch."""
        return self.folder.file(run_folder.CHECKPOINT)

    @property
    def train_labels(self) -> list[int]:
        """Labels of the training samples, in order."""
        return [sample["label"] for sample in self.samples.train]

    @property
    def train_ids(self) -> list[str]:
        """Ids of the training samples, in order."""
        return [sample["sample_id"] for sample in self.samples.train]


def prepare(bundle: str, settings: Settings) -> Member:
    """Read the samples, check everything that a user can get wrong, and claim the folder.

    Seeds torch, numpy and random, so that the network that is built next starts from the member's own weights, and sets
    the number of threads, whatever it was: the numbers of a member are its own.

    Where several processes train together, rank 0 does all that first, and the others take its folder.

    Ends the process with exit code 2 and one line per fault on stderr when something is wrong.

    Args:
        bundle: name of the bundle; default folder under `outputs/`.
        settings: the settings of the bundle.
    """
    places = [settings.output_dir or OUTPUT_ROOT]
    prepared = leader_first(
        lambda: exit_on_usage_error(lambda: _prepare(bundle, settings), places=places),
        tell=lambda member: str(member.folder.path),
        follow=lambda path: _prepare(bundle, _resuming(settings, path)),
    )
    torch.set_num_threads(settings.threads)
    set_determinism(seed=member_seed(settings.seed, settings.member, 0))  # for the first weights
    return prepared


def _resuming(settings: Settings, path: str) -> Settings:
    return settings.model_copy(update={"output_dir": Path(path), "resume": True, "overwrite": False})


def _prepare(bundle: str, settings: Settings) -> Member:
    samples = settings.read_samples()
    config = _config(bundle, settings, samples.identity)
    uri = tracking.resolve_uri(settings.tracking_uri)
    tracking.prepare_store(uri, settings.experiment_name, folder=settings.output_dir or OUTPUT_ROOT / bundle)
    folder = _open_folder(settings, OUTPUT_ROOT / bundle, config)  # last: a refusal leaves no claimed folder behind
    folder.keep_bundle_files(bundle_files(bundle_arguments()))
    return Member(bundle, settings, config, samples, folder).in_its_precision()


def open_trained(bundle: str, settings: Settings) -> Member:
    """Return a member that was trained before, as its folder describes it, to evaluate it again.

    Ends the process with exit code 2 and one line on stderr when there is none or its data are not at hand.

    Args:
        bundle: name of the bundle.
        settings: where it lies (`output_dir`), the device and the data; the others are those that it was trained with.
    """

    def read() -> Member:
        folder = RunFolder(settings.output_dir or Path())
        config = folder.read_json(run_folder.CONFIG)
        if not folder.is_finished or not config:
            raise ValueError(
                f"output_dir must be the folder of a trained member, got {settings.output_dir}. "
                "Give for example --output_dir outputs/cifar10/run-001"
            )
        own = settings.model_copy(update=config["settings"])
        samples = own.read_samples()
        for key, value in samples.identity.items():
            if config[key] != value:
                raise ValueError(
                    f"data must be those that the member was trained with, got {key} = {value}, was {config[key]} in "
                    f"{folder.path}. Give the same data."
                )
        return Member(bundle, own, config, samples, folder).in_its_precision()

    member = exit_on_usage_error(read)
    torch.set_num_threads(member.settings.threads)
    return member


def evaluate_member(member: Member, training: Training) -> dict[str, Any]:
    """Evaluate the weights of a trained member; nothing is written.

    Returns:
        The figures, as in `metrics.json`.
    """
    weights = torch.load(member.folder.file(run_folder.MODEL), map_location="cpu", weights_only=True)
    training.network.load_state_dict(weights)
    return _report(member, results.summarise_splits(training.scores()))


def _config(bundle: str, settings: Settings, identity: dict[str, str]) -> dict[str, Any]:
    """Return all that determines the numbers of a run, and what they were made with."""
    return {
        "bundle": bundle,
        "experiment": settings.experiment_name,
        "settings": settings.model_dump(mode="json", exclude=set(settings.not_in_config)),
        **bundle_configuration(bundle_arguments(), type(settings)),
        **identity,
        run_folder.DTYPE: str(settings.dtype).removeprefix("torch."),
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
    settings, folder = member.settings, member.folder.path
    uri = tracking.resolve_uri(settings.tracking_uri)
    identity = member.folder.read_json(run_folder.TRACKING)
    run = tracking.resume_member_run(tracking_uri=uri, identity=identity, folder=folder) if identity else None
    if run is None:
        run = tracking.start_member_run(
            tracking_uri=uri,
            experiment=settings.experiment_name,
            ensemble_name=settings.ensemble_name,
            member_name=run_folder.member_name(settings.member),
            tags=member.samples.identity,
            parent_id=settings.parent_run_id,
            folder=folder,
        )
        run.log_params(
            member.config["settings"] | {"device": settings.device, "dtype": member.config[run_folder.DTYPE]}
        )
        member.folder.write_json(run_folder.TRACKING, run.identity())
    return run


@contextmanager
def member_run(member: Member) -> Iterator[tracking.MemberRun]:
    """Open the MLflow run of a member that is trained; it ends as FINISHED, or as FAILED when anything goes wrong."""
    run = _open_run(member)
    try:
        yield run
        run.finish()
    except BaseException:
        run.fail()
        raise


def base_loss(member: Member) -> nn.Module:
    """Return F(θ) of the member's settings."""
    labels = member.train_labels
    return member.settings.make_loss(class_counts=tuple(labels.count(k) for k in range(member.settings.classes)))


def run_member(member: Member, training: Training) -> dict[str, Any]:
    """Train, evaluate and write the results; the MLflow run ends as FINISHED, or as FAILED when anything goes wrong.

    Ends the process with exit code 2 when another process trains in the same folder.

    Returns:
        The content of `metrics.json`; empty on other ranks than 0, which only take part in the training.
    """
    if member.folder.is_finished:
        logger.info("%s is finished already; its results stay as they are", member.folder.path)
        if is_leader() and member.settings.parent_run_id is None:  # of an ensemble's members the ensemble takes care
            tracking.log_member(member.folder.path, tracking_uri=tracking.resolve_uri(member.settings.tracking_uri))
        return _report(member, member.folder.read_json(run_folder.METRICS))
    if not is_leader():
        training.run()
        return {}
    full = exit_on_full_disk(member.folder.path)
    with exit_on_usage_error(member.folder.lock), full, member_run(member) as run:
        run.log_params(training.used())
        training.run(on_epoch=run.log_epochs)
        metrics = write_results(member, training)
    return _report(member, metrics)


def write_results(member: Member, training: Training) -> dict[str, Any]:
    """Evaluate a trained member and write its results; `metrics.json` comes last and says that they are complete.

    Returns:
        The content of `metrics.json`.
    """
    folder = member.folder
    splits = training.scores()
    metrics = results.summarise_splits(splits)
    results.write_predictions(folder.file(run_folder.PREDICTIONS), splits)
    results.write_confusion(folder.file(run_folder.CONFUSION), splits["test"].class_scores)
    results.write_history(folder.file(run_folder.HISTORY), training.history)
    results.draw_roc(folder.file(run_folder.ROC_FIGURE), splits["test"].labels, splits["test"].logits)
    torch.save(training.network.state_dict(), folder.file(run_folder.MODEL))
    folder.write_json(run_folder.METRICS, metrics)
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
