"""From folders of results to runs in MLflow, on a real SQLite store."""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.metrics import roc_auc_score

from prostate_alm import tracking
from prostate_alm.training.results import draw_roc, summarise

matplotlib.use("Agg")
LABELS = np.array([1] * 10 + [0] * 40)
MEMBERS = 3
SHA256 = "ab" * 32


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def write_member(folder: Path, *, member: int, gain: float) -> np.ndarray:
    """Write a member's results as training does; return its test logits."""
    folder.mkdir(parents=True)
    logits = np.random.default_rng(member).normal(size=len(LABELS)) + gain * LABELS
    settings = {"loss": "a_fl", "alm": gain > 1, "member": member, "mu0": 0.2, "loss_parameters": {"gamma": 4}}
    config = {"bundle": "cifar10", "settings": settings, "manifest": "cohort.json", "manifest_sha256": SHA256,
              "versions": {"torch": "2.13.0"}}  # fmt: skip
    write_json(folder / "config.json", config)
    with (folder / "predictions.csv").open("w") as stream:
        rows = [
            f"{i},test,{label},{logit!r}" for i, (label, logit) in enumerate(zip(LABELS, logits.tolist(), strict=True))
        ]
        stream.write("\n".join(["sample_id,split,label,logit", *rows]) + "\n")
    (folder / "history.csv").write_text("step,stage,val_auc,alm_mu\n1,0,0.5,\n2,0,0.6,\n3,1,0.7,0.2\n")
    draw_roc(folder / "roc.png", LABELS, logits)
    figures = summarise(LABELS, logits)
    write_json(folder / "metrics.json", {"validation": figures | {"auc": 0.7}, "test": figures})
    return logits


def write_ensemble(folder: Path, *, gain: float, against: dict[str, Any] | None = None) -> Path:
    """Write an ensemble's results as `ensemble` does; return its folder."""
    logits = np.mean([write_member(folder / f"member-{m:02d}", member=m, gain=gain) for m in range(MEMBERS)], axis=0)
    settings = {"loss": "a_fl", "alm": gain > 1, "mu0": 0.2, "loss_parameters": {"gamma": 4}}
    about = {"bundle": "cifar10", "experiment": "cifar10-0-1", "data": "1-9", "name": folder.name, "settings": settings}
    write_json(folder / "ensemble.json", about | {"config_file": "bundles/cifar10/train.json"})
    draw_roc(folder / "roc.png", LABELS, logits)
    members = [json.loads((folder / f"member-{m:02d}" / "metrics.json").read_text()) for m in range(MEMBERS)]
    figures = summarise(LABELS, logits)
    statistics = {
        f"member_{name}": {
            split: {key: float(function([row[split][key] for row in members])) for key in figures}
            for split in ("validation", "test")
        }
        for name, function in (("mean", np.mean), ("std", np.std))
    }
    intervals = {
        "test": {key: [value - 0.01, value + 0.01] for key, value in figures.items() if key.startswith(("a", "fpr"))}
    }
    (folder / "members.csv").write_text("member,test_auc\n")
    (folder / "predictions.csv").write_text("sample_id,split,label,logit,logit_std\n")
    write_json(
        folder / "metrics.json",
        {
            "members": list(range(MEMBERS)),
            "failed": [],
            "ensemble": {"test": figures},
            "intervals": intervals,
            **statistics,
            "against_baseline": against,
        },
    )
    return folder


AGAINST = {
    "baseline": "a_fl-baseline",
    "test": {"auc_difference": 0.03, "z": float("inf"), "p_value": 0.012, "fpr_at_tpr95_difference": -0.1,
             "fpr_at_tpr95_difference_low": -0.2, "fpr_at_tpr95_difference_high": -0.02},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of results: two ensembles and a member that was trained alone."""
    outputs = tmp_path_factory.mktemp("made") / "outputs"
    write_ensemble(outputs / "cifar10-0-1" / "1-9" / "a_fl-baseline", gain=1.0)
    write_ensemble(outputs / "cifar10-0-1" / "1-9" / "a_fl-alm", gain=1.5, against=AGAINST)
    write_member(outputs / "cifar10" / "run-001", member=7, gain=1.0)
    return outputs


@pytest.fixture
def outputs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "outputs"))


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    tracking.prepare_store(f"sqlite:///{path}", "cifar10-0-1")
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """Return a store of its own, copied because making one takes seconds."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def runs(uri: str, kind: str) -> list[Run]:
    client = MlflowClient(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiments, f"tags.kind = '{kind}'"))


