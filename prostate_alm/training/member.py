"""One member of an ensemble, from the settings of its bundle to its results; what a bundle's config calls."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism
from torch import nn

from prostate_alm import tracking
from prostate_alm.data.splits import member_seed
from prostate_alm.results import run_folder
from prostate_alm.results.run_folder import RunFolder
from prostate_alm.training import results
from prostate_alm.training.command_line import bundle_arguments, named_arguments, tell_crashes_in_full, told_when_full
from prostate_alm.training.config_keys import config_files
from prostate_alm.training.distributed import is_leader, leader_first
from prostate_alm.training.engines import Training
from prostate_alm.training.settings import Sample, Samples, Settings, bundle_configuration, parameters, read_settings

OUTPUT_ROOT = Path("outputs")

logger = logging.getLogger(__name__)


@dataclass
class Member:
    """A member that is ready to be trained, or was trained: its settings, samples and folder.

    `config` is what determines its numbers, as written to `config.json`. `folder` is None until the run begins: nothing
    is written before.
    """

    settings: Settings
    config: dict[str, Any]
    samples: Samples
    folder: RunFolder | None = None

    def begin(self) -> RunFolder:
        """Return the folder of the run; the first call makes it, on rank 0 where several processes train together.

        Raises:
            ValueError: the folder or the tracking store may not be used.
        """
        if self.folder is None:
            self.folder = leader_first(
                self._claim, tell=lambda folder: str(folder.path), follow=lambda path: RunFolder(Path(path))
            )
        return self.folder

    def _claim(self) -> RunFolder:
        with told_when_full(self.settings.output_dir or OUTPUT_ROOT, Path()):
            return self._made()

    def _made(self) -> RunFolder:
        settings, root = self.settings, OUTPUT_ROOT / self.settings.bundle
        uri = tracking.resolve_uri(settings.tracking_uri)
        tracking.prepare_store(uri, settings.experiment_name, folder=settings.output_dir or root)
        path = _allowed_place(settings, root, self.config) or run_folder.next_run_path(root)
        folder = run_folder.claim(path, self.config, resume=settings.resume)
        folder.keep_bundle_files(config_files(named_arguments(bundle_arguments()).get("config_file", "")))
        return folder

    def checkpoint(self) -> Path:
        """Return the file for the state after each epoch; the run begins."""
        return self.begin().file(run_folder.CHECKPOINT)

    @property
    def train_labels(self) -> list[int]:
        """Labels of the training samples, in order."""
        return [sample["label"] for sample in self.samples.train]

    @property
    def train_ids(self) -> list[str]:
        """Ids of the training samples, in order."""
        return [sample["sample_id"] for sample in self.samples.train]

    def evaluated(self, split: str) -> list[Sample]:
        """Return the samples of a split, by its name in `metrics.json`.

        Raises:
            ValueError: there is no such split.
        """
        samples = self.samples
        splits = {
            "validation": samples.validation,
            "test": samples.test,
            "test_all_positives": samples.test + samples.test_extra,
        }
        if split not in splits:
            raise ValueError(f"split must be one of {list(splits)}, got {split!r}. Change --split.")
        return splits[split]

    def weights(self) -> Path:
        """Return the file with the weights of a trained member."""
        return self.begin().file(run_folder.MODEL)


def prepare(settings: Settings) -> Member:
    """Read the samples and check everything that a user can get wrong; nothing is written but data that are made.

    Seeds torch, numpy and random, so that the network that is built next starts from the member's own weights, and sets
    the number of threads, whatever it was: the numbers of a member are its own.

    Where several processes train together, rank 0 does all that first, and the others take its precision.

    Args:
        settings: the settings of the bundle.

    Raises:
        ValueError: something is wrong; one line for each fault.
    """
    prepared = leader_first(
        lambda: _prepare(settings),
        tell=lambda member: str(member.config[run_folder.DTYPE]),
        follow=lambda dtype: _read(settings, dtype=dtype),
    )
    torch.set_num_threads(settings.threads)
    set_determinism(seed=member_seed(settings.seed, settings.member, 0))  # for the first weights
    return prepared


def _prepare(settings: Settings) -> Member:
    with told_when_full(settings.output_dir or OUTPUT_ROOT, Path()):
        member = _read(settings)
    place = _allowed_place(settings, OUTPUT_ROOT / settings.bundle, member.config)
    begun = RunFolder(place).read_json(run_folder.CONFIG) if place and settings.resume else {}
    return _in_precision(member, begun.get(run_folder.DTYPE))


def _read(settings: Settings, *, dtype: str | None = None) -> Member:
    samples = settings.read_samples()
    return _in_precision(Member(settings, _config(settings, samples.identity), samples), dtype)


def _in_precision(member: Member, dtype: str | None) -> Member:
    """Return the member with the precision that was chosen when its training began, whatever this machine has."""
    if dtype is not None:
        member.config[run_folder.DTYPE] = dtype
        member.settings = member.settings.model_copy(update={"precision": dtype})
    return member


def open_trained(kind: type[Settings], *, output_dir: Path | str | None, **places: Any) -> Member:
    """Return a member that was trained before, as its folder describes it, to evaluate it again.

    Args:
        kind: the settings of the bundle.
        output_dir: where it lies.
        places: `device`, and where the data are; the other settings are those that it was trained with.

    Raises:
        ValueError: there is none, or its data are not at hand.
    """
    folder = RunFolder(Path(output_dir or ""))
    config = folder.read_json(run_folder.CONFIG)
    if not folder.is_finished or not config:
        raise ValueError(
            f"output_dir must be the folder of a trained member, got {output_dir}. "
            "Give for example --output_dir outputs/cifar10/run-001"
        )
    unused = dict.fromkeys(kind.not_in_config) | {"resume": False, "overwrite": False}
    settings = read_settings(kind, **unused | config["settings"] | places)
    samples = settings.read_samples()
    for key, value in samples.identity.items():
        if config[key] != value:
            raise ValueError(
                f"data must be those that the member was trained with, got {key} = {value}, was {config[key]} in "
                f"{folder.path}. Give the same data."
            )
    torch.set_num_threads(settings.threads)
    return _in_precision(Member(settings, config, samples, folder), config[run_folder.DTYPE])


def weights_of(member_dir: Path | str | None) -> str:
    """Return the file with the weights of a trained member.

    Raises:
        ValueError: there is none.
    """
    return str(_trained_folder(member_dir).file(run_folder.MODEL))


def dtype_of(member_dir: Path | str | None) -> torch.dtype:
    """Return what a trained member computed in, bfloat16 or float32: its logits are those of no other.

    Raises:
        ValueError: there is no member.
    """
    dtype: torch.dtype = getattr(torch, _trained_folder(member_dir).read_json(run_folder.CONFIG)[run_folder.DTYPE])
    return dtype


def _trained_folder(member_dir: Path | str | None) -> RunFolder:
    folder = RunFolder(Path(member_dir or ""))
    if not folder.is_finished:
        raise ValueError(
            f"member_dir must be the folder of a trained member, got {member_dir}. "
            "Give for example --member_dir outputs/cifar10/run-001"
        )
    return folder


def _config(settings: Settings, identity: dict[str, str]) -> dict[str, Any]:
    """Return all that determines the numbers of a run, and what they were made with."""
    return {
        "bundle": settings.bundle,
        "experiment": settings.experiment_name,
        "settings": settings.model_dump(mode="json", exclude=set(settings.not_in_config)),
        **bundle_configuration(type(settings)),
        **identity,
        run_folder.DTYPE: str(settings.dtype).removeprefix("torch."),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("prostate-alm", "torch", "monai")},
        },
    }


def _allowed_place(settings: Settings, root: Path, config: dict[str, Any]) -> Path | None:
    """Return the folder that a run may have, None for the next free one below `root`; nothing is written.

    Raises:
        ValueError: it may not have the folder that was given.
    """
    if settings.resume and settings.overwrite:
        raise ValueError("resume must not be given together with overwrite, got both. Choose one.")
    path = None if settings.output_dir in (None, root) else settings.output_dir
    if path is None:
        return run_folder.latest_run_path(root, config) if settings.resume else None
    if settings.resume:
        run_folder.require_resumable(path, config)
    elif settings.overwrite:
        run_folder.require_overwritable(path)
    else:
        run_folder.require_new(path)
    return path


def _open_run(member: Member, folder: RunFolder) -> tracking.MemberRun:
    """Open the interrupted MLflow run of this folder, or start one."""
    settings = member.settings
    uri = tracking.resolve_uri(settings.tracking_uri)
    identity = folder.read_json(run_folder.TRACKING)
    run = tracking.resume_member_run(tracking_uri=uri, identity=identity, folder=folder.path) if identity else None
    if run is None:
        new = tracking.NewRun(
            experiment=settings.experiment_name,
            ensemble_name=settings.ensemble_name,
            member_name=run_folder.member_name(settings.member),
            tags=member.samples.identity,
            parent_id=settings.parent_run_id,
            folder=folder.path,
        )
        run = tracking.start_member_run(new, tracking_uri=uri)
        own = {"device": settings.device, "dtype": member.config[run_folder.DTYPE]}
        run.log_params(member.config["settings"] | parameters(member.config) | own)
        folder.write_json(run_folder.TRACKING, run.identity())
    return run


@contextmanager
def member_run(member: Member, folder: RunFolder) -> Iterator[tracking.MemberRun]:
    """Open the MLflow run of a member that is trained; it ends as FINISHED, or as FAILED when anything goes wrong."""
    run = _open_run(member, folder)
    try:
        yield run
        run.finish()
    except BaseException:
        run.fail()
        raise


def base_loss(member: Member) -> nn.Module:
    """Return F(θ) of the member's settings."""
    settings, labels = member.settings, member.train_labels
    return settings.make_loss(class_counts=tuple(labels.count(k) for k in range(settings.classes)))


