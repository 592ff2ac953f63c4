"""Studies bent at random are answered as the plain one, warned of, or refused; see docs/testing.md."""

import runpy
from pathlib import Path

import pydicom
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_studies.py"


@pytest.mark.filterwarnings("ignore")
def test_three_hundred_bent_studies(tmp_path):
    script = runpy.run_path(str(SCRIPT))
    with pydicom.config.disable_value_validation():
        found = script["fuzz"](tmp_path, 300, seed=16)
    assert sum(found.values()) == 300
    assert script["faults"](found) == []
    outcomes = {outcome for _, outcome, _ in found}
    assert {"same", "refused"} <= outcomes  # it bends, and not everything
