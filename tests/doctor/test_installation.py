"""The doctor's look at packages, programs and folders, beside pip, df and the system."""

import subprocess
from pathlib import Path

import pytest
from findings import the_one

from prostate_alm.doctor.installation import (
    Tool,
    check_bundles,
    check_extras,
    check_folder,
    check_packages,
    check_places,
    check_python,
    check_tools,
)
from prostate_alm.doctor.services import check_tracking


def test_space_is_compared_with_what_is_needed(tmp_path: Path) -> None:
    status = subprocess.run(["df", "--output=avail", "-B1", tmp_path], capture_output=True, text=True, check=True)
    free_gb = int(status.stdout.split()[-1]) / 1e9
    for needed_gb, comfortable_gb, level in (
        (0, 0, "ok"),
        (0, 10 * free_gb, "note"),
        (10 * free_gb,) * 2 + ("problem",),
    ):
        found = check_folder("disk", tmp_path / "new" / "sub", needed_gb=needed_gb, comfortable_gb=comfortable_gb)
        assert (found.level, bool(found.advice)) == (level, level != "ok")
        assert float(found.found.split()[0]) == pytest.approx(free_gb, abs=2)  # others write, too
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_to_is_a_problem() -> None:
    found = check_folder("results", Path("/proc/self/outputs"), needed_gb=0)
    assert (found.level, "cannot be written to" in found.found) == ("problem", True)
    assert the_one([one for one in check_places(Path("/proc/outputs")) if one.level == "problem"]).check == "results"
    assert the_one(check_tracking("sqlite:////proc/mlflow.db")).level == "problem"


def test_packages_are_compared_with_the_declared_ranges() -> None:
    assert the_one(check_packages()).level == "ok"  # the tests run in an installation
    assert {one.level for one in [*check_python(), *check_bundles()]} == {"ok"}
    missing, old = check_packages(["torch>=2", "no-such-package-at-all>=1", "torch>=999"])
    assert (missing.level, missing.found) == ("problem", "no-such-package-at-all is not installed")
    assert old.found.endswith("is not >=999")
    assert old.advice == "pip install 'torch>=999'"
    extras = {one.check: one for one in check_extras()}
    assert list(extras) == [f"extra {name}" for name in ("dicom", "serve", "train", "onnx", "ray")]
    assert {extras[f"extra {name}"].level for name in ("dicom", "serve", "train")} == {"ok"}
    assert "pydicom 3" in extras["extra dicom"].found


def test_programs_are_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = Tool(("no-such-tool", "dummy-tool"), "does nothing", "nowhere")
    assert the_one(check_tools((tool,))).level == "note"
    (tmp_path / "dummy-tool").write_text("#!/bin/sh\n")
    (tmp_path / "dummy-tool").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert the_one(check_tools((tool,))).found == f"{tmp_path / 'dummy-tool'}: does nothing"
