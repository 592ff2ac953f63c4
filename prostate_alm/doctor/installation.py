"""Python, packages and their bill, shipped bundles, programs that others wrote, folders: nothing large is imported."""

import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, metadata, requires, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from prostate_alm.doctor.findings import Finding
from prostate_alm.results.tracking_uri import sqlite_path
from prostate_alm.shipped import BUNDLES, bundle_names, shipped_folder

PACKAGE = "prostate-alm"
EXTRAS = {
    "dicom": "DICOM studies, the synthetic cohort, manifests",
    "serve": "answers of a packed model, reports, a node of a PACS",
    "train": "bundles, ensembles, experiments, MLflow",
    "onnx": "a packed model without torch",
    "ray": "members on the hosts of a cluster",
}
"""Optional parts of the installation, and what for."""

NEEDED_GB, COMFORTABLE_GB = 1.0, 10.0
"""Free space: the default cohort with one training; a cohort of some hundred studies with an ensemble of ten."""

_GB = 1e9
_LICENCE_LENGTH = 80  # some packages put a whole licence where its name belongs
_SHOWN = ("torch", "monai", "mlflow", "pydicom")
_ABSENT = "is not installed"


def check_python() -> list[Finding]:
    """Say whether this Python is one that the package supports."""
    needed = metadata(PACKAGE)["Requires-Python"] or ""
    found = f"{platform.python_version()}, needed {needed}"
    if SpecifierSet(needed).contains(platform.python_version(), prereleases=True):
        return [Finding("python", "ok", found)]
    return [Finding("python", "problem", found, f"Install Python {needed} and make a new environment with it.")]


def check_packages(needed: Iterable[str] | None = None) -> list[Finding]:
    """Say which of the packages that are needed are absent or out of range.

    Args:
        needed: requirements such as `torch>=2.8`; None for those that the package declares.
    """
    requirements = _declared(extra="") if needed is None else [Requirement(one) for one in needed]
    faults = _with_faults(requirements)
    if faults:
        return [Finding("packages", "problem", fault, _install(one)) for one, fault in faults]
    return [
        Finding("packages", "ok", f"{len(requirements)} of {len(requirements)} in their ranges{_shown(requirements)}")
    ]


def check_extras() -> list[Finding]:
    """Say which optional parts are installed: one that is absent is worth knowing, one out of range a problem."""
    found = []
    for extra, purpose in EXTRAS.items():
        requirements = _declared(extra=extra)
        faults = [fault for _, fault in _with_faults(requirements)]
        advice = f"For it: pip install '{PACKAGE}[{extra}]'"
        name = f"extra {extra}"
        if any(not fault.endswith(_ABSENT) for fault in faults):
            found.append(Finding(name, "problem", f"{purpose}: {'; '.join(faults)}", advice))
        elif faults:
            absent = ", ".join(fault.removesuffix(f" {_ABSENT}") for fault in faults)
            found.append(Finding(name, "note", f"optional, {purpose}: without {absent}", advice))
        else:
            found.append(Finding(name, "ok", f"{purpose}{_shown(requirements)}"))
    return found


def _shown(requirements: Iterable[Requirement]) -> str:
    """Return the versions that are asked for first when something is wrong."""
    shown = ", ".join(f"{one.name} {version(one.name)}" for one in requirements if one.name in _SHOWN)
    return f": {shown}" if shown else ""


def check_bundles() -> list[Finding]:
    """Say where the shipped bundles are, and whether their files can be read."""
    try:
        folder, names = shipped_folder(BUNDLES), bundle_names()
        for file in folder.glob("*/*.json"):
            json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [Finding("bundles", "problem", str(error), "Install the package again.")]
    if not names:
        return [Finding("bundles", "problem", f"none in {folder}", "Install the package again.")]
    return [Finding("bundles", "ok", f"{', '.join(names)} in {folder}")]


