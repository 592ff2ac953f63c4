"""The cohort of a bundle without a manifest: made once, then found."""

from pathlib import Path

from prostate_alm.data.manifest import check_files, read_manifest
from prostate_alm.data.synthetic import ensure_synthetic_cohort
from prostate_alm.progress import Progress


def test_a_synthetic_cohort_is_made_once(tmp_path: Path) -> None:
    seen: list[str] = []

    def progress(name: str) -> Progress:
        return lambda done, total: seen.append(f"{name} {done}/{total}")

    path = ensure_synthetic_cohort(tmp_path, studies=7, seed=1, progress=progress)
    manifest = read_manifest(path)
    assert check_files(manifest, path) == []
    assert [study.id for study in manifest.studies] == [f"PHANTOM-000{i}" for i in range(1, 8)]
    assert seen == [f"{work} {i}/7" for work in ("making studies", "reading studies") for i in range(1, 8)]
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert ensure_synthetic_cohort(tmp_path, studies=7, seed=1, progress=progress) == path
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert len(seen) == 14
