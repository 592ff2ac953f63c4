"""The cohort of a bundle without a manifest: made once, then found."""

import shutil
from pathlib import Path

from prostate_alm.data.manifest import check_files, read_manifest
from prostate_alm.data.synthetic import ensure_synthetic_cohort
from prostate_alm.progress import Progress


def test_what_is_missing_is_made_and_then_found(dicom_cohort: Path, cohort: Path, tmp_path: Path) -> None:
    dicom = tmp_path / "phantom-20-seed0-dicom"
    dicom.mkdir()
    shutil.copy(dicom_cohort / "cohort.json", dicom)
    for study in sorted(path for path in dicom_cohort.iterdir() if path.is_dir())[:-1]:  # one is made again
        (dicom / study.name).symlink_to(study)
        shutil.copytree(cohort.with_suffix("") / study.name, tmp_path / "phantom-20-seed0" / study.name)
    seen: list[str] = []

    def progress(name: str) -> Progress:
        return lambda done, total: seen.append(f"{name} {done}/{total}")

    path = ensure_synthetic_cohort(tmp_path, studies=20, seed=0, progress=progress)
    manifest = read_manifest(path)
    assert check_files(manifest, path) == []
    volumes = {study.id: (study.t2.sha256, study.dwi.sha256) for study in manifest.studies}
    assert volumes == {study.id: (study.t2.sha256, study.dwi.sha256) for study in read_manifest(cohort).studies}
    assert seen == [f"{work} {i}/20" for work in ("making studies", "reading studies") for i in range(1, 21)]
    before = path.stat().st_mtime_ns
    assert ensure_synthetic_cohort(tmp_path, studies=20, seed=0, progress=progress) == path
    assert path.stat().st_mtime_ns == before
    assert len(seen) == 40
