"""Prostate158: the tables name the files, the masks decide the label."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from prostate_alm.data.build import CohortPlan
from prostate_alm.data.cohorts.collection import good_cases, import_collection
from prostate_alm.data.cohorts.prostate158 import read_prostate158
from prostate_alm.data.manifest import ManifestError
from prostate_alm.data.masks import check_masks

HEADER = [
    *("ID", "t2", "adc", "dwi", "t2_anatomy_reader1", "t2_tumor_reader1", "adc_tumor_reader1"),
    *("t2_anatomy_reader2", "adc_tumor_reader2"),
]
TUMOUR_IN = {1: "", 2: "t2_tumor_reader1", 3: "adc_tumor_reader1", 4: "", 5: "empty", 6: "adc_tumor_reader1"}
"""Where the mask of a study lies: in T2, in ADC, in `empty.nii.gz`, nowhere."""


def row(files: Any, source: Path, number: int) -> list[object]:
    folder = source / "train" / f"{number:03d}"
    for seed, name in enumerate(("t2", "adc", "dwi")):
        files.nifti(folder / f"{name}.nii.gz", files.voxels(10 * number + seed))
    mask = np.zeros(files.shape, np.uint8)
    files.nifti(folder / "empty.nii.gz", mask)
    mask[2:4, 3:5, 2] = 1
    values = dict.fromkeys(HEADER, "")
    where = TUMOUR_IN[number]
    if where == "empty":
        values["t2_tumor_reader1"] = values["adc_tumor_reader1"] = f"train/{number:03d}/empty.nii.gz"
    elif where:
        files.nifti(folder / f"{where}.nii.gz", mask)
        values[where] = f"train/{number:03d}/{where}.nii.gz"
    images = {name: f"train/{number:03d}/{name}.nii.gz" for name in ("t2", "adc", "dwi")}
    return list((values | images | {"ID": number}).values())


@pytest.fixture
def source(files: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "prostate158_train"
    rows = {number: row(files, folder, number) for number in TUMOUR_IN}
    files.rows(folder / "train.csv", [HEADER, *(rows[number] for number in (1, 2, 3, 4))])
    files.rows(folder / "valid.csv", [HEADER, rows[5], rows[6]])
    return folder


def test_labels_come_from_the_masks_and_splits_from_the_tables(files: Any, source: Path, tmp_path: Path) -> None:
    manifest = import_collection(read_prostate158(source), CohortPlan(tmp_path / "p.json")).manifest
    assert {study.id: study.label for study in manifest.studies} == {
        "001": 0, "002": 1, "003": 1, "004": 0, "005": 0, "006": 1
    }  # fmt: skip
    assert [study.id for study in manifest.studies if study.split == "test"] == ["005", "006"]
    assert manifest.refused == ()
    for study in manifest.studies:
        number = int(study.id)
        t2, diffusion = (nib.load(tmp_path / file.path).get_fdata() for file in (study.t2, study.dwi))
        wanted = [files.voxels(10 * number + seed) for seed in range(3)]
        np.testing.assert_allclose(t2, wanted[0], atol=0.01)
        np.testing.assert_allclose(diffusion, np.stack(wanted[1:], axis=-1), atol=0.01)  # the grid is that of T2
    sidecar = json.loads((tmp_path / "p" / "001" / "study.json").read_text())
    assert sidecar["diffusion_channels"] == ["adc", "high_b"]


def test_bad_rows_are_listed_with_table_and_line(files: Any, source: Path) -> None:
    lines = (source / "train.csv").read_text().splitlines()
    lines[1] = lines[1].replace("001/adc", "001/absent")
    lines[2] = lines[2].replace("train/002/t2.nii.gz", "../002/t2.nii.gz")
    lines[3] = lines[3].replace("3,", "three,", 1)
    (source / "train" / "006" / "adc_tumor_reader1.nii.gz").write_bytes(b"cut short")
    files.rows(source / "valid.csv", [HEADER, *(line.split(",") for line in lines[4:]), row(files, source, 6)])
    (source / "train" / "006" / "adc_tumor_reader1.nii.gz").write_bytes(b"cut short")
    (source / "train.csv").write_text("\n".join(lines) + "\n")
    cases, refused = good_cases(read_prostate158(source))
    assert {one.id: one.code for one in refused} == {
        "001": "no_images",
        "002": "no_images",
        "004": "two_splits",
        "006": "truncated",
        "train.csv line 4": "bad_id",
    }
    assert cases == []
    reasons = {one.id: one.reason for one in refused}
    assert "in train.csv line 2" in reasons["001"]
    assert "got train.csv line 5 and valid.csv line 2" in reasons["004"]
    assert "in valid.csv line 3" in reasons["006"]


def test_a_missing_table_and_another_table_are_named(files: Any, source: Path) -> None:
    files.rows(source / "valid.csv", [["ID", "t2"], ["1", "x"]])
    with pytest.raises(ManifestError, match=r"no 'adc' in .*valid\.csv"):
        read_prostate158(source)
    (source / "valid.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"UTF-8, got .*valid\.csv"):
        read_prostate158(source)
    (source / "valid.csv").unlink()
    with pytest.raises(ManifestError, match=r"readable file, got .*valid\.csv"):
        read_prostate158(source)


def test_masks_are_brought_from_adc_to_t2_and_no_tumour_is_an_empty_map(
    files: Any, source: Path, tmp_path: Path
) -> None:
    """The tumour of study 3 lies in an ADC twice as coarse; each of its voxels is eight of T2."""
    coarse = files.affine(spacing_mm=(4.0, 4.0, 6.0)) + 0.0
    coarse[:3, 3] = (files.affine() @ [0.5, 0.5, 0.5, 1])[:3]
    folder = source / "train" / "003"
    tumour = np.zeros((4, 4, 3), np.uint8)
    tumour[1, 2, 1] = 1
    files.nifti(folder / "adc.nii.gz", files.voxels(1, (4, 4, 3)), coarse)
    files.nifti(folder / "adc_tumor_reader1.nii.gz", tumour, coarse)
    anatomy = np.ones(files.shape, np.uint8)
    anatomy[:4] = 2
    anatomy[0] = 0
    lines = [line.split(",") for line in (source / "train.csv").read_text().splitlines()]
    lines[2][4] = lines[3][4] = "train/002/t2_anatomy_reader1.nii.gz"
    files.nifti(source / lines[2][4], anatomy)
    files.rows(source / "train.csv", lines)
    collection = read_prostate158(source, masks=True)
    manifest = import_collection(collection, CohortPlan(tmp_path / "p.json")).manifest
    assert manifest.refused_masks == ()
    assert check_masks(manifest, tmp_path / "p.json") == []
    maps = {one.id: np.asarray(nib.load(tmp_path / one.lesions.path).dataobj) for one in manifest.studies}
    assert {name: int(labels.sum()) for name, labels in maps.items()} == {
        "001": 0, "002": 4, "003": 8, "004": 0, "005": 0, "006": 4
    }  # fmt: skip
    wanted = np.zeros(files.shape, np.uint8)
    wanted[2:4, 4:6, 2:4] = 1
    np.testing.assert_array_equal(maps["003"], wanted)
    glands = [one.gland for one in manifest.studies]
    assert [gland is None for gland in glands] == [True, False, False, True, True, True]
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / glands[1].path).dataobj), anatomy > 0)
    plain = import_collection(read_prostate158(source), CohortPlan(tmp_path / "q.json")).manifest
    assert plain.schema_version == 2
