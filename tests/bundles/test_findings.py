"""The overlay for several findings of a cohort, as a user runs it, on the reader's findings in synthetic studies."""

import csv
import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

from prostate_alm.data.manifest import read_manifest

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "prostate"
FINDINGS = ("none", "unmistakable", "equivocal")


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
def test_a_member_is_trained_on_three_findings_and_evaluated_again(graded: Path, tmp_path: Path) -> None:
    files = [str(BUNDLE / name) for name in ("train.json", "findings.json")]
    out = tmp_path / "out"
    where = {"manifest": str(graded), "output_dir": str(out), "tracking_uri": "none"}
    how = {"cache_dir": str(tmp_path / "cache"), "loss": "ldam", "alm_epochs": 2, "deferred_epochs": 1}
    workflow = ConfigWorkflow(config_file=files, workflow_type="train", run_id="training", **where, **how)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    with (out / "predictions.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    studies = {study.id: study for study in read_manifest(graded).studies}
    assert {row["sample_id"] for row in rows if row["split"] == "test"} == {
        name for name, study in studies.items() if study.split == "test"
    }
    for row in rows:
        study, z = studies[row["sample_id"]], torch.tensor([float(row[f"logit_{k}"]) for k in range(3)]).double()
        assert (FINDINGS[int(row["class"])], int(row["label"])) == (study.finding, study.label)
        p = torch.softmax(z, 0)[2]
        assert float(row["logit"]) == pytest.approx(float(torch.log(p / (1 - p))), abs=1e-5)
    figures = json.loads((out / "metrics.json").read_text())["test"]
    assert {"auc", "rest_error_at_tpr95", "balanced_accuracy"} <= set(figures)
    multipliers = torch.load(out / "checkpoint.pt", weights_only=True)["loss"]
    (state,) = [value for key, value in multipliers.items() if key.endswith("_extra_state")]
    assert {studies[key].finding for key in state["multipliers"]} == {"equivocal"}

    again = ConfigWorkflow(
        config_file=[str(BUNDLE / name) for name in ("evaluate.json", "evaluate_findings.json")],
        workflow_type="eval",
        output_dir=str(out),
        manifest=str(graded),
    )
    again.initialize()
    again.run()
    assert again.evaluator.state.metrics["val_auc"] == pytest.approx(figures["auc"])
    output = again.evaluator.state.output
    torch.testing.assert_close(
        output["softmax"], torch.softmax(output["pred"], dim=1)
    )  # of each study, not of the batch
