"""The ensemble as one model in MLflow: logged on its run, registered on request."""

import copy
import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*Any type hint is inferred")  # MLflow warns of its own types
    import mlflow.pyfunc
    import mlflow.pytorch
    from mlflow.models import infer_signature

from prostate_alm.results import run_folder
from prostate_alm.results.folders import EnsembleFolder
from prostate_alm.results.mean_logits import MeanLogits
from prostate_alm.results.tracking_uri import NO_TRACKING
from prostate_alm.tracking import summary
from prostate_alm.tracking.ensemble_run import complete_ensemble, ensemble_run, finished_ensemble
from prostate_alm.tracking.store import StoreClient, open_store
from prostate_alm.whole_files import sha256_of_file

_NOT_IN_NAMES = re.compile(r"[^\w+-]+")
_CONTENT_TAG = "content_sha256"
_ENVIRONMENT = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")


def load_ensemble(folder: Path, network: nn.Module) -> MeanLogits:
    """Return the ensemble of the finished members in a folder, ready for inference.

    Args:
        folder: the ensemble's folder.
        network: a network of the members' shape; it stays as it is.

    Raises:
        ValueError: the ensemble has no members, or their weights do not fit the network.
    """
    members = []
    for member in EnsembleFolder(folder).members():
        members.append(_plainly_laid_out(member.load_weights(copy.deepcopy(network))))
    return MeanLogits(members).eval()


def _plainly_laid_out(network: nn.Module) -> nn.Module:
    """Lay the weights out as the archive of an exported model wants them; channels-last ones are none of its kinds."""
    for parameter in network.parameters():
        parameter.data = parameter.data.contiguous()
    return network


def log_packed_model(
    folder: Path,
    *,
    tracking_uri: str,
    network: nn.Module,
    input_example: np.ndarray,
    register_as: str | None = None,
    alias: str | None = None,
) -> str:
    """Log an ensemble as one model on its run, which is logged before where it is missing; the same results once.

    The model is an exported graph with a signature and an input example: it needs no code of this package, and loading
    it runs none. It bears the ensemble's name and figures; a registered version also its description and verdict.

    Args:
        folder: the ensemble's folder.
        tracking_uri: see `resolve_uri`.
        network: a network of the members' shape, e.g. as the bundle builds it.
        input_example: (B, C, ...), float32, B >= 2: a batch of one would be the only batch that the model takes.
        register_as: name of a registered model that gets this one as its next version.
        alias: name by which that version is asked for, e.g. "champion"; moves from an earlier version.

    Returns:
        The model's URI: `models:/NAME/VERSION` of a registered one, else `models:/ID`.

    Raises:
        ValueError: the example has one image, an alias comes without a name, or the ensemble is not finished.
        StoreUnreachableError: the server does not answer.
    """
    if len(input_example) < 2:
        raise ValueError(f"input_example must have at least 2 images, got {len(input_example)}. Give two.")
    if alias and not register_as:
        raise ValueError(f"alias must come with the name of a registered model, got {alias} alone. Give register_as.")
    if tracking_uri == NO_TRACKING:
        raise ValueError(f"tracking_uri must be a store, got {NO_TRACKING}. Give one to log a model in it.")
    ensemble = finished_ensemble(folder)
    model = load_ensemble(folder, network)
    client = open_store(tracking_uri)
    complete_ensemble(client, ensemble)
    run_id = ensemble_run(client, ensemble)
    with _as_default_store(tracking_uri):
        uri = _logged_before(client, ensemble, run_id=run_id)
        if uri is None:
            uri = _log(model, input_example, ensemble=ensemble, run_id=run_id)
            client.set_terminated(run_id, "FINISHED", ensemble.end_time_ms())  # logging a model ends the run anew
        return uri if register_as is None else _register(client, uri, ensemble, name=register_as, alias=alias)


def _logged_before(client: StoreClient, ensemble: EnsembleFolder, *, run_id: str) -> str | None:
    """Return the model that the run has of these very results; None when it has none."""
    experiment_id = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if str(model.status) == "READY" and model.tags.get(_CONTENT_TAG) == _content(ensemble):
            return str(model.model_uri)
    return None


def _content(ensemble: EnsembleFolder) -> str:
    """Return what tells results and weights from any others."""
    weights = [sha256_of_file(member.file(run_folder.MODEL)) for member in ensemble.members()]
    return hashlib.sha256(" ".join([ensemble.sha256(), *weights]).encode()).hexdigest()


def _log(model: nn.Module, example: np.ndarray, *, ensemble: EnsembleFolder, run_id: str) -> str:
    images = np.ascontiguousarray(example, dtype=np.float32)
    with torch.inference_mode():
        logits = model(torch.from_numpy(images)).numpy()
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pytorch.log_model(
            model,
            name=_NOT_IN_NAMES.sub("-", ensemble.name),
            tags={_CONTENT_TAG: _content(ensemble), "verdict": summary.verdict(ensemble)},
            signature=infer_signature(images, logits),
            input_example=images,
            pip_requirements=_requirements(),  # else MLflow starts a process to find them
            serialization_format="pt2",
        )
    return str(info.model_uri)


def _requirements() -> list[str]:
    """Return what loads the model, without labels of local builds like +cpu, which no index has."""
    return [f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "torch", "numpy")]


def _register(client: StoreClient, uri: str, ensemble: EnsembleFolder, *, name: str, alias: str | None) -> str:
    tags = {"verdict": summary.verdict(ensemble), "ensemble": ensemble.name, "experiment": ensemble.experiment}
    number = mlflow.register_model(uri, name, tags=tags).version
    client.update_model_version(name, number, summary.description(ensemble))
    if alias:
        client.set_registered_model_alias(name, alias, number)
    return f"models:/{name}/{number}"


@contextmanager
def _as_default_store(tracking_uri: str) -> Iterator[None]:
    """Make a store the one of MLflow's functions that take none; it writes that into the environment, too."""
    before: dict[str, Any] = {name: os.environ.pop(name, None) for name in _ENVIRONMENT}
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
