"""What the tests of commands share: a folder with studies, a packed model, the real Orthanc."""

import shutil
from pathlib import Path

import pytest
from orthanc import own_temporary_folder, running, server, start_server  # noqa: F401
from packs import ensemble_folder, make_ensemble, packed_file, packed_model, phantom_study  # noqa: F401


@pytest.fixture
def small(dicom_cohort: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a folder with five studies in `dicom`, a bad one among them, `labels.csv`, and the converted good ones."""
    monkeypatch.chdir(tmp_path)
    rows = {"PHANTOM-0001": 0, "PHANTOM-0002": 1, "PHANTOM-0003": 0, "PHANTOM-0005": 1}
    for name in rows:
        Path("dicom").mkdir(exist_ok=True)
        Path("dicom", name).symlink_to(dicom_cohort / name)
        shutil.copytree(cohort.with_suffix("") / name, Path("c", name))
    Path("dicom", "EMPTY").mkdir()
    table = "".join(f"{name},{label}\n" for name, label in rows.items())
    Path("good.csv").write_text("id,label\n" + table)
    Path("labels.csv").write_text("id,label\n" + table + "EMPTY,1\n")
    return tmp_path
