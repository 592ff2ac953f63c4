"""Each promise names a test that exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"^\| (.+?) \| .+? \| `(tests/[^`]+)` \|$", (ROOT / "docs/promises.md").read_text("utf-8"), re.M)


def test_there_are_promises() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize(("promise", "test"), ROWS)
def test_its_test_exists(promise: str, test: str) -> None:
    path, _, name = test.partition("::")
    code = (ROOT / path).read_text(encoding="utf-8")
    assert re.search(rf"^def {name or 'test_'}", code, re.MULTILINE), promise