def _declared(*, extra: str) -> list[Requirement]:
    """Return the requirements of the package that hold here: its own, or those of one of its extras."""
    all_of_them = [Requirement(text) for text in requires(PACKAGE) or ()]
    own = [one for one in all_of_them if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not extra:
        return own
    return [one for one in all_of_them if one not in own and one.marker and one.marker.evaluate({"extra": extra})]


def _with_faults(requirements: Iterable[Requirement]) -> list[tuple[Requirement, str]]:
    return [(one, fault) for one in requirements if (fault := _fault(one))]


def _fault(requirement: Requirement) -> str:
    """Return what is wrong with an installed package, '' where nothing is."""
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return f"{requirement.name} {_ABSENT}"
    if requirement.specifier.contains(installed, prereleases=True):
        return ""
    return f"{requirement.name} {installed} is not {requirement.specifier}"


def _install(requirement: Requirement) -> str:
    return f"pip install '{requirement.name}{requirement.specifier}'"


@dataclass(frozen=True)
class Tool:
    """A program by the names it may have, what it is used for, and where to get it."""

    names: tuple[str, ...]
    purpose: str
    source: str


TOOLS = (
    Tool(("docker",), "runs the containers of docker/", "https://docs.docker.com/engine/install"),
    Tool(
        ("chromium", "chromium-browser", "google-chrome"),
        "pictures of pages, for documents and tests",
        "Debian: chromium",
    ),
    Tool(("dcm2niix",), "reads studies independently, in the tests", "pip install dcm2niix"),
    Tool(("dciodvfy",), "checks written DICOM objects, in the tests", "Debian: dicom3tools"),
    Tool(("bids-validator-deno", "bids-validator"), "checks exported cohorts", "pip install bids-validator-deno"),
)


def check_tools(tools: tuple[Tool, ...] = TOOLS) -> list[Finding]:
    """Say which of the programs are installed; none is needed to train or to predict."""
    return [_check(tool) for tool in tools]


def _check(tool: Tool) -> Finding:
    path = next((found for name in tool.names if (found := find(name))), None)
    if path is None:
        return Finding(tool.names[0], "note", f"not installed, optional: {tool.purpose}", f"Get it: {tool.source}")
    return Finding(tool.names[0], "ok", f"{path}: {tool.purpose}")


def find(name: str) -> str | None:
    """Return the path of a program, beside this Python or on the PATH."""
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    return beside or shutil.which(name)


def check_folder(
    name: str, folder: Path, *, needed_gb: float = NEEDED_GB, comfortable_gb: float = COMFORTABLE_GB
) -> Finding:
    """Say whether a folder can be written to and has space; one that is not there yet is made in its parent.

    Args:
        name: of the check.
        folder: where files will be written. A nameless file is written into it and vanishes.
        needed_gb: free space below which it is a problem.
        comfortable_gb: free space below which it is a note.
    """
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        return Finding(name, "problem", f"{there} cannot be written to: {error.strerror}", "Choose another folder.")
    free_gb = shutil.disk_usage(there).free / _GB
    found = f"{free_gb:.1f} GB free in {there}"
    if free_gb < needed_gb:
        return Finding(name, "problem", found, f"Make room: at least {needed_gb:g} GB are needed.")
    if free_gb < comfortable_gb:
        return Finding(name, "note", found, f"Enough to try it; {comfortable_gb:g} GB are better for a cohort.")
    return Finding(name, "ok", found)


def check_places(output: Path) -> list[Finding]:
    """Say the same of the working folder, of where results go, and of where temporary files go.

    Args:
        output: folder of the results.
    """
    places = {"working folder": Path.cwd(), "results": output, "temporary files": Path(tempfile.gettempdir())}
    if Path("data").exists():  # cohorts; else made in the working folder
        places["data"] = Path("data")
    return [check_folder(name, folder) for name, folder in places.items()]


def check_sqlite_store(uri: str) -> Finding:
    """Say whether an SQLite store can be read and written; one that is not there yet will be made.

    Args:
        uri: `sqlite:///PATH`.
    """
    name, path = "tracking", sqlite_path(uri)
    if path is None:
        return Finding(name, "note", f"{uri} is kept in memory and ends with each process", "Give sqlite:///mlflow.db")
    if not path.exists():
        folder = check_folder(name, path.parent, needed_gb=0, comfortable_gb=0)
        return folder if folder.level == "problem" else Finding(name, "ok", f"{path} will be made by the first run")
    try:
        runs = _runs_in(path)
    except sqlite3.OperationalError as error:
        busy = "locked" in str(error)
        advice = "Another process writes to it: wait." if busy else "Check its owner and the folder."
        return Finding(name, "note" if busy else "problem", f"{path} cannot be opened: {error}", advice)
    except sqlite3.DatabaseError as error:
        return Finding(name, "problem", f"{path} is no store of MLflow: {error}", "Move the file away.")
    if not os.access(path, os.W_OK):
        return Finding(name, "problem", f"{path} can be read only", "Check its owner, or set MLFLOW_TRACKING_URI.")
    return Finding(name, "ok", f"{path}, {runs} runs")


def _runs_in(path: Path) -> int:
    """Count the runs; 0 in an empty database, whose tables MLflow makes."""
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=1)
    try:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "runs" not in tables:
            raise sqlite3.DatabaseError("it has other tables")
        return int(connection.execute("SELECT count(*) FROM runs").fetchone()[0]) if tables else 0
    finally:
        connection.close()