def run_member(member: Member, training: Training) -> dict[str, Any]:
    """Train, evaluate and write the results; the MLflow run ends as FINISHED, or as FAILED when anything goes wrong.

    Returns:
        The content of `metrics.json`; empty on other ranks than 0, which only take part in the training.

    Raises:
        ValueError: the folder may not be used, or another process trains in it.
    """
    training.require_outputs(member.settings.outputs)
    folder = member.begin()
    if folder.is_finished:
        logger.info("%s is finished already; its results stay as they are", folder.path)
        if is_leader() and member.settings.parent_run_id is None:  # of an ensemble's members the ensemble takes care
            tracking.log_member(folder.path, tracking_uri=tracking.resolve_uri(member.settings.tracking_uri))
        return _report(folder, folder.read_json(run_folder.METRICS))
    if not is_leader():
        tell_crashes_in_full()
        training.run()
        return {}
    with folder.lock(), told_when_full(folder.path), member_run(member, folder) as run:
        tell_crashes_in_full()
        run.log_params(training.used())
        training.run(on_epoch=run.log_epochs)
        metrics = write_results(folder, training)
    return _report(folder, metrics)


def write_results(folder: RunFolder, training: Training) -> dict[str, Any]:
    """Evaluate a trained member and write its results; `metrics.json` comes last and says that they are complete.

    Returns:
        The content of `metrics.json`.
    """
    splits = training.scores()
    metrics = results.summarise_splits(splits)
    results.write_predictions(folder.file(run_folder.PREDICTIONS), splits)
    results.write_confusion(folder.file(run_folder.CONFUSION), splits["test"].class_scores)
    results.write_history(folder.file(run_folder.HISTORY), training.history)
    results.draw_roc(folder.file(run_folder.ROC_FIGURE), splits["test"].labels, splits["test"].logits)
    torch.save(training.network.state_dict(), folder.file(run_folder.MODEL))
    folder.write_json(run_folder.METRICS, metrics)
    return metrics


def _report(folder: RunFolder, metrics: dict[str, Any]) -> dict[str, Any]:
    results.log_figures("test", metrics["test"])
    logger.info("results: %s", folder.path)
    return metrics
