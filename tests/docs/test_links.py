"""Every relative link of a document leads to a file, and to a heading of it where it names one."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def documents() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.split()


def links(text: str) -> Iterator[tuple[str, str]]:
    """Yield (file, anchor) of each link that is not of the web."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"\w+:", target):
            file, _, anchor = target.partition("#")
            yield file, anchor


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere(name: str) -> None:
    document = ROOT / name
    for file, anchor in links(document.read_text(encoding="utf-8")):
        target = document.parent / file if file else document
        assert target.exists(), f"{file} in {name}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{file}#{anchor} in {name}"


def test_the_pages_have_links() -> None:
    assert sum(len(list(links((ROOT / name).read_text(encoding="utf-8")))) for name in documents()) > 100
