"""A packed model on other cohorts: what it answers, figures by scikit-learn and plain counts, refusals in a line."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise import write_noise
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, roc_auc_score

from prostate_alm.cli import main
from prostate_alm.data.manifest import read_manifest
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import predict_folder
from prostate_alm.delivery.sites import evaluate_sites


@dataclass(frozen=True)
class World:
    """A cohort with the name of the model's own, and two others, in one folder."""

    own: Path
    near: Path
    far: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return cohorts that no test alters."""
    root = tmp_path_factory.mktemp("world")
    return World(
        write_noise(root / "cohort.json", seed=0, studies=12, test_every=4),
        write_noise(root / "near.json", seed=1, studies=12, test_every=2),
        write_noise(root / "far.json", seed=2, studies=7, test_every=1),
    )


@pytest.fixture
def own_world(world: World, tmp_path: Path) -> World:
    """Return a copy of the world to alter."""
    root = shutil.copytree(world.own.parent, tmp_path / "world")
    return World(root / "cohort.json", root / "near.json", root / "far.json")


@pytest.fixture(scope="module")
def report(packed_file: Path, world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the command says of all three cohorts as JSON; `rows` are those of the table that it writes."""
    table, out = tmp_path_factory.mktemp("report") / "sites.csv", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prostate_alm.cli.packs.say", out.append)
        given = [packed_file, world.own, world.near, world.far, "--json", "--output", table]
        assert main(["sites", *map(str, given)]) == 0
    with table.open() as stream:
        return json.loads(out[0]) | {"rows": list(csv.DictReader(stream))}


def columns_of(report: dict[str, Any], *sites: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [row for row in report["rows"] if row["site"] in sites]
    return tuple(np.array([float(row[name]) for row in rows]) for name in ("label", "logit", "probability"))


def test_logits_are_those_of_the_answers_to_the_dicom_studies(
    packed_model: PackedModel, cohort: Path, dicom_cohort: Path
) -> None:
    _, scores = evaluate_sites(packed_model, [cohort])
    found = scores["cohort"]
    assert found.ids == tuple(study.id for study in read_manifest(cohort).studies if study.split == "test")
    for name, logit, deviation in list(zip(found.ids, found.logits, found.deviations, strict=True))[:3]:
        answer = predict_folder(dicom_cohort / name, packed_model).answer
        assert (logit, deviation) == pytest.approx((answer.logit, answer.logit_std), abs=1e-4)


@pytest.mark.parametrize("site", ["cohort", "near", "far"])
def test_figures_are_counts_at_the_thresholds_that_are_shipped(
    report: dict[str, Any], packed_model: PackedModel, site: str
) -> None:
    figures, card = report["sites"][site], packed_model.card
    labels, logits, probability = columns_of(report, site)
    assert figures["auc"]["estimate"] == pytest.approx(roc_auc_score(labels, logits))
    for point, stored in zip(figures["operating_points"], card.operating_points, strict=True):
        assert (point["target_tpr"], point["threshold"]) == (stored.target_tpr, stored.threshold)
        assert point["tpr"]["estimate"] == np.mean(logits[labels == 1] >= stored.threshold)
        called = logits[labels == 0] >= stored.threshold
        exact = binomtest(int(called.sum()), len(called)).proportion_ci()
        assert (point["fpr"]["low"], point["fpr"]["high"]) == pytest.approx((exact.low, exact.high))
    slope, intercept = card.calibration.slope, card.calibration.intercept
    assert probability == pytest.approx(1 / (1 + np.exp(-(slope * logits + intercept))))
    assert figures["calibration"]["brier"] == pytest.approx(brier_score_loss(labels, probability))


def test_the_validation_that_the_model_is_shipped_with_stands_beside(
    report: dict[str, Any], packed_model: PackedModel
) -> None:
    card = packed_model.card
    assert report["validation"]["auc"]["estimate"] == roc_auc_score(card.validation.labels, card.validation.logits)
    for point, stored in zip(report["validation"]["operating_points"], card.operating_points, strict=True):
        assert (point["tpr"]["estimate"], point["tpr"]["low"]) == pytest.approx((stored.tpr, stored.tpr_low))
        assert (point["fpr"]["estimate"], point["fpr"]["high"]) == pytest.approx((stored.fpr, stored.fpr_high))
    assert report["model"]["sha256"] == packed_model.identity.sha256


def test_only_test_studies_count_and_the_rest_is_said(report: dict[str, Any]) -> None:
    own, near, far = (report["sites"][name] for name in ("cohort", "near", "far"))
    assert [one["is_own"] for one in (own, near, far)] == [True, False, False]
    assert (near["studies"], near["training_studies_left_out"]) == (6, 6)
    assert (near["positives"], near["negatives"]) == (2, 4)  # 0 2 4 6 8 10: multiples of 3 are positive
    assert (far["studies"], far["training_studies_left_out"], far["studies_refused"]) == (7, 0, 0)
    assert (near["studies_with_computed_b_values"], far["studies_with_computed_b_values"]) == (6, 4)  # even numbers


def test_pooled_figures_are_those_of_all_other_sites_in_one_list(report: dict[str, Any]) -> None:
    labels, logits, _ = columns_of(report, "near", "far")
    assert report["pooled"]["auc"]["estimate"] == pytest.approx(roc_auc_score(labels, logits))
    assert report["pooled"]["positives"] + report["pooled"]["negatives"] == len(labels) == 13


def edited(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def studies_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["studies"]


def other_b_values(world: World) -> list[Path]:
    return [edited(world.far, b_values_s_per_mm2=[50.0, 400.0, 800.0])]


def no_test_studies(world: World) -> list[Path]:
    return [edited(world.far, studies=[study | {"split": "train"} for study in studies_of(world.far)])]


def one_class(world: World) -> list[Path]:
    return [edited(world.far, studies=[study | {"label": 0} for study in studies_of(world.far)])]


def leaked(world: World) -> list[Path]:
    """Return a site whose test studies are training studies of the model's own cohort under other names."""
    training = [study for study in studies_of(world.own) if study["split"] == "train"]
    studies = [study | {"id": f"X{at}", "patient": f"X{at}", "split": "test"} for at, study in enumerate(training)]
    copy = shutil.copy(world.own, world.own.with_name("other.json"))
    return [edited(copy, name="other", studies=studies), world.own]


def changed_file(world: World) -> list[Path]:
    next((world.far.parent / "far").iterdir()).write_bytes(b"changed")
    return [world.far]


def no_manifest(world: World) -> list[Path]:
    world.far.write_text('{"studies": 60, "seed": 0}')
    return [world.far]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda world: [world.far.with_name("absent.json")], "manifest must be a readable file"),
        (lambda world: [world.far.parent], "manifest must be a readable file"),
        (lambda world: [world.far, world.near, world.far], "manifests must have different names, got far twice"),
        (no_manifest, "manifest must follow schema version"),
        (other_b_values, "must be that of the model, [b 100 s/mm2, b 600 s/mm2, b 1000 s/mm2], got [b 50 s/mm2, "),
        (no_test_studies, "test studies of a site must be of both classes, got 0 positive of 0"),
        (one_class, "test studies of a site must be of both classes, got 0 positive of 7"),
        (leaked, "must not be training studies of the model, got 9 of 9"),
        (changed_file, "must have the manifest's SHA-256"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_in_a_line(
    packed_file: Path,
    own_world: World,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[World], list[Path]],
    message: str,
) -> None:
    output = own_world.far.with_name("sites.csv")
    assert main(["sites", str(packed_file), *map(str, change(own_world)), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()
