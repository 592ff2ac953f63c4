"""docs/phantom.md states what the code does."""

import re
from pathlib import Path

import pytest

from prostate_alm.phantom.cohort import DEFAULT_DIFFICULTY, observer_auc
from prostate_alm.phantom.render import TISSUES

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "phantom.md").read_text(encoding="utf-8")


def test_observer_table_and_default_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (\d\.\d\d) \| (\d\.\d{3}) \| \d\.\d{3} \|$", TEXT, flags=re.MULTILINE)
    assert len(rows) == 8
    assert all(float(auc) == pytest.approx(observer_auc(float(difficulty)), abs=6e-4) for difficulty, auc in rows)
    stated = re.search(r"At the default\s+difficulty\s+it\s+is\s+(\d\.\d{3})", TEXT)
    assert stated is not None
    assert float(stated[1]) == pytest.approx(observer_auc(DEFAULT_DIFFICULTY), abs=6e-4)


@pytest.mark.parametrize("name", TISSUES)
def test_tissue_table_is_that_of_the_code(name: str) -> None:
    tissue = TISSUES[name]
    values = (tissue.proton_density, tissue.t2_ms, tissue.adc_um2_per_ms, tissue.water_share)
    row = re.search(rf"^\| {name} \| (.+) \|$", TEXT, flags=re.MULTILINE)
    assert row is not None
    assert tuple(float(cell) for cell in row[1].split(" | ")) == pytest.approx(values)