def logits_of(folder: Path) -> list[float]:
    with (folder / "predictions.csv").open() as stream:
        return [float(row["logit"]) for row in csv.DictReader(stream)]


def table(uri: str, run_id: str) -> dict[str, list[Any]]:
    """Return the columns of the table that the UI shows."""
    client = MlflowClient(uri)
    assert json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "members.json", "type": "table"}
    ]
    with tempfile.TemporaryDirectory() as folder:
        content = json.loads(Path(client.download_artifacts(run_id, "members.json", folder)).read_text())
    return dict(zip(content["columns"], map(list, zip(*content["data"], strict=True)), strict=True))


def test_the_run_of_an_ensemble_holds_its_figures(outputs: Path, uri: str) -> None:
    folder = outputs / "cifar10-0-1" / "1-9" / "a_fl-alm"
    run_id = tracking.log_ensemble(folder, tracking_uri=uri)
    run = MlflowClient(uri).get_run(run_id)
    expected = json.loads((folder / "metrics.json").read_text())
    metrics = run.data.metrics
    assert metrics["test_auc"] == expected["ensemble"]["test"]["auc"]
    for key in ("auc", "fpr_at_tpr100", "fpr_at_tpr95", "fpr_at_tpr90"):
        interval = [metrics[f"test_{key}_low"], metrics[f"test_{key}_high"]]
        assert interval == expected["intervals"]["test"][key]
    areas = [roc_auc_score(LABELS, logits_of(folder / f"member-{m:02d}")) for m in range(MEMBERS)]
    assert metrics["member_test_auc_mean"] == pytest.approx(np.mean(areas))
    assert metrics["member_test_auc_std"] == pytest.approx(np.std(areas))
    assert metrics["member_val_auc_mean"] == pytest.approx(0.7)
    assert metrics["auc_gain_over_baseline"] == 0.03
    assert metrics["fpr_at_tpr95_gain_over_baseline"] == 0.1  # fewer false positives are a gain
    assert metrics["delong_p_vs_baseline"] == 0.012
    assert run.info.status == "FINISHED"


def test_the_run_of_an_ensemble_says_in_words_what_it_is(outputs: Path, uri: str) -> None:
    run_id = tracking.log_ensemble(outputs / "cifar10-0-1" / "1-9" / "a_fl-alm", tracking_uri=uri)
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    tags = run.data.tags
    assert run.info.run_name == "a_fl-alm 1-9"
    assert tags["verdict"] == (
        "better than a_fl-baseline (FPR at 95 % TPR -10.0 points (-20.0 to -2.0); AUC +3.0 points, DeLong p = 0.012)"
    )
    assert tags["verdict"] in tags["mlflow.note.content"]
    assert f"Test AUC {100 * run.data.metrics['test_auc']:.1f} %" in tags["mlflow.note.content"]
    assert (tags["bundle"], tags["experiment"], tags["data"]) == ("cifar10", "cifar10-0-1", "1-9")
    assert (tags["manifest"], tags["config_file"]) == ("cohort.json", "bundles/cifar10/train.json")
    assert run.data.params["mu0"] == "0.2"
    assert run.data.params["loss_parameters.gamma"] == "4"
    assert "member" not in run.data.params
    files = {file.path for file in client.list_artifacts(run_id)}
    assert files >= {"at_a_glance.md", "roc.png", "members.csv", "predictions.csv", "ensemble.json", "metrics.json"}
    columns = table(uri, run_id)
    assert columns["model"] == ["ensemble", "member-00", "member-01", "member-02"]
    assert columns["test AUC"][0] == pytest.approx(run.data.metrics["test_auc"])