def bill_of_materials() -> dict[str, Any]:
    """Return the package and all that it needs here, of what is installed; the same installation gives the same bill.

    What its extras bring counts where it is there, but for tools of development and documentation.

    >>> bill_of_materials()["bomFormat"]
    'CycloneDX'
    """
    needs = _closure(PACKAGE, frozenset({"all", *EXTRAS}))
    found = {name: distribution(name) for name in needs}
    components = [_component(found[name]) for name in sorted(needs) if name != PACKAGE]
    references = {name: _purl(one) for name, one in found.items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(found[PACKAGE]) | {"type": "application"}},
        "components": components,
        "dependencies": [
            {"ref": references[name], "dependsOn": sorted(references[one] for one in needs[name])}
            for name in sorted(needs)
        ],
    }


def _closure(package: str, wanted: frozenset[str]) -> dict[str, set[str]]:
    """Return each package that is needed and installed, with those that it needs itself."""
    needs: dict[str, set[str]] = {}
    waiting: list[tuple[str, frozenset[str]]] = [(package, wanted)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        own = needs.setdefault(name, set())
        for one in _requirements(distribution(name), extras):
            needed = canonicalize_name(one.name)
            if _is_installed(needed):
                own |= {needed} - {name}  # an extra of ours may name another
                waiting.append((needed, frozenset(one.extras)))
    return needs


def _requirements(found: Distribution, extras: frozenset[str]) -> list[Requirement]:
    """Return what a package declares to need here, with some of its extras."""
    declared = [Requirement(text) for text in found.requires or ()]
    return [one for one in declared if one.marker is None or any(_holds(one, extra) for extra in ("", *extras))]


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is not None and requirement.marker.evaluate({"extra": extra})


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _component(found: Distribution) -> dict[str, Any]:
    return {
        "type": "library",
        "bom-ref": _purl(found),
        "name": canonicalize_name(found.metadata["Name"]),
        "version": _version(found),
        "licenses": [_licence(found)],
        "purl": _purl(found),
    }


def _version(found: Distribution) -> str:
    return found.version.partition("+")[0]  # no label of a local build


def _purl(found: Distribution) -> str:
    return f"pkg:pypi/{canonicalize_name(found.metadata['Name'])}@{_version(found)}"


def _licence(found: Distribution) -> dict[str, Any]:
    """Return the licence as the package declares it: an SPDX expression, else a name."""
    said = found.metadata
    if "License-Expression" in said:
        return {"expression": said["License-Expression"]}
    given = said["License"].strip() if "License" in said else ""
    classified = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier") or () if "License ::" in one]
    is_name = given and "\n" not in given and len(given) <= _LICENCE_LENGTH
    return {"license": {"name": given if is_name else ", ".join(classified) or "not declared"}}
