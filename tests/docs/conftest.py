"""Run the code of a tutorial as a reader would, block by block, and compare what it shows.

No library does this: those at hand run Python only, or want a marker before each block and output without gaps.
"""

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
COMPARED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def run_tutorial(name: str, folder: Path) -> None:
    """Run the blocks of `docs/tutorials/<name>.md` in order with `folder` as working folder.

    `python` blocks share their names, `sh` blocks are scripts of bash that end at the first failure. A `text` block is
    what the block before it prints; `...` stands for anything, and the width of blanks does not count.
    """
    text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": name}
    output = ""
    for match in _BLOCK.finditer(text):
        language, code = match.groups()
        place = f"{name}.md, line {text.count(chr(10), 0, match.start()) + 1}"
        if language == "python":
            output = _run_python("\n" * text.count("\n", 0, match.start(2)) + code, names, folder)
        elif language == "sh":
            output = _run_shell(code, folder, place)
        else:
            assert language == "text", f"a block must be python, sh or text, got {language} in {place}"
            same = doctest.OutputChecker().check_output(code, output, COMPARED)
            assert same, f"{place} shows\n{code}\nand the block before it printed\n{output}"


def _run_python(code: str, names: dict[str, Any], folder: Path) -> str:
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, f"{names['__name__']}.md", "exec"), names)
    return printed.getvalue()


def _run_shell(code: str, folder: Path, place: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": path, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    others = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    script = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(script, cwd=folder, env=others | own, capture_output=True, text=True)
    assert done.returncode == 0, f"{place} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def tutorial() -> Callable[[str, Path], None]:
    """Return the function that runs a tutorial by its name in a folder."""
    return run_tutorial