def test_the_data_are_an_input_of_ensemble_and_members_without_a_path(outputs: Path, uri: str) -> None:
    run_id = tracking.log_ensemble(outputs / "cifar10-0-1" / "1-9" / "a_fl-alm", tracking_uri=uri)
    tracking.log_ensemble(outputs / "cifar10-0-1" / "1-9" / "a_fl-alm", tracking_uri=uri)  # again: once all the same
    client = MlflowClient(uri)
    for run in (client.get_run(run_id), *runs(uri, "member")):
        (found,) = run.inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == ("cohort.json", SHA256[:36])
        assert json.loads(found.dataset.source) == {"manifest": "cohort.json", "sha256": SHA256}
        assert json.loads(found.dataset.profile)["test"] == {"positives": 10, "negatives": 40}
        assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "training"}
        assert str(outputs) not in found.dataset.source + found.dataset.profile


def test_members_lie_beneath_their_ensemble_with_all_their_epochs(outputs: Path, uri: str) -> None:
    run_id = tracking.log_ensemble(outputs / "cifar10-0-1" / "1-9" / "a_fl-alm", tracking_uri=uri)
    children = runs(uri, "member")
    assert sorted(child.info.run_name for child in children) == [f"member-{m:02d}" for m in range(MEMBERS)]
    client = MlflowClient(uri)
    for child in children:
        assert child.data.tags["mlflow.parentRunId"] == run_id
        history = client.get_metric_history(child.info.run_id, "val_auc")
        assert [(entry.step, entry.value) for entry in history] == [(1, 0.5), (2, 0.6), (3, 0.7)]
        assert [entry.step for entry in client.get_metric_history(child.info.run_id, "alm_mu")] == [3]
        assert child.data.metrics["best_val_auc"] == 0.7


def test_synchronising_again_logs_nothing(outputs: Path, uri: str) -> None:
    first = tracking.sync_results(outputs, tracking_uri=uri)
    assert len(first.logged) == 2 * (1 + MEMBERS) + 1
    before = [run.to_dictionary() for kind in ("ensemble", "member") for run in runs(uri, kind)]
    again = tracking.sync_results(outputs, tracking_uri=uri)
    assert (again.logged, len(again.unchanged)) == ((), len(first.logged))
    assert [run.to_dictionary() for kind in ("ensemble", "member") for run in runs(uri, kind)] == before
    assert again.to_text() == "nothing to log: the store holds all 9 finished results"


def test_results_are_recognised_without_the_record_of_their_run(outputs: Path, uri: str) -> None:
    tracking.sync_results(outputs, tracking_uri=uri)
    for path in outputs.rglob("tracking.json"):
        path.unlink()
    assert tracking.sync_results(outputs, tracking_uri=uri).logged == ()


def test_new_results_of_an_ensemble_replace_the_old_in_its_run(outputs: Path, uri: str) -> None:
    folder = outputs / "cifar10-0-1" / "1-9" / "a_fl-baseline"
    run_id = tracking.log_ensemble(folder, tracking_uri=uri)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["ensemble"]["test"]["auc"] = 0.123
    write_json(folder / "metrics.json", metrics)
    report = tracking.sync_results(folder, tracking_uri=uri)
    assert report.logged == (folder,)
    run = MlflowClient(uri).get_run(run_id)
    assert run.data.metrics["test_auc"] == 0.123
    assert table(uri, run_id)["test AUC"][0] == 0.123
    assert len(table(uri, run_id)["model"]) == 1 + MEMBERS


def test_a_run_that_training_left_half_logged_is_completed(outputs: Path, uri: str) -> None:
    folder = outputs / "cifar10-0-1" / "1-9" / "a_fl-alm"
    parent_id = tracking.start_ensemble_run(folder, tracking_uri=uri)
    new = tracking.NewRun("cifar10-0-1", "", "member-00", {}, parent_id)
    member = tracking.start_member_run(new, tracking_uri=uri, flush_interval_s=0)
    member.log_epochs([{"step": 1.0, "stage": 0.0, "val_auc": 0.5}])
    write_json(folder / "member-00" / "tracking.json", member.identity())
    assert tracking.log_ensemble(folder, tracking_uri=uri) == parent_id
    children = runs(uri, "member")
    assert len(children) == MEMBERS
    assert member.run_id in {child.info.run_id for child in children}
    history = MlflowClient(uri).get_metric_history(member.run_id, "val_auc")
    assert [entry.step for entry in history] == [1, 2, 3]
    assert {child.info.status for child in children} == {"FINISHED"}


