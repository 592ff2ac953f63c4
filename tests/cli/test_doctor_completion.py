"""A shell completes commands and options."""

import shlex
import shutil
import subprocess

import pytest
from command_line import PROGRAM


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ([], {"predict", "manifest", "--version"}),
        (["man"], {"manifest"}),
        (["manifest", ""], {"build", "import", "check"}),
        (["manifest", "build", "d", "--lab"], {"--labels"}),
        (["manifest", "import", ""], {"picai", "bids"}),
        (["predict", "--exec"], {"--executor"}),
    ],
)
def test_bash_completes_commands_and_options(typed: list[str], completed: set[str]) -> None:
    if (bash := shutil.which("bash")) is None:
        pytest.skip("no bash")
    script = subprocess.run([*PROGRAM, "completion", "bash"], capture_output=True, text=True, check=True).stdout
    words = ["prostate-alm", *(typed or [""])]
    script += f"\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n_prostate_alm\necho ${{COMPREPLY[@]}}"
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True)
    assert completed <= set(done.stdout.split())
    assert all(word.startswith(words[-1]) for word in done.stdout.split())
