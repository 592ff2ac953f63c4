"""Programs that the package does not need itself; what each is for."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from prostate_alm.doctor.findings import Finding


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
