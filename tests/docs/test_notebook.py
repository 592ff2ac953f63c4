"""The notebook of the tutorials: run again it says what it says, and it names no place of the machine that ran it."""

import json
import re
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

FILE = Path(__file__).parents[2] / "docs" / "tutorials" / "study_to_report.ipynb"


def printed(notebook: Any) -> list[str]:
    """Return what each cell prints, but for the warnings of libraries about the machine."""
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(one.text for one in cell.outputs if one.get("name") == "stdout") for cell in codes]


@pytest.mark.filterwarnings("default")  # of jupyter among themselves
def test_run_again_it_says_what_it_says(tmp_path: Path) -> None:
    stored = nbformat.read(FILE, as_version=4)
    again = nbformat.read(FILE, as_version=4)
    nbclient.NotebookClient(again, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert printed(again) == printed(stored)
    assert sum("image/png" in one.get("data", {}) for cell in again.cells for one in cell.get("outputs", [])) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_stored_names_no_place_and_is_small() -> None:
    text = FILE.read_text(encoding="utf-8")
    without_images = re.sub(r'"image/png": "[^"]*"', "", text)
    assert [word for word in ("/tmp", "/home", "/root", "/Users", "site-packages") if word in without_images] == []
    assert len(text) < 600_000
    codes = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in codes] == list(range(1, len(codes) + 1))
