"""An ensemble: the same bundle command for each member, one folder for all, one run in MLflow above them."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from prostate_alm import tracking
from prostate_alm.parallel import Executor
from prostate_alm.progress import Progress, silent
from prostate_alm.results.run_folder import ENSEMBLE, METRICS, EnsembleError, RunFolder, changed_keys, member_name
from prostate_alm.shipped import SET_BY_THE_ENSEMBLE, TRAINING_CONFIG, config_files_of
from prostate_alm.training.command_line import fault_lines, literal_override, named_arguments
from prostate_alm.training.config_keys import unknown_keys
from prostate_alm.training.ensemble import MEMBERS_MIN, evaluate_ensemble
from prostate_alm.training.fanout import MemberTask, run_tasks, standing_told
from prostate_alm.training.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EnsembleReport:
    """What came of an ensemble: its folder, why members failed (number -> one line), its metrics if evaluated."""

    folder: Path
    failures: dict[int, str]
    metrics: dict[str, Any]


def config_file_of(bundle: Path) -> Path:
    """Return the config file of a bundle.

    Args:
        bundle: folder of the bundle, a config file itself, or an overlay beside it.

    Raises:
        EnsembleError: there is no such file.
    """
    path = bundle if bundle.suffix == ".json" else bundle / TRAINING_CONFIG
    if not path.is_file():
        raise EnsembleError(f"bundle must be a folder with {TRAINING_CONFIG}, got {bundle}. Give for example cifar10")
    return path


def read_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the overrides of a bundle command as values, in the way of that command: literals of Python, or words.

    Raises:
        EnsembleError: an argument is no override, or one that the ensemble sets itself.

    >>> read_overrides(["--ratio", "9", "--loss", "a_fl", "--loss_parameters", "{'gamma': 4}", "--alm", "true"])
    {'ratio': 9, 'loss': 'a_fl', 'loss_parameters': {'gamma': 4}, 'alm': 'true'}
    """
    named = named_arguments(arguments)
    if arguments and not arguments[0].startswith("--"):
        raise EnsembleError(f"overrides must be --NAME VALUE, got {arguments[0]!r}. Give for example --ratio 9")
    for name in SET_BY_THE_ENSEMBLE:
        if name in named:
            raise EnsembleError(f"overrides must leave {name} to the ensemble, got --{name}. Leave it out.")
    return {name: literal_override(text) for name, text in named.items()}


def _parser(config_file: Path, overrides: Mapping[str, Any]) -> Any:
    from monai.bundle import ConfigParser

    parser = ConfigParser(copy.deepcopy(ConfigParser.load_config_files(list(map(str, config_files_of(config_file))))))
    parser.update(dict(overrides))
    return parser


