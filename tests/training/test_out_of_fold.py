"""Each training study by the members that had it for validation: once, with their mean."""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from prostate_alm.data.manifest import Manifest, Provenance, StudyRecord, VolumeFile
from prostate_alm.method.class_metrics import critical_scores
from prostate_alm.results.run_folder import EnsembleError, RunFolder
from prostate_alm.training.out_of_fold import out_of_fold, read_validation_logits

VOLUME = VolumeFile(path="volume.nii.gz", sha256="0" * 64)


@pytest.fixture
def manifest() -> Manifest:
    """Return a cohort of eight training studies, every second one positive, and a test study."""
    studies = tuple(
        StudyRecord(
            id=f"S{number}", patient=f"P{number}", label=number % 2, split="train" if number < 8 else "test",
            t2=VOLUME, dwi=VOLUME, b_values_acquired_s_per_mm2=(0.0, 800.0), b_values_computed=(False,),
        )
        for number in range(9)
    )  # fmt: skip
    provenance = Provenance(created_by="test", labels_sha256="0" * 64, source="test")
    return Manifest(name="c", b_values_s_per_mm2=(800.0,), provenance=provenance, studies=studies)


def member(folder: Path, number: int, rows: dict[str, float], **labels: int) -> RunFolder:
    """Write the predictions of a member: logits of its validation studies, and one of a test study."""
    path = folder / f"member-{number:02d}"
    path.mkdir()
    with (path / "predictions.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("sample_id", "split", "label", "logit"))
        table.writerow(("S8", "test", 0, "1e6"))  # is never used
        table.writerows(
            (key, "validation", labels[key] if key in labels else int(key[1:]) % 2, logit)
            for key, logit in rows.items()
        )
    return RunFolder(path)


def test_a_study_counts_once_with_the_mean_of_its_members(manifest: Manifest, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    drawn = [{f"S{k}": float(random.normal()) for k in random.permutation(8)[:5]} for _ in range(4)]
    members = [member(tmp_path, number, rows) for number, rows in enumerate(drawn)]
    found = out_of_fold(read_validation_logits(members, manifest), manifest)
    of_study: dict[str, list[float]] = defaultdict(list)
    for rows in drawn:
        for key, logit in rows.items():
            of_study[key].append(logit)
    assert found.folds.tolist() == [len(of_study[key]) for key in sorted(of_study)]
    assert found.labels.tolist() == [int(key[1:]) % 2 for key in sorted(of_study)]
    np.testing.assert_allclose(found.logits, [fmean(of_study[key]) for key in sorted(of_study)], atol=5e-5)


def test_of_several_classes_it_is_the_log_odds_of_the_mean_logits(manifest: Manifest) -> None:
    random = np.random.default_rng(1)
    logits = {f"S{k}": {number: random.normal(size=3) for number in range(1 + k % 2)} for k in range(8)}
    found = out_of_fold(logits, manifest, critical=2)
    means = np.array([np.mean(list(own.values()), axis=0) for own in logits.values()])
    np.testing.assert_allclose(found.logits, critical_scores(means, 2), atol=5e-5)


@pytest.mark.parametrize(
    ("rows", "labels"), [({"S8": 0.5}, {}), ({"other": 0.5}, {"other": 1}), ({"S1": 0.5}, {"S1": 0})]
)
def test_a_study_that_no_member_may_validate_on_is_refused(
    manifest: Manifest, tmp_path: Path, rows: dict[str, float], labels: dict[str, int]
) -> None:
    with pytest.raises(EnsembleError, match="validation samples must be training studies of the manifest, got another"):
        read_validation_logits([member(tmp_path, 0, rows, **labels)], manifest)


def test_studies_of_one_class_are_refused(manifest: Manifest) -> None:
    with pytest.raises(EnsembleError, match="validation samples must be of both classes, got 2 of one or none"):
        out_of_fold({"S1": {0: np.zeros(1)}, "S3": {0: np.zeros(1)}}, manifest)
