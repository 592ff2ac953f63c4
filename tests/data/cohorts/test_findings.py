"""PROSTATEx and fastMRI prostate: DICOM trees as they are published, with their tables of findings and slices."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prostate_alm.data.build import CohortPlan
from prostate_alm.data.cohorts import findings
from prostate_alm.data.cohorts.collection import good_cases, import_collection
from prostate_alm.data.splits import SplitError
from prostate_alm.imaging.volume import load_study

FINDINGS = [
    ["ProstateX-0001", 1, "25.7457 31.8707 -38.511", "PZ", "TRUE"],
    ["ProstateX-0002", 1, "-40.53 -29.32 -16.70", "AS", "FALSE"],
    ["ProstateX-0002", 2, "2 38 -31", "PZ", "TRUE"],
    ["ProstateX-0003", 1, "22.1 18.5 -25", "TZ", "FALSE"],
    ["ProstateX-0004", 1, "-7.69 3.64 23.16", "PZ", "FALSE"],
    ["ProstateX-0004", 1, "-7.69 3.64 23.16", "PZ", "FALSE"],  # some findings are listed twice
]


@pytest.fixture
def prostatex_tree(files: Any, tmp_path: Path) -> Path:
    source = tmp_path / "PROSTATEx"
    for number in range(1, 6):
        files.dicom(source / "PROSTATEx" / f"ProstateX-000{number}" / "07-08-2011", seed=number)
    table = source / "ProstateX-TrainingLesionInformationv2" / findings.FINDINGS
    files.rows(table, [findings.FINDING_COLUMNS, *FINDINGS])
    return source


def test_a_case_is_positive_when_any_finding_is(prostatex_tree: Path, tmp_path: Path) -> None:
    result = import_collection(findings.read_prostatex(prostatex_tree), CohortPlan(tmp_path / "x.json", test_share=0.5))
    studies = {study.id: study for study in result.manifest.studies}
    assert {name: study.label for name, study in studies.items()} == {
        "ProstateX-0001": 1, "ProstateX-0002": 1, "ProstateX-0003": 0, "ProstateX-0004": 0
    }  # fmt: skip
    assert result.unlabelled == ("ProstateX-0005",)  # of the test part
    assert result.manifest.refused == ()
    assert result.manifest.b_values_s_per_mm2 == (100, 600, 1000)
    assert studies["ProstateX-0001"].b_values_acquired_s_per_mm2 == (50, 400, 800)
    assert "SECRET" not in (tmp_path / "x.json").read_text()


def test_the_real_study_goes_in_with_its_real_tree(
    shared: Path, files: Any, prostatex_tree: Path, tmp_path: Path
) -> None:
    real = shared / "data" / "prostatex" / "ProstateX-0001"
    place = prostatex_tree / "PROSTATEx" / "ProstateX-0001"
    place.rename(tmp_path / "tiny")
    place.symlink_to(real, target_is_directory=True)
    plan = CohortPlan(tmp_path / "x.json", test_share=0.5)
    manifest = import_collection(findings.read_prostatex(prostatex_tree), plan).manifest
    study = next(one for one in manifest.studies if one.id == "ProstateX-0001")
    assert study.b_values_acquired_s_per_mm2 == (50, 400, 800)
    t2 = nib.load(tmp_path / study.t2.path)
    wanted = load_study(real).t2
    np.testing.assert_allclose(t2.get_fdata(), wanted.voxels, atol=np.ptp(wanted.voxels) / 65535)
    assert t2.shape == (384, 384, 19)  # by dcm2niix


def test_what_the_findings_cannot_tell_is_refused(files: Any, prostatex_tree: Path, tmp_path: Path) -> None:
    files.dicom(prostatex_tree / "PROSTATEx" / "ProstateX-0003" / "09-09-2012", seed=33)  # which one has the finding?
    table = files.rows(
        tmp_path / "findings.csv",
        [
            findings.FINDING_COLUMNS,
            *FINDINGS,
            ["ProstateX-0004", 1, "-7.69 3.64 23.16", "PZ", "TRUE"],
            ["ProstateX-0001", 2, "1 1 1", "PZ", "unknown"],
            ["ProstateX-0077", 1, "1 1 1", "PZ", "TRUE"],
        ],
    )
    collection = findings.read_prostatex(prostatex_tree, labels=table)
    cases, refused = good_cases(collection)
    assert {one.id: one.code for one in refused} == {
        "ProstateX-0001": "bad_label",
        "ProstateX-0004": "contradictory_labels",
        "ProstateX-0077": "no_images",
    }
    reasons = {one.id: one.reason for one in refused}
    assert "got 'unknown' in findings.csv line 9" in reasons["ProstateX-0001"]
    assert "another than in findings.csv line 6 in findings.csv line 8" in reasons["ProstateX-0004"]
    assert "in findings.csv line 10" in reasons["ProstateX-0077"]
    plan = CohortPlan(tmp_path / "x.json", test_share=0.5)
    with pytest.raises(SplitError, match="at least 2 positive patients"):
        import_collection(collection, plan)
    assert not plan.output.exists()
    double = next(case for case in cases if case.label.id == "ProstateX-0003")
    with pytest.raises(ValueError, match="a folder must hold one study, got 2"):
        double.source.read()


# fastMRI prostate

SCORES = {1: (1, 2), 2: (3, 1), 3: (1, 3), 4: (2, 2), 5: (5, 4), 6: (1, 1)}
"""Highest PI-RADS score in T2 and in diffusion: 3 is the lowest positive one, 2 the highest negative one."""
SPLITS = {1: "training", 2: "training", 3: "validation", 4: "validation", 5: "test", 6: "test"}
COLUMNS = ["fastmri_pt_id", "slice", "PIRADS", "fastmri_rawfile", "data_split", "folder"]


def slices(number: int, table: int) -> list[list[object]]:
    kind = ("AXT2", "AXDIFF")[table]
    tail = [f"file_prostate_{kind}_{number:03d}.h5", SPLITS[number], "fastmriIDS_001_to_026"]
    return [[number, index, score, *tail] for index, score in ((1, 1), (2, SCORES[number][table]), (3, 1))]


@pytest.fixture
def fastmri_tree(files: Any, tmp_path: Path) -> Path:
    source = tmp_path / "fastmri_prostate_DICOMS_IDS_001_312"
    for number in SCORES:
        files.dicom(source / "DICOMS" / f"{number:03d}", seed=number, b_values=(50.0, 1000.0))
    for index, name in enumerate(findings.SLICES):
        files.rows(source / "labels" / name, [COLUMNS, *(row for one in SCORES for row in slices(one, index))])
    return source


def test_a_case_has_the_highest_score_of_its_slices(fastmri_tree: Path, tmp_path: Path) -> None:
    manifest = import_collection(findings.read_fastmri(fastmri_tree), CohortPlan(tmp_path / "f.json")).manifest
    assert {study.id: study.label for study in manifest.studies} == {
        "001": 0, "002": 1, "003": 1, "004": 0, "005": 1, "006": 0
    }  # fmt: skip
    assert {study.id for study in manifest.studies if study.split == "test"} == {"005", "006"}
    study = manifest.studies[0]
    assert study.b_values_acquired_s_per_mm2 == (50, 1000)
    assert study.b_values_computed == (True, True, False)


def test_contradictory_slices_and_splits_are_refused_with_their_lines(
    files: Any, fastmri_tree: Path, tmp_path: Path
) -> None:
    other = [*slices(2, 0)[1][:2], 5, *slices(2, 0)[1][3:]]
    moved = [*slices(4, 0)[0][:4], "test", "x"]
    rows = [*(row for one in SCORES for row in slices(one, 0)), other, moved, [7, 1, 1, "x", "training", "x"]]
    files.rows(fastmri_tree / "labels" / findings.SLICES[0], [COLUMNS, *rows, [8, 1, 9, "x", "test", "x"]])
    cases, refused = good_cases(findings.read_fastmri(fastmri_tree, labels=fastmri_tree / "labels"))
    assert [case.label.id for case in cases] == ["001", "003", "005", "006"]
    assert {one.id: one.code for one in refused} == {
        "002": "contradictory_labels",
        "004": "two_splits",
        "007": "no_images",
        "008": "bad_label",
    }
    reasons = {one.id: one.reason for one in refused}
    assert "t2_slice_level_labels.csv line 6 in t2_slice_level_labels.csv line 20" in reasons["002"]
    assert "PIRADS must be one of ['1', '2', '3', '4', '5'], got '9'" in reasons["008"]
