"""PI-CAI: the published layout, volumes on the grid of T2, and rows that cannot be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from prostate_alm.cli import main
from prostate_alm.data.build import BuildResult, CohortPlan
from prostate_alm.data.cohorts.collection import good_cases, import_collection
from prostate_alm.data.cohorts.image_files import AdcStudy
from prostate_alm.data.cohorts.picai import read_picai
from prostate_alm.data.manifest import ManifestError, check_files, read_manifest
from prostate_alm.data.masks import check_masks
from prostate_alm.imaging.dicom import StudyRefused

HEADER = [
    *("patient_id", "study_id", "mri_date", "patient_age", "psa", "psad", "prostate_volume", "histopath_type"),
    *("lesion_GS", "lesion_ISUP", "case_ISUP", "case_csPCa", "center"),
]


def row(patient: str, study: str, isup: object, label: str) -> list[object]:
    return [patient, study, "2019-07-02", 74, 7.7, "", 55, "MRBx", '"3+4,0+0"', '"2,0"', isup, label, "RUMC"]


ROWS = [
    row("10000", "1000000", 0, "NO"),
    row("10001", "1000001", 2, "YES"),
    row("10002", "1000002", 1, "NO"),
    row("10003", "1000003", 5, "YES"),
    row("10005", "1000006", 0, "NO"),
    row("10004", "1000004", 0, "NO"),
    row("10004", "1000005", 3, "YES"),  # an earlier negative study of the same man
]


@pytest.fixture
def source(files: Any, tmp_path: Path) -> Path:
    """Return seven studies of six patients in two folds; diffusion is coarser than T2 and covers more."""
    folder = tmp_path / "picai"
    grid = files.affine(spacing_mm=(4.0, 4.0, 3.0), shift_mm=1.0)
    for seed, (patient, study, *_) in enumerate(ROWS):
        stem = folder / f"picai_public_images_fold{seed % 2}" / str(patient) / f"{patient}_{study}"
        if patient == "10004":
            stem = folder / "picai_public_images_fold0" / "10004" / f"{patient}_{study}"
        files.mha(stem.with_name(f"{stem.name}_t2w.mha"), files.voxels(seed))
        files.mha(stem.with_name(f"{stem.name}_adc.mha"), files.voxels(100 + seed, (7, 7, 6), highest=3000), grid)
        files.mha(stem.with_name(f"{stem.name}_hbv.mha"), files.voxels(200 + seed, (7, 7, 6)), grid)
        (stem.with_name(f"{stem.name}_sag.mha")).write_bytes(b"not read")
    files.rows(folder / "marksheet.csv", [HEADER, *ROWS])
    return folder


def run(source: Path, output: Path, **plan: Any) -> BuildResult:
    return import_collection(read_picai(source), CohortPlan(output, test_share=0.4, **plan))


def test_labels_patients_and_volumes_are_those_of_the_files(files: Any, source: Path, tmp_path: Path) -> None:
    manifest = run(source, tmp_path / "p.json").manifest
    assert read_manifest(tmp_path / "p.json") == manifest
    assert check_files(manifest, tmp_path / "p.json") == []
    assert (manifest.schema_version, manifest.diffusion_channels) == (2, ("adc", "high_b"))
    assert {study.id: study.label for study in manifest.studies} == {
        f"{patient}_{study}": int(label == "YES") for patient, study, *_, label, _ in ROWS
    }
    later, earlier = (study for study in manifest.studies if study.patient == "10004")
    assert later.split == earlier.split
    by_id = {study.id: study for study in manifest.studies}
    for seed, (patient, number, *_) in enumerate(ROWS):
        study = by_id[f"{patient}_{number}"]
        t2, diffusion = (nib.load(tmp_path / file.path) for file in (study.t2, study.dwi))
        np.testing.assert_allclose(t2.get_fdata(), files.voxels(seed), atol=0.01)
        np.testing.assert_allclose(t2.affine, files.affine(), atol=1e-4)
        assert diffusion.shape == (*files.shape, 2)
        for channel, (base, highest) in enumerate(((100, 3000), (200, 1000))):
            wanted = on_t2(files, files.voxels(base + seed, (7, 7, 6), highest=highest))
            np.testing.assert_allclose(diffusion.get_fdata()[..., channel], wanted, atol=0.1)


def on_t2(files: Any, voxels: np.ndarray) -> np.ndarray:
    """Return the linear interpolation of scipy on the grid of T2, 0 outside."""
    grid = files.affine(spacing_mm=(4.0, 4.0, 3.0), shift_mm=1.0)
    index = np.stack(np.meshgrid(*map(np.arange, files.shape), indexing="ij")).reshape(3, -1)
    places = np.linalg.inv(grid) @ files.affine() @ np.vstack([index, np.ones(index.shape[1])])
    inside = np.all((places[:3] >= -0.5) & (places[:3] <= np.array([[6.5], [6.5], [5.5]])), axis=0)
    # ITK holds the border sample for half a voxel beyond the last centre
    found = map_coordinates(voxels, places[:3], order=1, mode="nearest")
    return np.where(inside, found, 0.0).reshape(files.shape)


Edit = Callable[[list[list[object]]], list[list[object]]]
BAD_ROWS: dict[str, tuple[Edit, str, str, str]] = {
    "id without images": (lambda r: [*r, row("10099", "1", 0, "NO")], "10099_1", "no_images", "line 9"),
    "study without images": (lambda r: [*r, row("10000", "9", 0, "NO")], "10000_9", "no_images", "line 9"),
    "row twice": (lambda r: [*r, r[0]], "10000_1000000", "duplicate_id", "line 2 and marksheet.csv line 9"),
    "two labels": (
        lambda r: [*r, row("10000", "1000000", 2, "YES")],
        "10000_1000000",
        "contradictory_labels",
        "line 9",
    ),
    "label against grade": (
        lambda r: [row("10000", "1000000", 4, "NO"), *r[1:]],
        *("10000_1000000", "contradictory_labels", "line 2"),
    ),
    "no label": (lambda r: [row("10000", "1000000", "", ""), *r[1:]], "10000_1000000", "bad_label", "line 2"),
    "no id": (lambda r: [*r, row("", "1000000", 0, "NO")], "marksheet.csv line 9", "bad_id", "line 9"),
    "id that leaves": (lambda r: [*r, row("../x", "1", 0, "NO")], "marksheet.csv line 9", "bad_id", "line 9"),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_a_bad_row_is_listed_with_its_line_and_the_rest_is_kept(
    files: Any, source: Path, tmp_path: Path, fault: str
) -> None:
    edit, study, code, place = BAD_ROWS[fault]
    files.rows(source / "marksheet.csv", [HEADER, *edit(list(ROWS))])
    collection = read_picai(source)
    cases, (refused,) = good_cases(collection)
    assert (refused.id, refused.code) == (study, code)
    assert f"marksheet.csv {place}" in refused.reason
    assert "\n" not in refused.reason
    assert [case.label.id for case in cases] == sorted({f"{r[0]}_{r[1]}" for r in ROWS} - {study})
    assert collection.unlabelled == ()


def other_patient(files: Any, stem: Path) -> None:
    files.mha(stem.with_name(f"{stem.name}_adc.mha"), files.voxels(1, (7, 7, 6)), files.affine(shift_mm=150.0))


def truncated(files: Any, stem: Path) -> None:
    path = stem.with_name(f"{stem.name}_hbv.mha")
    path.write_bytes(path.read_bytes()[:400])


def not_an_image(files: Any, stem: Path) -> None:
    stem.with_name(f"{stem.name}_t2w.mha").write_text("<html>not found</html>")


def no_numbers(files: Any, stem: Path) -> None:
    files.nifti(stem.with_name("adc.nii.gz"), files.voxels(1) * np.nan)


def several_volumes(files: Any, stem: Path) -> None:
    files.nifti(stem.with_name("adc.nii.gz"), files.voxels(1, (*files.shape, 2)))


def sheared(files: Any, stem: Path) -> None:
    affine = files.affine()
    affine[0, 1] = 1.0
    image = nib.Nifti1Image(files.voxels(1), None)
    image.set_sform(affine, code=1)
    nib.save(image, stem.with_name("adc.nii.gz"))


def nowhere(files: Any, stem: Path) -> None:
    nib.save(nib.Nifti1Image(files.voxels(1), None), stem.with_name("adc.nii.gz"))


BAD_IMAGES: dict[Callable[[Any, Path], None], str] = {
    other_patient: "no_overlap",
    truncated: "truncated",
    not_an_image: "truncated",
    no_numbers: "undecodable_pixels",
    several_volumes: "other_dimensions",
    sheared: "no_geometry",
    nowhere: "no_geometry",
}


@pytest.mark.parametrize("spoil", BAD_IMAGES)
def test_a_bad_image_is_refused_in_one_line_without_its_folder(
    files: Any, source: Path, spoil: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    stem = source / "picai_public_images_fold0" / "10002" / "10002_1000002"
    spoil(files, stem)
    t2, adc, hbv = (stem.with_name(f"{stem.name}_{kind}.mha") for kind in ("t2w", "adc", "hbv"))
    nifti = stem.with_name("adc.nii.gz")
    with pytest.raises(StudyRefused) as refused:
        AdcStudy(t2, nifti if nifti.exists() else adc, hbv).read()
    assert refused.value.code == BAD_IMAGES[spoil]
    assert str(source) not in refused.value.reason
    assert "\n" not in refused.value.reason
    assert str(source) not in "".join(capfd.readouterr())


def test_the_command_keeps_the_good_studies_and_lists_the_others(
    files: Any, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated(files, source / "picai_public_images_fold0" / "10002" / "10002_1000002")
    (source / "picai_public_images_fold0" / "10005" / "10005_1000006_adc.mha").unlink()
    (source / "picai_public_images_fold1" / "20000").mkdir()
    (source / "picai_public_images_fold1" / "20000" / "20000_1_t2w.mha").touch()
    files.rows(source / "marksheet.csv", [HEADER, *ROWS, row("10006", "1000007", 0, "NO")])
    for seed, kind in enumerate(("t2w", "adc", "hbv")):
        files.mha(source / "10006" / f"10006_1000007_{kind}.mha", files.voxels(seed))
    arguments = ["manifest", "import", "picai", str(source), "--output", str(tmp_path / "p.json"), "--workers", "1"]
    assert main([*arguments, "--test-share", "0.4"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"6 studies: {tmp_path / 'p.json'}"
    assert said[1].startswith("refused 10002_1000002 (truncated): ")
    assert said[2].startswith("refused 10005_1000006 (no_images): ")
    assert "no 10005_1000006_adc.mha in marksheet.csv line 6" in said[2]
    assert said[3:] == ["1 studies have no label and were left out", "3 of 6 are positive (50.0 %)"]
    assert main(["manifest", "check", str(tmp_path / "p.json")]) == 0
    assert main([*arguments, "--overwrite", "--json", "--test-share", "0.4"]) == 1
    summary = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert (summary["studies"], summary["positives"], summary["unlabelled"]) == (6, 3, 1)


def test_a_second_import_reads_only_what_changed(
    files: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(source, tmp_path / "p.json").manifest
    stem = source / "picai_public_images_fold0" / "10002" / "10002_1000002"
    adc, hbv = (stem.with_name(f"{stem.name}_{kind}.mha") for kind in ("adc", "hbv"))
    for old, new in ((adc, stem), (hbv, adc), (stem, hbv)):  # the roles of two files are exchanged
        old.rename(new)
    read: list[str] = []
    original = AdcStudy.read
    monkeypatch.setattr(AdcStudy, "read", lambda self: read.append(self.t2.name) or original(self))
    second = run(source, tmp_path / "p.json", overwrite=True).manifest
    assert read == ["10002_1000002_t2w.mha"]
    changed = [a.id for a, b in zip(first.studies, second.studies, strict=True) if a.dwi.sha256 != b.dwi.sha256]
    assert changed == ["10002_1000002"]


def test_another_table_or_folder_is_named(files: Any, source: Path, tmp_path: Path) -> None:
    files.rows(source / "marksheet.csv", [[*HEADER[:-3]], ["10000", "1000000"]])  # an early release
    with pytest.raises(ManifestError, match=r"no 'case_csPCa' in .*marksheet\.csv"):
        read_picai(source)
    (source / "marksheet.csv").unlink()
    with pytest.raises(ManifestError, match=r"one marksheet\.csv in .*got 0.*--labels"):
        read_picai(source)
    table = files.rows(tmp_path / "m.csv", [HEADER, *ROWS])
    shutil.copytree(source / "picai_public_images_fold0" / "10000", source / "copy" / "10000")
    with pytest.raises(ManifestError, match="10000 twice"):
        read_picai(source, labels=table)
    with pytest.raises(ManifestError, match=r"folders named \[0-9\]\*"):
        read_picai(tmp_path / "absent", labels=table)


def test_volumes_never_go_among_the_files_of_the_collection(source: Path) -> None:
    with pytest.raises(ManifestError, match="must not go among the files of the collection"):
        run(source, source.with_suffix(".json"))


LABELS = "picai_labels"
HUMAN, AI = "csPCa_lesion_delineations/human_expert/resampled", "csPCa_lesion_delineations/AI/Bosma22a"
GLAND = "anatomical_delineations/whole_gland/AI/Bosma22b"


@pytest.fixture
def labels(files: Any, source: Path, tmp_path: Path) -> Path:
    """Return the marksheet in the repository of the labels: one positive is outlined by a human, one by a network."""
    folder = tmp_path / LABELS
    table = folder / "clinical_information" / "marksheet.csv"
    table.parent.mkdir(parents=True)
    (source / "marksheet.csv").rename(table)
    lesions = np.zeros(files.shape, np.uint8)
    for name in ("10000_1000000", "10002_1000002"):
        files.nifti(folder / HUMAN / f"{name}.nii.gz", lesions)
    lesions[1:3, 2, 1], lesions[5, 2:4, 1], lesions[5, 5, 4] = 2, 2, 4  # two of one grade, one of another
    files.nifti(folder / HUMAN / "10001_1000001.nii.gz", lesions)
    for name in ("10001_1000001", "10003_1000003", "10005_1000006"):  # the last is negative: the network was wrong
        files.nifti(folder / AI / f"{name}.nii.gz", (lesions == 4).astype(np.uint8))
    for patient, study, *_ in ROWS:
        files.nifti(folder / GLAND / f"{patient}_{study}.nii.gz", np.ones(files.shape, np.uint8))
    return table


def masks_of(
    source: Path, table: Path, output: Path, annotators: Any
) -> tuple[BuildResult, dict[str, list[int] | None]]:
    collection = read_picai(source, labels=table, masks=annotators)
    result = import_collection(collection, CohortPlan(output, test_share=0.4))
    found = {}
    for study in result.manifest.studies:
        file = study.lesions and np.asarray(nib.load(output.parent / study.lesions.path).dataobj)
        found[study.id] = None if file is None else np.unique(file[file > 0]).tolist()
    return result, found


def test_masks_of_a_human_are_taken_and_those_of_a_network_where_asked(
    source: Path, labels: Path, tmp_path: Path
) -> None:
    result, found = masks_of(source, labels, tmp_path / "h.json", "human")
    by_human = {"10000_1000000": [], "10001_1000001": [1, 2, 3], "10002_1000002": []}
    assert found == dict.fromkeys(found) | by_human
    assert result.manifest.refused_masks == ()
    assert result.manifest.schema_version == 3
    assert all(study.gland for study in result.manifest.studies)
    assert check_files(result.manifest, tmp_path / "h.json") == check_masks(result.manifest, tmp_path / "h.json") == []
    result, found = masks_of(source, labels, tmp_path / "ai.json", "ai")
    assert found == dict.fromkeys(found) | by_human | {"10003_1000003": [1]}
    (refused,) = result.manifest.refused_masks
    assert (refused.id, refused.mask, refused.code) == ("10005_1000006", "lesions", "contradictory_labels")


def test_without_the_option_nothing_changes_and_without_the_folder_it_says_where_it_belongs(
    source: Path, labels: Path, tmp_path: Path
) -> None:
    _, found = masks_of(source, labels, tmp_path / "n.json", None)
    assert set(found.values()) == {None}
    assert "lesions" not in (tmp_path / "n.json").read_text()
    (labels.parent.parent / "csPCa_lesion_delineations").rename(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match="csPCa_lesion_delineations must lie beside the marksheet or one level"):
        read_picai(source, labels=labels, masks="human")