def read_bundle_settings(config_file: Path, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings of member 0 of a bundle with these overrides.

    Raises:
        EnsembleError: an override is not known to the config file, or breaks its rule; one line for each that does.
    """
    faults = unknown_keys({"config_file": list(map(str, config_files_of(config_file))), **overrides})
    if faults:
        raise EnsembleError(faults[0])
    parser = _parser(config_file, overrides)
    if "given_settings" not in parser:
        raise EnsembleError(
            f"bundle must be one that trains members, got {config_file.parent.name}. Run it by itself: python -m "
            f"monai.bundle run training --config_file {config_file}"
        )
    try:
        settings: Settings = parser.get_parsed_content("given_settings")
    except RuntimeError as error:  # of MONAI, from the one that says what is wrong
        raise EnsembleError("\n".join(fault_lines(error) or [str(error)])) from error
    return settings


def train_ensemble(
    bundle: Path,
    *,
    members: int,
    overrides: Mapping[str, Any],
    output_root: Path = Path("outputs"),
    jobs: int | None = None,
    executor: Executor = "local",
    progress: Progress = silent,
) -> EnsembleReport:
    """Train the members of an ensemble, combine them and log them; members with results are not trained again.

    Args:
        bundle: folder of the bundle, or its config file.
        members: number of members, at least 2.
        overrides: of the bundle command, the same for all members.
        output_root: the ensemble goes into `output_root/<experiment>/<data>/<loss>-<baseline|alm>`.
        jobs: largest number of processes, see `fanout.run_tasks`.
        executor: see `fanout.run_tasks`.
        progress: called with the number of members done and in all.

    Returns:
        What came of it; not evaluated when fewer than two members have results.

    Raises:
        EnsembleError: an argument is wrong, or the folder holds an ensemble of other settings.
        ValueError: the data or the store cannot be used.
    """
    if members < MEMBERS_MIN:
        raise EnsembleError(f"members must be at least {MEMBERS_MIN} for an ensemble, got {members}.")
    config_file = config_file_of(bundle)
    settings = read_bundle_settings(config_file, overrides)
    settings.read_samples()  # checks the data, and makes or fetches them once for all members
    uri = tracking.resolve_uri(settings.tracking_uri)
    tracking.prepare_store(uri, settings.experiment_name, folder=output_root)
    folder = claim_folder(config_file, settings, overrides, output_root=output_root, members=members)
    parent = tracking.start_ensemble_run(folder, tracking_uri=uri)
    where = {"parent_run_id": parent} if parent else {"tracking_uri": tracking.NO_TRACKING}  # the store may be away
    tasks = [
        MemberTask(config_file, folder / member_name(number), {**overrides, "member": number, **where})
        for number in range(members)
    ]
    failures = _failures(tasks, jobs=jobs, executor=executor, progress=progress)
    if members - len(failures) < MEMBERS_MIN:
        tracking.fail_ensemble_run(parent, tracking_uri=uri)
        return EnsembleReport(folder, failures, {})
    earlier = RunFolder(folder).read_json(METRICS)
    metrics = evaluate_ensemble(folder, baseline=baseline_of(folder))
    if tracking.log_ensemble(folder, tracking_uri=uri) is not None and metrics != earlier:
        try:
            log_model(folder, bundle, tracking_uri=uri)
        except tracking.StoreUnreachableError as error:
            logger.warning("%s: the model is not logged; do it later with: prostate-alm ensemble register", error)
    return EnsembleReport(folder, failures, metrics)


def _failures(
    tasks: Sequence[MemberTask], *, jobs: int | None, executor: Executor, progress: Progress
) -> dict[int, str]:
    """Train the members; return why some failed, by their number."""
    failures = {}
    with standing_told(tasks):
        for done, outcome in enumerate(run_tasks(tasks, jobs=jobs, executor=executor), start=1):
            if outcome.failure is not None:
                failures[int(outcome.task.overrides["member"])] = outcome.failure
            progress(done, len(tasks))
    return failures


def log_model(
    folder: Path, bundle: Path, *, tracking_uri: str, register_as: str | None = None, alias: str | None = None
) -> str:
    """Log an evaluated ensemble as one model on its run in MLflow; register it on request.

    Its input example is noise of the shape that the bundle's metadata name: images of patients stay where they are.

    Args:
        folder: the ensemble's folder.
        bundle: folder of its bundle, or the config file.
        tracking_uri: the store.
        register_as: name of a registered model that gets this one as its next version.
        alias: name by which that version is asked for, e.g. `champion`.

    Returns:
        URI of the model.

    Raises:
        ValueError: the ensemble is not evaluated, or the network is not that of its members.
    """
    from prostate_alm.tracking.packed_model import log_packed_model  # takes seconds, needed here only

    about = RunFolder(folder).read_json(ENSEMBLE)
    config_file = config_file_of(bundle)
    config_file = config_file.with_name(about.get("config_file", config_file.name))
    overrides = about.get("overrides", {})
    metadata = RunFolder(config_file.parent).read_json("metadata.json")
    image = metadata["network_data_format"]["inputs"]["image"]
    shape = (2, image["num_channels"], *image["spatial_shape"])
    return log_packed_model(
        folder,
        tracking_uri=tracking_uri,
        network=_parser(config_file, overrides).get_parsed_content("network_def"),
        input_example=np.random.default_rng(0).normal(size=shape).astype(np.float32),
        register_as=register_as,
        alias=alias,
    )


def claim_folder(
    config_file: Path, settings: Settings, overrides: Mapping[str, Any], *, output_root: Path, members: int
) -> Path:
    """Return the folder of an ensemble, with `ensemble.json` in it.

    An ensemble that is there already may grow; it must have the same settings.

    Args:
        config_file: of the bundle; its folder names it.
        settings: of the members, but for their numbers.
        overrides: as they were given; those that are no settings must stay the same, too.
        output_root: the folder lies in it, below the names of experiment, data and ensemble.
        members: how many there shall be.

    Raises:
        EnsembleError: it holds an ensemble of other settings.
    """
    folder = output_root / settings.experiment_name / settings.data_name / settings.ensemble_name
    own = settings.model_dump(mode="json", exclude={*settings.not_in_config, "member"})
    about: dict[str, Any] = {
        "bundle": config_file.parent.name,
        "experiment": settings.experiment_name,
        "data": settings.data_name,
        "name": settings.ensemble_name,
        "settings": own,
        **({} if config_file.name == TRAINING_CONFIG else {"config_file": config_file.name}),
        "overrides": {name: value for name, value in overrides.items() if name not in type(settings).model_fields},
        "versions": {name: version(name) for name in ("prostate-alm", "torch", "monai")},
    }
    earlier = RunFolder(folder).read_json(ENSEMBLE)
    for key in ("settings", "overrides"):
        changed = changed_keys(about[key], earlier[key]) if earlier else []
        if changed:
            raise EnsembleError(
                f"an ensemble must go on with the settings that it was begun with, got {changed[0]} = "
                f"{about[key].get(changed[0])!r}, was {earlier[key].get(changed[0])!r} in {folder}. "
                "Give the same value or another --output."
            )
    folder.mkdir(parents=True, exist_ok=True)
    RunFolder(folder).write_json(ENSEMBLE, about | {"members": max(members, earlier.get("members", 0))})
    return folder


def baseline_of(folder: Path) -> Path | None:
    """Return the folder of the evaluated baseline of the same loss and data; None for a baseline or without one.

    >>> baseline_of(Path("outputs/cifar10-0-1/1-9/bce-baseline")) is None
    True
    """
    loss, _, training = folder.name.rpartition("-")
    path = folder.with_name(f"{loss}-baseline")
    return path if training == "alm" and (path / METRICS).is_file() else None
