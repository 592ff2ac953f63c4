"""The cohort of a bundle without a manifest: made once, then found."""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from prostate_alm.data.cohorts.mask_files import masks_in
from prostate_alm.data.manifest import check_files, read_manifest
from prostate_alm.data.masks import check_masks
from prostate_alm.data.synthetic import SyntheticCohort, ensure_cohort, ensure_synthetic_cohort, write_masks
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume
from prostate_alm.progress import Progress

pytestmark = pytest.mark.usefixtures("in_one_process")


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

    path = ensure_synthetic_cohort(tmp_path, SyntheticCohort(studies=20, seed=0), progress=progress)
    manifest = read_manifest(path)
    assert check_files(manifest, path) == []
    volumes = {study.id: (study.t2.sha256, study.dwi.sha256) for study in manifest.studies}
    assert volumes == {study.id: (study.t2.sha256, study.dwi.sha256) for study in read_manifest(cohort).studies}
    assert seen == [f"{work} {i}/20" for work in ("making studies", "reading studies") for i in range(1, 21)]
    before = path.stat().st_mtime_ns
    assert ensure_synthetic_cohort(tmp_path, SyntheticCohort(studies=20, seed=0), progress=progress) == path
    assert path.stat().st_mtime_ns == before
    assert len(seen) == 40


def test_diffusion_is_restricted_where_the_mask_says_that_a_lesion_is(cohort: Path, tmp_path: Path) -> None:
    """Read from the DICOM files: a mask that is turned or displaced would lie on other tissue."""
    write_masks(tmp_path, SyntheticCohort(studies=10, seed=0))
    positives = [study for study in read_manifest(cohort).studies if study.label and study.id <= "PHANTOM-0010"]
    assert len(positives) == 3
    for study in positives:
        t2, diffusion = (nib.load(cohort.parent / file.path) for file in (study.t2, study.dwi))
        volume = Volume(t2.get_fdata(dtype=np.float32), t2.affine)
        volumes = StudyVolumes(volume, (), (), (), (), Selection(None, (), None, ()))
        masks = masks_in(tmp_path / study.id).read(volumes).labels
        kept = np.log1p(diffusion.get_fdata()[..., 2]) - np.log1p(diffusion.get_fdata()[..., 0])  # ln S_1000 / S_100
        lesion, gland = masks["lesions"] > 0, (masks["gland"] > 0) & (masks["lesions"] == 0)
        assert kept[lesion].mean() > kept[gland].mean() + 0.15


def test_masks_leave_the_cohort_as_it_is_and_its_recipe_without_the_word(dicom_cohort: Path, tmp_path: Path) -> None:
    """Of the first five studies, which are made already: plain, then with masks."""
    parameters = {"studies": 5, "seed": 0, "test_share": 0.5}
    manifests = []
    for name, masks in (("plain", False), ("masks", True)):
        dicom = tmp_path / f"{name}-dicom"
        dicom.mkdir()
        shutil.copy(dicom_cohort / "cohort.json", dicom)
        for number in range(1, 6):
            (dicom / f"PHANTOM-000{number}").symlink_to(dicom_cohort / f"PHANTOM-000{number}")
        path = ensure_cohort(tmp_path / f"{name}.json", SyntheticCohort(masks=masks, **parameters))
        manifests.append(read_manifest(path))
        assert check_files(manifests[-1], path) == check_masks(manifests[-1], path) == []
    plain, masked = (
        [(study.id, study.label, study.split, study.t2.sha256, study.dwi.sha256) for study in one.studies]
        for one in manifests
    )
    assert plain == masked
    assert [manifest.schema_version for manifest in manifests] == [1, 3]
    assert all(study.lesions and study.gland for study in manifests[1].studies)
    assert "masks" not in SyntheticCohort(**parameters).model_dump_json()
    assert SyntheticCohort(masks=True, **parameters).model_dump()["masks"] is True