def test_a_run_that_training_logged_completely_is_left_alone(outputs: Path, uri: str) -> None:
    folder = outputs / "cifar10-0-1" / "1-9" / "a_fl-alm"
    parent_id = tracking.start_ensemble_run(folder, tracking_uri=uri)
    for path in sorted(folder.glob("member-*")):
        new = tracking.NewRun("cifar10-0-1", "", path.name, {}, parent_id, path)
        run = tracking.start_member_run(new, tracking_uri=uri)
        write_json(path / "tracking.json", run.identity())
        run.finish()
    assert tracking.sync_results(folder, tracking_uri=uri).logged == (folder,)


def test_an_ensemble_without_results_is_left_to_its_training(outputs: Path, uri: str) -> None:
    folder = outputs / "cifar10-0-1" / "1-9" / "a_fl-alm"
    (folder / "metrics.json").unlink()
    report = tracking.sync_results(outputs, tracking_uri=uri)
    assert report.unfinished == (folder,)
    assert report.to_text() == "5 of 5 finished results logged; 1 not finished"
    with pytest.raises(ValueError, match="ensemble must be finished"):
        tracking.log_ensemble(folder, tracking_uri=uri)


def test_a_member_trained_alone_gets_a_parent_of_its_own(outputs: Path, uri: str) -> None:
    tracking.sync_results(outputs / "cifar10" / "run-001", tracking_uri=uri)
    (member,), (parent,) = runs(uri, "member"), runs(uri, "ensemble")
    assert member.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert MlflowClient(uri).get_experiment(member.info.experiment_id).name == "cifar10"
    assert (parent.info.run_name, member.info.run_name) == ("a_fl-baseline", "member-07")
    assert parent.data.metrics == {
        key: value for key, value in member.data.metrics.items() if key in parent.data.metrics
    }
    assert "test_auc" in parent.data.metrics
    assert "val_auc" not in parent.data.metrics
    assert parent.info.status == "FINISHED"
    assert tracking.sync_results(outputs / "cifar10" / "run-001", tracking_uri=uri).logged == ()


def test_runs_that_were_deleted_in_the_store_are_logged_anew(outputs: Path, uri: str) -> None:
    folder = outputs / "cifar10-0-1" / "1-9" / "a_fl-alm"
    first = tracking.log_ensemble(folder, tracking_uri=uri)
    MlflowClient(uri).delete_run(first)
    second = tracking.log_ensemble(folder, tracking_uri=uri)
    assert second != first
    beneath = [run for run in runs(uri, "member") if run.data.tags["mlflow.parentRunId"] == second]
    assert len(beneath) == MEMBERS


def test_without_tracking_nothing_is_logged(outputs: Path) -> None:
    folder = outputs / "cifar10-0-1" / "1-9" / "a_fl-alm"
    before = sorted(outputs.parent.rglob("*"))
    assert tracking.start_ensemble_run(folder, tracking_uri="none") is None
    assert tracking.log_ensemble(folder, tracking_uri="none") is None
    assert sorted(outputs.parent.rglob("*")) == before
    with pytest.raises(ValueError, match="tracking_uri must be a store, got none"):
        tracking.sync_results(outputs, tracking_uri="none")


def test_a_folder_that_is_none_is_named(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ValueError, match=r"folder must be one with results, got .*absent"):
        tracking.sync_results(tmp_path / "absent", tracking_uri=uri)
    with pytest.raises(ValueError, match=r"folder must be that of an ensemble, got .* without ensemble\.json"):
        tracking.log_ensemble(tmp_path, tracking_uri=uri)


def test_a_failed_ensemble_is_marked_as_such(outputs: Path, uri: str) -> None:
    folder = outputs / "cifar10-0-1" / "1-9" / "a_fl-alm"
    run_id = tracking.start_ensemble_run(folder, tracking_uri=uri)
    tracking.fail_ensemble_run(run_id, tracking_uri=uri)
    assert MlflowClient(uri).get_run(run_id).info.status == "FAILED"
    assert tracking.start_ensemble_run(folder, tracking_uri=uri) == run_id
    assert MlflowClient(uri).get_run(run_id).info.status == "RUNNING"
