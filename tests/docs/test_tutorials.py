"""The tutorials run as they are printed, and show what they say."""

from collections.abc import Callable
from pathlib import Path

Tutorial = Callable[[str, Path], None]


def test_the_constraint_in_an_own_loop(tutorial: Tutorial, tmp_path: Path) -> None:
    tutorial("own_loop", tmp_path)
