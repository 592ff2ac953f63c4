"""An ensemble as one model in MLflow."""

import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from prostate_alm import tracking
from prostate_alm.results.mean_logits import MeanLogits
from prostate_alm.tracking.ensemble_run import offer_view
from prostate_alm.tracking.packed_model import load_ensemble, log_packed_model
from prostate_alm.training.networks import CascadeNet

MEMBERS = 3
NETWORKS = {2: ((3,), ((2, 2), (2, 2)), (3, 16, 16)), 3: ((1, 3), ((2, 2, 1), (2, 2, 2)), (4, 16, 16, 8))}


def make(spatial_dims: int, *, seed: int) -> tuple[CascadeNet, np.ndarray]:
    """Return a small network of the paper and images for it."""
    channels, pooling, shape = NETWORKS[spatial_dims]
    torch.manual_seed(seed)
    network = CascadeNet(spatial_dims, channels, features=(4, 8), pooling=pooling)
    return network, np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)


def write_ensemble(folder: Path, spatial_dims: int, *, auc: float = 0.9) -> list[CascadeNet]:
    folder.mkdir()
    (folder / "ensemble.json").write_text('{"bundle": "prostate", "name": "bce-alm", "data": "all"}')
    networks = [make(spatial_dims, seed=member)[0].eval() for member in range(MEMBERS)]
    for member, network in enumerate(networks):
        path = folder / f"member-{member:02d}"
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"settings": {"member": member}}))
        (path / "metrics.json").write_text('{"test": {"auc": 0.9}}')
        torch.save(network.state_dict(), path / "model.pt")
    (folder / "metrics.json").write_text(
        json.dumps({"members": list(range(MEMBERS)), "ensemble": {"test": {"auc": auc}}})
    )
    return networks


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    tracking.prepare_store(uri, "prostate")
    return uri


@pytest.fixture
def restored(uri: str) -> None:
    """Let a test read models from the store by MLflow's global functions."""
    mlflow.set_tracking_uri(uri)
    yield
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_logged_model_gives_the_mean_logits_of_the_members(
    tmp_path: Path, uri: str, restored: None, spatial_dims: int
) -> None:
    networks = write_ensemble(tmp_path / "bce-alm", spatial_dims)
    blank, example = make(spatial_dims, seed=99)
    name = f"cascade-{spatial_dims}d"
    for version in ("1", "2"):
        model_uri = log_packed_model(
            tmp_path / "bce-alm",
            tracking_uri=uri,
            network=blank,
            input_example=example,
            register_as=name,
            alias="champion",
        )
        assert model_uri == f"models:/{name}/{version}"
    images = np.random.default_rng(5).normal(size=(5, *example.shape[1:])).astype(np.float32)  # another batch size
    with torch.inference_mode():
        expected = np.mean([network(torch.from_numpy(images)).numpy() for network in networks], axis=0)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    np.testing.assert_allclose(loaded.predict(images), expected, atol=1e-5)
    exported = mlflow.pytorch.load_model(model_uri)
    np.testing.assert_allclose(exported(torch.from_numpy(images)).detach().numpy(), expected, atol=1e-5)
    client = MlflowClient(uri)
    first, second = (client.get_model_version(name, version) for version in ("1", "2"))
    assert second.aliases == ["champion"]
    assert first.source == second.source  # the same results are logged once
    assert first.description.startswith("**Test AUC 90.0 %**")
    assert first.tags["verdict"].startswith("not compared: no baseline")
    assert loaded.metadata.signature.inputs.inputs[0].shape == (-1, *example.shape[1:])
    assert loaded.metadata.signature.outputs.inputs[0].shape == (-1, 1)
    np.testing.assert_array_equal(loaded.input_example, example)


def test_the_model_lies_on_the_run_of_its_ensemble(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    write_ensemble(tmp_path / "bce-alm", 2, auc=0.8)
    network, example = make(2, seed=1)
    model_uri = log_packed_model(tmp_path / "bce-alm", tracking_uri=uri, network=network, input_example=example)
    client = MlflowClient(uri)
    run_id = json.loads((tmp_path / "bce-alm" / "tracking.json").read_text())["run_id"]
    model = client.get_logged_model(model_uri.removeprefix("models:/"))
    assert (model.source_run_id, model.name) == (run_id, "bce-alm-all")
    assert [(metric.key, metric.value) for metric in model.metrics] == [("test_auc", 0.8)]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.end_time == int((tmp_path / "bce-alm" / "metrics.json").stat().st_mtime * 1000)
    assert tracking.resolve_uri(None) == "sqlite:///elsewhere.db"
    assert tracking.sync_results(tmp_path, tracking_uri=uri).logged == ()
    shown = client.get_experiment(run.info.experiment_id).tags
    assert f"(#/experiments/{run.info.experiment_id}/runs?viewStateShareKey=ensembles)" in shown["mlflow.note.content"]
    view = json.loads(shown["mlflow.sharedViewState.ensembles"])
    (best,) = client.search_runs([run.info.experiment_id], view["searchFilter"], order_by=["metrics.test_auc DESC"])[:1]
    assert best.data.tags["kind"] == "ensemble"
    columns = {f"metrics.`{key}`" for key in run.data.metrics} | {f"tags.`{key}`" for key in run.data.tags}
    assert {"metrics.`test_auc`", "tags.`verdict`"} <= columns & set(view["selectedColumns"])
    client.set_experiment_tag(run.info.experiment_id, "mlflow.note.content", "mine")
    offer_view(client, "prostate")
    assert client.get_experiment(run.info.experiment_id).tags["mlflow.note.content"] == "mine"


def test_what_cannot_be_packed_is_refused_in_a_line(tmp_path: Path, uri: str) -> None:
    write_ensemble(tmp_path / "bce-alm", 2)
    network, example = make(2, seed=1)

    def pack(model: nn.Module, images: np.ndarray, *, to: str = uri, alias: str | None = None) -> None:
        log_packed_model(tmp_path / "bce-alm", tracking_uri=to, network=model, input_example=images, alias=alias)

    with pytest.raises(ValueError, match="input_example must have at least 2 images, got 1"):
        pack(network, example[:1])
    with pytest.raises(ValueError, match="alias must come with the name of a registered model, got champion"):
        pack(network, example, alias="champion")
    with pytest.raises(ValueError, match=r"weights must be those of the bundle's network, got others in .*model\.pt"):
        pack(make(3, seed=1)[0], example)
    with pytest.raises(ValueError, match="tracking_uri must be a store, got none"):
        pack(network, example, to="none")
    with pytest.raises(ValueError, match="members must be at least one network"):
        MeanLogits([])


def test_the_template_of_the_members_stays_as_it_is(tmp_path: Path) -> None:
    write_ensemble(tmp_path / "bce-alm", 2)
    network, _ = make(2, seed=77)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_ensemble(tmp_path / "bce-alm", network)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
