"""The report of a whole experiment, which takes a minute to draw, for all who read it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from paper_experiments import all_cells, started, write_ensemble

from prostate_alm.experiments import figure
from prostate_alm.experiments.report import write_report


@pytest.fixture(scope="session")
def whole(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Return the report of an experiment that found the paper's figures in every cell."""

    def fill(folder: Path) -> None:
        root = started(folder / "made" / "out")
        for pair, ratio, loss, training in all_cells():
            write_ensemble(root, pair, ratio, loss, training)
        files = write_report([root], folder / "report")
        assert sorted(files) == sorted((folder / "report").iterdir())

    return once("paper", fill) / "report"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the figures, which take most of the time and are drawn in other tests."""
    monkeypatch.setattr(figure, "draw_effects", lambda path, effects, title: None)
