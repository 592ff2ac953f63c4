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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

COMPARED = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def run_tutorial(file: Path, folder: Path, *, replaced: Mapping[str, str] | None = None) -> None:
    """Run the blocks of a Markdown file in order with `folder` as working folder.

    `python` blocks share their names, `sh` blocks are scripts of bash that end at the first failure. A `text` block is
    what the block before it prints; `...` stands for anything, and the width of blanks does not count.
    """
    text = file.read_text(encoding="utf-8")
    for old, new in (replaced or {}).items():
        text = text.replace(old, new)
    names: dict[str, Any] = {"__name__": file.stem}
    output = ""
    for match in _BLOCK.finditer(text):
        language, code = match.groups()
        lines_before = text.count("\n", 0, match.start(2))
        place = f"{file.name}, line {lines_before}"
        if language == "python":
            compiled = compile("\n" * lines_before + code, file.name, "exec")  # a traceback names the line of the file
            output = _run_python(compiled, names, folder)
        elif language == "sh":
            output = _run_shell(code, folder, place)
        else:
            assert language == "text", f"a block must be python, sh or text, got {language!r} in {place}"
            same = doctest.OutputChecker().check_output(code, output, COMPARED)
            assert same, f"{place} shows\n{code}\nand the block before it printed\n{output}"


def _run_python(code: Any, names: dict[str, Any], folder: Path) -> str:
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
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
def run() -> Callable[..., None]:
    """Return `run_tutorial`."""
    return run_tutorial
