"""Settings and samples of a member that finds lesions, and what it refuses."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prostate_alm.data.manifest import read_manifest, write_manifest
from prostate_alm.training.lesion_member import LesionSettings, lesion_counts, lesion_ids
from prostate_alm.training.settings import read_settings

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "lesions"


LESION = re.compile(r"PHANTOM-\d{4}/lesion-1")


def settings(**changes: Any) -> LesionSettings:
    config = json.loads((BUNDLE / "train.json").read_text())
    given = {key: config[key] for key in LesionSettings.model_fields} | {"output_dir": "out"}
    return read_settings(LesionSettings, **given | changes)


def test_samples_have_the_lesions_of_the_manifest(lesion_cohort: Path, tmp_path: Path) -> None:
    samples = settings(manifest=lesion_cohort).read_samples()
    every = (*samples.train, *samples.validation, *samples.test)
    assert all(sample["label"] == bool(sample["numbers"]) for sample in every)
    assert all(LESION.fullmatch(key) for key in lesion_ids(every))
    assert sum(lesion_counts(samples).values()) == len(lesion_ids(every)) == sum(sample["label"] for sample in every)

    manifest = read_manifest(lesion_cohort)
    undrawn = next(study for study in manifest.studies if not study.label)
    others = tuple(
        study.model_copy(update={"lesions": None}) if study == undrawn else study for study in manifest.studies
    )
    path = lesion_cohort.with_name("fewer.json")
    write_manifest(manifest.model_copy(update={"studies": others}), path)
    fewer = settings(manifest=path).read_samples()
    ids = {sample["sample_id"] for sample in (*fewer.train, *fewer.validation, *fewer.test)}
    assert ids == {study.id for study in manifest.studies} - {undrawn.id}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": "w_bce"},
            r"loss must be one of \['bce', 'focal', 'dice_bce', 'tversky'\].*got 'w_bce'. Change --loss",
        ),
        (
            {"loss": "focal", "loss_parameters": {"alpha": 1}},
            r"parameters of focal must be \['gamma'\], got \['alpha'\]",
        ),
        ({"mu0": 0}, "mu0 must be greater than 0, got 0. Change --mu0"),
    ],
)
def test_a_fault_of_the_caller_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        settings(**changes)
    assert "\n" not in str(caught.value)
