"""The documentation as a site (`make docs`), from the root of the checkout, so that links are those of the files."""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

from prostate_alm import __version__

project = "prostate-alm"
author = "the contributors"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = [
    "*.md",
    "bundles/**.md",
    "data_manifest/README.md",
    "docker/README.md",
    "docs/**.md",
    "docs/tutorials/**.ipynb",
    "docs/site/**.rst",
]
exclude_patterns = [".*", "build", "data", "demo", "mlruns", "outputs", "tests"]  # not searched for pages

myst_heading_anchors = 4
nb_execution_mode = "off"  # the tests run it
napoleon_numpy_docstring = False
default_role = "literal"  # `name` in a docstring
napoleon_use_ivar = True
napoleon_custom_sections = [("Reference", "References")]
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_mock_imports = ["prostate_alm.tracking"]  # MLflow is slow to import, and on no page
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "pydata_sphinx_theme"
html_title = f"{project} {version}"
html_copy_source = False
html_static_path = ["site/static"]
html_css_files = ["tables.css"]
html_theme_options = {
    "logo": {"text": project},
    "navbar_align": "left",
    "footer_start": [],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}
html_sidebars = {"README": []}

SECTIONS = """
```{toctree}
:hidden:

docs/site/guide
docs/site/tutorials
docs/site/results
docs/site/api
docs/site/project
```
"""


def add_sections(app: Sphinx, page: str, source: list[str]) -> None:
    """Make the README the root of the site, without a word in it that a code host would show."""
    if page == root_doc:
        source[0] += SECTIONS


def keep_colons(app: Sphinx, what: str, name: str, one: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from taking the words before a colon for the type of a value."""
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]  # it looks at the first line: an empty comment


def copy_front_page(app: Sphinx, failure: Exception | None) -> None:
    """Give web servers the front page under the name that they look for."""
    if failure is None and app.builder.format == "html":
        shutil.copyfile(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_sections)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("build-finished", copy_front_page)
