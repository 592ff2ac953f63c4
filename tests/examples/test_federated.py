"""The examples of a federation: how a cohort is dealt out, and where a common threshold comes from."""

import sys
from pathlib import Path

import numpy as np
import pytest

from prostate_alm.data.manifest import read_manifest
from prostate_alm.method.operating_point import choose_operating_point

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


def test_the_common_threshold_of_the_tutorial_is_that_of_all_positives_to_the_grid() -> None:
    text = (ROOT / "docs" / "tutorials" / "federated.md").read_text(encoding="utf-8")
    block = text[text.index("    import numpy as np") :]
    code = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    random = np.random.default_rng(0)
    sites = [random.normal(1 + k, 2, size) for k, size in enumerate((40, 25, 60))]
    scope = {"sites": sites}
    exec(code, scope)
    negative = random.normal(-2, 2, 50)
    labels = np.concatenate([np.ones(125), np.zeros(50)]).astype(int)
    whole = choose_operating_point(labels, np.concatenate([*sites, negative]), target_tpr=0.95)
    assert whole.threshold - 0.1 <= scope["threshold"] <= whole.threshold
