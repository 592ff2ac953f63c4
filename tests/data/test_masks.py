"""Masks: numbers of lesions, the grid of T2, what is refused; cohorts without masks stay what they were."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff
from scipy.ndimage import map_coordinates

from prostate_alm.cli import main
from prostate_alm.data.build import BuildResult, CohortPlan, DicomCohort, build_manifest
from prostate_alm.data.cohorts.mask_files import masks_in
from prostate_alm.data.convert import DicomStudy
from prostate_alm.data.manifest import Manifest, ManifestError, check_files, read_manifest, write_manifest
from prostate_alm.data.masks import check_masks
from prostate_alm.imaging.volume import StudyVolumes, Volume, load_study, resample_labels
from prostate_alm.whole_files import sha256_of_file

LABELS = {"A": 0, "B": 0, "C": 1, "D": 1}


@pytest.fixture(scope="module")
def dicom(files: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return four small DICOM studies, two of each class, with `labels.csv`."""
    folder = tmp_path_factory.mktemp("dicom")
    for seed, name in enumerate(LABELS):
        files.dicom(folder / name, seed=seed)
    files.rows(folder / "labels.csv", [("id", "label"), *LABELS.items()])
    return folder


@pytest.fixture(scope="module")
def study(dicom: Path) -> StudyVolumes:
    return load_study(dicom / "A")


@pytest.fixture(scope="module")
def affine(study: StudyVolumes) -> np.ndarray:
    return study.t2.affine_ras_mm


