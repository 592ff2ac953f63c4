"""`make docs`: a site without warnings, whose pages are all reached from the first, and whose links lead somewhere."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {"a": "href", "link": "href", "img": "src", "script": "src"}


class Page(HTMLParser):
    """The links of a page, the names within it, and what a browser fetches to show it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.ids, self.fetched = list[str](), {""}, list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if target := given.get(PARTS.get(tag, "")):
            (self.links if tag == "a" else self.fetched).append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("sphinx", "myst_nb", "pydata_sphinx_theme"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -c constraints.txt -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", ".", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Return the pages that links lead to from the first one, and that one."""
    found: dict[Path, Page] = {}
    waiting = [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = Page(path)
            waiting += [file for file, _ in targets(path, found[path]) if file.suffix == ".html" and file.exists()]
    return found


def targets(path: Path, page: Page) -> list[tuple[Path, str]]:
    """Return file and name within it of each link that is not of the web."""
    parts = [urldefrag(unquote(link)) for link in page.links if ":" not in link]
    return [((path.parent / file).resolve() if file else path, name) for file, name in parts]


@pytest.mark.slow
def test_each_document_is_reached_from_the_first_page(site: Path, pages: dict[Path, Page]) -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    documents = [Path(name) for name in listed.stdout.split()]
    assert len(documents) > 40
    assert [one for one in documents if site / one.with_suffix(".html") not in pages] == []


@pytest.mark.slow
def test_each_link_leads_to_a_file_and_to_a_name_in_it(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for file, name in targets(path, page):
            named = pages[file].ids if file in pages else {""}
            if not file.exists() or (file.suffix == ".html" and name not in named):
                broken.append(f"{file.name}#{name} in {path.name}")
    assert broken == []


@pytest.mark.slow
def test_the_site_is_shown_without_network(pages: dict[Path, Page]) -> None:
    fetched = [one for page in pages.values() for one in page.fetched]
    assert len(fetched) > 100
    assert [one for one in fetched if one.startswith(("http:", "https:", "//"))] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "method.lagrangian.AugmentedLagrangian.update_multipliers",
        "delivery.predict.predict_folder",
        "imaging.volume.load_study",
    ],
)
def test_the_api_names_what_users_call(site: Path, pages: dict[Path, Page], name: str) -> None:
    page = site / "docs" / "site" / "api" / f"{name.split('.')[0]}.html"
    assert f"prostate_alm.{name}" in pages[page].ids
