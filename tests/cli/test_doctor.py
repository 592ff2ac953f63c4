"""The commands about an installation: the doctor is quick and ends with what it found, a shell completes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prostate_alm.cli import main


def test_the_command_is_quick_imports_no_framework_and_writes_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; start = time.monotonic(); from prostate_alm.cli import main\n"
        "code = main(['doctor', '--json']); wall_s = time.monotonic() - start\n"
        "assert not set(sys.modules) & {'torch', 'monai', 'mlflow', 'ignite', 'numpy', 'pydicom'}, 'a framework'\n"
        "assert wall_s < 8, wall_s\n"  # five on a machine that is not busy
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stderr, list(tmp_path.iterdir())) == ("", [])
    told = json.loads(done.stdout)
    levels = [one["level"] for one in told["findings"]]
    assert (told["problems"], told["notes"]) == (levels.count("problem"), levels.count("note"))
    assert done.returncode == (1 if told["problems"] else 0)


def test_the_command_ends_with_1_when_a_named_server_is_away(
    closed_port: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed_port)
    assert main(["doctor", "--orthanc", closed_port]) == 1
    lines = capsys.readouterr().out.splitlines()
    problems = [line.split()[1] for line in lines if line.startswith("problem ")]
    assert {"tracking", "orthanc"} <= set(problems)
    assert lines[-1].startswith(f"{len(problems)} problems, ")
    assert main(["doctor", "--orthanc", "ftp://x"]) == 2
    assert "URL must begin with http" in capsys.readouterr().err
