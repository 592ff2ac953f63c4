"""The examples of a federation: how a cohort is dealt out."""

import sys
from pathlib import Path

import pytest

from prostate_alm.data.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def split(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "federated"))
    yield __import__("split").split
    sys.modules.pop("split", None)


def test_sites_share_no_training_study_and_all_test_studies(split, cohort: Path, tmp_path: Path) -> None:
    manifest = tmp_path / cohort.name
    manifest.write_bytes(cohort.read_bytes())
    whole = read_manifest(manifest)
    sites = [read_manifest(path) for path in split(manifest, 3)]
    train, test = (
        [{study.id for study in one.studies if study.split == part} for one in (whole, *sites)]
        for part in ("train", "test")
    )
    assert set.union(*train[1:]) == train[0]
    assert sum(map(len, train[1:])) == len(train[0])
    assert test[1:] == [test[0]] * 3
    positives = [sum(study.label for study in one.studies if study.split == "train") for one in sites]
    assert max(positives) - min(positives) <= 1
