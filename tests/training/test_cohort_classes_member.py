"""Settings and samples of a member that tells findings apart, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prostate_alm.data.manifest import read_manifest, write_manifest
from prostate_alm.training.cohort_classes_member import CohortClassesSettings
from prostate_alm.training.cohort_member import member_samples
from prostate_alm.training.settings import read_settings

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "prostate"


FINDINGS = ("none", "unmistakable", "equivocal")


def given(**changes: Any) -> dict[str, Any]:
    config = json.loads((BUNDLE / "train.json").read_text()) | json.loads((BUNDLE / "findings.json").read_text())
    return {key: config[key] for key in CohortClassesSettings.model_fields} | changes


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
