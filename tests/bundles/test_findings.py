"""The overlay for several findings of a cohort, as a user runs it, on the reader's findings in synthetic studies."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from prostate_alm.data.manifest import read_manifest, write_manifest
from prostate_alm.results.run_folder import EnsembleError
from prostate_alm.training.cohort_classes_member import CohortClassesSettings
from prostate_alm.training.cohort_member import member_samples
from prostate_alm.training.ensemble_training import read_bundle_settings
from prostate_alm.training.settings import read_settings

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "prostate"
FINDINGS = ("none", "unmistakable", "equivocal")


@pytest.fixture(scope="module")
def graded(cohort: Path, dicom_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifest of the synthetic cohort with the reader's findings."""
    path = shutil.copytree(cohort.parent, tmp_path_factory.mktemp("graded") / "cohort") / cohort.name
    with (dicom_cohort / "findings.csv").open(newline="") as stream:
        of_study = {row["id"]: row["finding"] for row in csv.DictReader(stream)}
    manifest = read_manifest(path)
    studies = tuple(study.model_copy(update={"finding": of_study[study.id]}) for study in manifest.studies)
    write_manifest(manifest.model_copy(update={"studies": studies}), path)
    return path


def given(**changes: Any) -> dict[str, Any]:
    config = json.loads((BUNDLE / "train.json").read_text()) | json.loads((BUNDLE / "findings.json").read_text())
    return {key: config[key] for key in CohortClassesSettings.model_fields} | changes


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


def test_studies_are_divided_as_they_are_for_two_classes(graded: Path) -> None:
    settings = read_settings(CohortClassesSettings, **given(manifest=graded, member=1))
    found, manifest = settings.read_samples(), read_manifest(graded)
    expected = member_samples(manifest, graded.parent, seed=0, member=1)
    for own, of_two in zip((found.train, found.validation, found.test, found.test_extra), expected, strict=True):
        assert [one["sample_id"] for one in own] == [one["sample_id"] for one in of_two]
        assert [int(one["label"] == 2) for one in own] == [one["label"] for one in of_two]
    counts = np.bincount([one["label"] for one in found.train], minlength=3)
    assert counts.min() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critical": "equivocial"}, r"critical must be one or several different ones of \['none', .*got 'equivocial'"),
        ({"critical": 3}, r"critical must be one or several different ones of .*, not all, got 3. Change --critical"),
        ({"critical": [2, "equivocal"]}, r"critical must be one or several different .*got \[2, 'equivocal'\]"),
        ({"critical": list(FINDINGS)}, r"critical must be one or several .*not all, got \['none', 'unmistakable', "),
        ({"critical": []}, r"critical must be one or several different ones .*got \[\]"),
        ({"critical": 2.5}, r"critical must be one or several different ones .*got 2.5"),
        ({"findings": ["a", "b", "a"]}, r"findings must be different names, got \['a', 'b', 'a'\]. Change --findings"),
        ({"findings": ["a"], "critical": 0}, r"findings must .*at least 2 items.*got \['a'\]"),
        ({"loss": "bce"}, r"loss must be one of \['ce', 'w_ce', .*got 'bce'. Change --loss"),
    ],
)
def test_a_setting_that_breaks_its_rule_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_settings(CohortClassesSettings, **given(**changes))
    assert len(str(caught.value).splitlines()) == 1


def test_a_cohort_that_does_not_have_the_classes_is_told(cohort: Path, graded: Path, tmp_path: Path) -> None:
    def read(manifest: Path, **changes: Any) -> None:
        read_settings(CohortClassesSettings, **given(manifest=manifest, **changes)).read_samples()

    with pytest.raises(ValueError, match=r"studies must have a finding each .*got none in .*Add the column `finding`"):
        read(cohort)
    with pytest.raises(
        ValueError, match=r"findings must be those of the manifest, got \['none', 'sure', 'equivocal'\]"
    ):
        read(graded, findings=["none", "sure", "equivocal"])
    with pytest.raises(
        ValueError, match=r"critical must be the findings with label 1, got \['unmistakable'\], and \['eq"
    ):
        read(graded, critical="unmistakable")
    rare = shutil.copytree(graded.parent, tmp_path / "rare") / graded.name
    manifest = read_manifest(rare)
    studies = [
        study.model_copy(update={"finding": "none"})
        if study.finding == "unmistakable" and study.split == "train"
        else study
        for study in manifest.studies
    ]
    studies[-1] = studies[-1].model_copy(update={"finding": "unmistakable", "split": "test", "label": 0})
    write_manifest(manifest.model_copy(update={"studies": tuple(studies)}), rare)
    with pytest.raises(
        ValueError, match=r"training must have studies of each finding, got none of 'unmistakable' among"
    ):
        read(rare)


def test_the_command_refuses_what_the_overlay_does_not_read(graded: Path) -> None:
    with pytest.raises(EnsembleError, match="override must be a key of the config file, got --majority"):
        read_bundle_settings(BUNDLE / "findings.json", {"manifest": str(graded), "majority": 1})