@pytest.fixture(scope="module")
def built(files: Any, dicom: Path, affine: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a manifest with masks, which no test changes."""
    folder = tmp_path_factory.mktemp("built")
    build(dicom, folder / "c.json", masks_dir=write_masks(files, affine, folder / "masks"))
    return folder / "c.json"


@pytest.fixture
def masks(files: Any, affine: np.ndarray, tmp_path: Path) -> Path:
    return write_masks(files, affine, tmp_path / "masks")


def write_masks(files: Any, affine: np.ndarray, folder: Path) -> Path:
    """Return masks of three studies: nothing found in A, two lesions in C, gland only in D; B was never looked at."""
    two = np.zeros(files.shape, np.uint8)
    two[1:3, 1, 4], two[5, 6:8, 1] = 1, 1
    gland = np.zeros(files.shape, np.uint8)
    gland[1:7, 1:8] = 1
    for name, labels in (("A/lesions", two * 0), ("C/lesions", two), ("C/gland", gland), ("D/gland", gland)):
        files.nifti(folder / f"{name}.nii.gz", labels, affine)
    return folder


def build(dicom: Path, output: Path, *, masks_dir: Path | None = None, **options: Any) -> BuildResult:
    studies = DicomCohort(dicom, dicom / "labels.csv", masks_dir=masks_dir)
    return build_manifest(studies, CohortPlan(output, test_share=0.5, **options))


def stored(manifest: Manifest, folder: Path, study: str, kind: str = "lesions") -> np.ndarray | None:
    file = getattr(next(one for one in manifest.studies if one.id == study), kind)
    return None if file is None else np.asarray(nib.load(folder / file.path).dataobj)


def test_the_order_of_axes_of_a_file_does_not_count(files: Any, masks: Path, study: StudyVolumes) -> None:
    labels = np.asarray(nib.load(masks / "C" / "lesions.nii.gz").dataobj)
    first = masks_in(masks / "C").read(study).labels["lesions"]
    assert np.unique(first).tolist() == [0, 1, 2]
    for codes in ("RAS", "SPL", "AIR"):
        turn = nib.orientations.ornt_transform(nib.io_orientation(study.t2.affine_ras_mm), axcodes2ornt(codes))
        affine = study.t2.affine_ras_mm @ inv_ornt_aff(turn, labels.shape)
        files.nifti(masks / "C" / "lesions.nii.gz", apply_orientation(labels, turn), affine)
        np.testing.assert_array_equal(masks_in(masks / "C").read(study).labels["lesions"], first)


def test_labels_of_another_grid_are_those_of_the_nearest_voxel() -> None:
    """Compared with scipy's nearest neighbour, label by label; nothing is interpolated."""
    random = np.random.default_rng(0)
    turn = nib.eulerangles.euler2mat(0.1, 0.05, 0.2)
    fine, coarse = np.diag([0.9, 0.9, 3.0, 1.0]), np.eye(4)
    coarse[:3, :3], coarse[:3, 3] = turn @ np.diag([2.1, 2.1, 2.7]), (1.03, -2.1, 0.4)
    labels = random.integers(0, 5, (12, 12, 9)).astype(np.float32)
    reference = Volume(np.empty((20, 22, 6), np.float32), fine)
    found = resample_labels(Volume(labels, coarse), reference=reference).voxels
    index = np.indices(reference.voxels.shape).reshape(3, -1)
    places = (np.linalg.inv(coarse) @ fine @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    inside = ((places > -0.499) & (places < np.array(labels.shape)[:, None] - 0.501)).all(axis=0)
    clear = (np.abs(places % 1 - 0.5) > 1e-3).all(axis=0) & inside
    for label in range(5):
        nearest = map_coordinates((labels == label).astype(np.uint8), places, order=0, mode="nearest")
        np.testing.assert_array_equal(found.ravel()[clear] == label, nearest[clear].astype(bool))


def test_a_manifest_holds_the_masks_on_the_grid_of_t2(built: Path) -> None:
    manifest, folder = read_manifest(built), built.parent
    assert (manifest.schema_version, manifest.refused_masks) == (3, ())
    assert check_files(manifest, built) == check_masks(manifest, built) == []
    a, b, c, d = ({kind: stored(manifest, folder, name, kind) for kind in ("lesions", "gland")} for name in "ABCD")
    assert not a["lesions"].any()
    assert a["gland"] is b["lesions"] is b["gland"] is d["lesions"] is None
    # the first by (k, j, i) is the one of the lower slice
    assert np.argwhere(c["lesions"] == 1).tolist() == [[5, 6, 1], [5, 7, 1]]
    assert np.argwhere(c["lesions"] == 2).tolist() == [[1, 1, 4], [2, 1, 4]]
    assert c["gland"].sum() == d["gland"].sum() == 6 * 7 * 6
    for study in manifest.studies:
        for file in filter(None, (study.lesions, study.gland)):
            image, t2 = nib.load(folder / file.path), nib.load(folder / study.t2.path)
            np.testing.assert_array_equal(image.affine, t2.affine)
            assert (image.shape, image.get_data_dtype()) == (t2.shape, np.uint8)


def test_masks_change_nothing_of_the_volumes_and_a_cohort_without_them_is_what_it_was(
    dicom: Path, masks: Path, tmp_path: Path
) -> None:
    plain = build(dicom, tmp_path / "c.json").manifest
    assert plain.schema_version == 1
    text = (tmp_path / "c.json").read_text()
    assert not any(word in text for word in ("lesions", "gland", "masks"))
    assert "masks" not in json.loads((tmp_path / "c" / "A" / "study.json").read_text())
    with_masks = build(dicom, tmp_path / "c.json", masks_dir=masks, overwrite=True).manifest
    volumes = [[(one.id, one.t2, one.dwi, one.split) for one in cohort.studies] for cohort in (plain, with_masks)]
    assert volumes[0] == volumes[1]
    build(dicom, tmp_path / "c.json", overwrite=True)
    assert (tmp_path / "c.json").read_text() == text


def test_only_what_changed_is_read_again(
    dicom: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(dicom, tmp_path / "c.json", masks_dir=masks)
    read: list[str] = []
    original = DicomStudy.read
    monkeypatch.setattr(DicomStudy, "read", lambda self: read.append(self.folder.name) or original(self))
    (masks / "C" / "gland.nii.gz").unlink()
    second = build(dicom, tmp_path / "c.json", masks_dir=masks, overwrite=True).manifest
    assert read == ["C"]
    assert [one.gland is None for one in second.studies] == [True, True, True, False]
    (tmp_path / "c" / "D" / "gland.nii.gz").write_bytes(b"changed")
    build(dicom, tmp_path / "c.json", masks_dir=masks, overwrite=True)
    assert read == ["C", "D"]


Spoil = Callable[[Any, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def shifted(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask, affine + np.array([[0, 0, 0, 0.2]] + [[0] * 4] * 3)


def other_spacing(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask, affine @ np.diag([1.05, 1, 1, 1])


def other_size(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask[:-1], affine


def mirrored(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask, affine @ np.diag([-1, 1, 1, 1])


def smoothed(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask * np.float32(0.5), affine


def negative(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask * np.int16(-1), affine


def too_high(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return mask * np.int16(256), affine


def no_number(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(mask > 0, np.nan, 0).astype(np.float32), affine


def several(mask: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([mask, mask], axis=-1), affine


BAD_MASKS: dict[Callable[..., Any], tuple[str, str]] = {
    shifted: ("other_geometry", "grid of T2 to 0.1 mm, got corners 0.20 mm apart"),
    other_spacing: ("other_geometry", "corners 0.70 mm apart"),
    other_size: ("other_geometry", r"\(7, 9, 6\) voxels of 2.00 x 2.00 x 3.00 mm against \(8, 9, 6\)"),
    mirrored: ("other_geometry", "corners 14.00 mm apart"),
    smoothed: ("bad_labels", "whole numbers from 0 to 255, got 0.5 in"),
    negative: ("bad_labels", "got -1 in"),
    too_high: ("bad_labels", "got 256 in"),
    no_number: ("undecodable_pixels", "must be numbers"),
    several: ("other_dimensions", "one volume, got 2"),
}


@pytest.mark.parametrize("kind", ["lesions", "gland"])
@pytest.mark.parametrize("spoil", BAD_MASKS)
def test_a_bad_mask_is_refused_by_file_and_value_and_the_other_is_kept(
    files: Any, masks: Path, study: StudyVolumes, spoil: Any, kind: str
) -> None:
    file = masks / "C" / f"{kind}.nii.gz"
    files.nifti(file, *spoil(np.asarray(nib.load(file).dataobj), study.t2.affine_ras_mm))
    found = masks_in(masks / "C").read(study)
    code, message = BAD_MASKS[spoil]
    assert (set(found.labels), set(found.refused)) == ({"lesions", "gland"} - {kind}, {kind})
    refused = found.refused[kind]
    assert refused.code == code
    assert file.name in refused.reason
    assert str(masks) not in refused.reason
    assert re.search(message, refused.reason), refused.reason


def test_an_empty_gland_and_a_damaged_file_are_refused(
    files: Any, dicom: Path, masks: Path, affine: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.nifti(masks / "C" / "gland.nii.gz", np.zeros(files.shape, np.uint8), affine)
    path = masks / "C" / "lesions.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    arguments = [str(dicom), "--labels", str(dicom / "labels.csv"), "--output", str(tmp_path / "c.json")]
    arguments += ["--masks", str(masks), "--test-share", "0.5", "--workers", "1"]
    assert main(["manifest", "build", *arguments]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"4 studies: {tmp_path / 'c.json'}"
    assert said[1].startswith("refused lesions of C (truncated): image files must be whole, got lesions.nii.gz")
    assert said[2].startswith("refused gland of C (empty_gland): a gland mask must hold the gland, got no voxel")
    assert said[3] == "1 studies have a map of lesions, 1 one of the gland"
    assert main(["manifest", "build", *arguments, "--overwrite", "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["lesions"], summary["gland"], len(summary["refused_masks"])) == (1, 1, 2)
    assert main(["manifest", "check", str(tmp_path / "c.json")]) == 0


def test_lesions_against_the_label_are_refused_unless_the_cohort_says_otherwise(
    files: Any, dicom: Path, masks: Path, affine: np.ndarray, tmp_path: Path
) -> None:
    lesions = np.zeros(files.shape, np.uint8)
    files.nifti(masks / "D" / "lesions.nii.gz", lesions, affine)  # of a positive
    lesions[2, 2, 2] = 3
    files.nifti(masks / "A" / "lesions.nii.gz", lesions, affine)  # of a negative
    refused = build(dicom, tmp_path / "c.json", masks_dir=masks).manifest
    assert [(one.id, one.mask, one.code) for one in refused.refused_masks] == [
        (name, "lesions", "contradictory_labels") for name in "AD"
    ]
    assert "got 1 with label 0" in refused.refused_masks[0].reason
    assert "got 0 with label 1" in refused.refused_masks[1].reason
    assert [stored(refused, tmp_path, name) is None for name in "ABCD"] == [True, True, False, True]
    kept = build(dicom, tmp_path / "k.json", masks_dir=masks, lesions_make_label=False).manifest
    assert (kept.refused_masks, kept.lesions_make_label) == ((), False)
    assert np.unique(stored(kept, tmp_path, "A")).tolist() == [0, 3]
    assert check_masks(kept, tmp_path / "k.json") == []
    strict = kept.model_copy(update={"lesions_make_label": True})
    assert [fault.split(":")[0] for fault in check_masks(strict, tmp_path / "k.json")] == ["study A", "study D"]


def test_two_files_for_one_mask_and_a_folder_without_any_are_named(
    files: Any, dicom: Path, masks: Path, affine: np.ndarray, tmp_path: Path
) -> None:
    files.nifti(masks / "C" / "lesions.nii", np.zeros(files.shape, np.uint8), affine)
    with pytest.raises(ManifestError, match=r"one file of a mask, got lesions\.nii\.gz and lesions\.nii in .*C"):
        build(dicom, tmp_path / "c.json", masks_dir=masks)
    with pytest.raises(
        ManifestError, match=r"masks must be ID/lesions\.nii\.gz, ID/gland\.nii\.gz or SEG of a study, got none in"
    ):
        build(dicom, tmp_path / "c.json", masks_dir=dicom)
    assert not (tmp_path / "c.json").exists()


def swap(manifest: Manifest, folder: Path, study: str, kind: str, labels: np.ndarray, affine: np.ndarray) -> Manifest:
    """Put another mask in the place of one, with its checksum, as a hand might do."""
    record = next(one for one in manifest.studies if one.id == study)
    path = folder / record.gland.path.replace("gland", kind)
    nib.save(nib.Nifti1Image(labels, affine), path)
    file = record.gland.model_copy(update={"path": str(path.relative_to(folder)), "sha256": sha256_of_file(path)})
    changed = record.model_copy(update={kind: file})
    studies = tuple(changed if one.id == study else one for one in manifest.studies)
    return manifest.model_copy(update={"studies": studies})


def test_check_reads_masks_that_a_hand_changed(
    files: Any, dicom: Path, masks: Path, affine: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = build(dicom, tmp_path / "c.json", masks_dir=masks).manifest
    ones = np.ones(files.shape, np.uint8)
    turned = ones[::-1], affine @ np.diag([-1.0, 1, 1, 1]) + np.outer([1, 1, 1, 0], [0, 0, 0, 7]) * affine[:, :1]
    cases = {
        "whole numbers from 0 to 255, got 0.25 in": (ones * np.float32(0.25), affine),
        "got no voxel in": (ones * 0, affine),
        "axes of T2 in their order, got corners 14.00 mm apart": turned,
        r"\(8, 9, 5\) voxels": (ones[:, :, :5], affine),
    }
    for message, (labels, place) in cases.items():
        changed = swap(manifest, tmp_path, "C", "gland", labels, place)
        assert check_files(changed, tmp_path / "c.json") == []
        (fault,) = check_masks(changed, tmp_path / "c.json")
        assert re.search(f"gland of study C.*{message}", fault), fault
    write_manifest(changed, tmp_path / "c.json")
    assert main(["manifest", "check", str(tmp_path / "c.json")]) == 2
    assert "gland of study C" in capsys.readouterr().err


FAULTS: dict[str, dict[str, Any]] = {
    "schema_version must be 3 for masks, got 1": {"schema_version": 1},
    "schema_version must be 1 for b_values_s_per_mm2, got 3": {"masks": False},
    "refused_masks must be of studies that lack them, got gland of 'C'": {"refused": "C"},
    "refused_masks must be of studies that lack them, got gland of 'Z'": {"refused": "Z"},
    "lesions_make_label must be left out of a cohort without masks": {
        "masks": False,
        "schema_version": 1,
        "lesions_make_label": False,
    },
}


@pytest.mark.parametrize("message", FAULTS)
def test_a_manifest_that_contradicts_itself_is_refused(built: Path, tmp_path: Path, message: str) -> None:
    content = json.loads(built.read_text())
    change = dict(FAULTS[message])
    if not change.pop("masks", True):
        content["studies"] = [
            {k: v for k, v in one.items() if k not in ("lesions", "gland")} for one in content["studies"]
        ]
    if "refused" in change:
        row = {"id": change.pop("refused"), "mask": "gland", "code": "bad_labels", "reason": "r"}
        content["refused_masks"] = [row]
    (tmp_path / "c.json").write_text(json.dumps(content | change))
    with pytest.raises(ManifestError, match=re.escape(message)):
        read_manifest(tmp_path / "c.json")
