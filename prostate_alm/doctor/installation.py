"""Python, packages, shipped bundles and programs that others wrote: nothing large is imported."""

import json
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from prostate_alm.doctor.findings import Finding
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
