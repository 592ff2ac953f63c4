"""Studies bent at random are answered as the plain one, warned of, or refused; see docs/testing.md."""

import runpy
from pathlib import Path

import pydicom
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "fuzz_studies.py"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("studies", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_bent_studies(tmp_path, studies):
    script = runpy.run_path(str(SCRIPT))
    with pydicom.config.disable_value_validation():
        found = script["fuzz"](tmp_path, studies, seed=16)
    assert sum(found.values()) == studies
    assert script["faults"](found) == []
    outcomes = {outcome for _, outcome, _ in found}
    assert {"same", "refused"} <= outcomes  # it bends, and not everything
