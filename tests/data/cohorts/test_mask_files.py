"""DICOM SEG: written by highdicom, read onto the grid of T2; refused where of another study or in contradiction."""

import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from scipy.ndimage import map_coordinates

from prostate_alm.data.build import CohortPlan, DicomCohort, build_manifest
from prostate_alm.data.cohorts.mask_files import Segmentations
from prostate_alm.data.manifest import Manifest
from prostate_alm.data.masks import StudyMasks, check_masks
from prostate_alm.imaging.volume import StudyVolumes, load_study

LESION, PROSTATE = codes.SCT.Lesion, codes.SCT.Prostate


@pytest.fixture(scope="module")
def dicom(files: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.dicom(tmp_path_factory.mktemp("dicom") / "A", seed=3)


@pytest.fixture(scope="module")
def study(dicom: Path) -> StudyVolumes:
    return load_study(dicom)


def t2_images(dicom: Path) -> list[pydicom.Dataset]:
    images = [pydicom.dcmread(path) for path in sorted((dicom / "3.000000-t2tsetra-1").iterdir())]
    for image in images:  # what a scanner writes and the tiny files of the tests lack
        for name in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"):
            setattr(image, name, "")
        image.PatientBirthDate = image.PatientSex = ""
    return images


def write_seg(
    path: Path,
    images: list[pydicom.Dataset],
    masks: dict[str, np.ndarray],
    *,
    types: dict[str, Any] | None = None,
    kind: str = "BINARY",
    number: int = 50,
) -> Path:
    """Write masks (I, J, K) of our order as one object; a segment has the code of its name, or the one in `types`."""
    meant = {name: PROSTATE if name == "gland" else LESION for name in masks} | (types or {})
    pixels = np.stack([mask[:, ::-1].transpose(2, 1, 0) for mask in masks.values()], axis=-1)  # rows are turned back
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Segmentation(
            source_images=images,
            pixel_array=pixels.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
            segmentation_type=kind,
            segment_descriptions=[
                SegmentDescription(index, name, codes.SCT.Organ, meant[name], SegmentAlgorithmTypeValues.MANUAL)
                for index, name in enumerate(masks, start=1)
            ],
            series_instance_uid=pydicom.uid.generate_uid(),
            series_number=number,
            sop_instance_uid=pydicom.uid.generate_uid(),
            instance_number=1,
            manufacturer="m",
            manufacturer_model_name="m",
            software_versions="1",
            device_serial_number="1",
        )
    made.save_as(path)
    return path


@pytest.fixture
def masks(files: Any) -> dict[str, np.ndarray]:
    """Return a gland and two lesions; the second lies below the first."""
    gland, one, two = (np.zeros(files.shape, np.uint8) for _ in range(3))
    gland[1:7, 1:8, 1:5], one[2:4, 3, 4], two[5, 2:4, 2] = 1, 1, 1
    return {"gland": gland, "lesion 1": one, "lesion 2": two}


def read(folder: Path, study: StudyVolumes) -> StudyMasks:
    return Segmentations(folder).read(study)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_become_labels_where_they_were_drawn(
    dicom: Path, study: StudyVolumes, masks: dict[str, np.ndarray], tmp_path: Path, kind: str
) -> None:
    if kind == "LABELMAP":  # a voxel has one label there
        masks["gland"] = masks["gland"] * (masks["lesion 1"] == 0) * (masks["lesion 2"] == 0)
    write_seg(tmp_path / "deep" / "in" / "IM_0001", t2_images(dicom), masks, kind=kind)
    (tmp_path / "notes.txt").write_text("no DICOM")
    found = read(tmp_path, study)
    assert found.refused == {}
    np.testing.assert_array_equal(found.labels["gland"], masks["gland"])
    np.testing.assert_array_equal(found.labels["lesions"], masks["lesion 1"] + 2 * masks["lesion 2"])


def test_parts_of_one_segment_are_lesions_of_their_own(
    dicom: Path, study: StudyVolumes, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    both = masks["lesion 1"] | masks["lesion 2"]
    write_seg(tmp_path / "one.dcm", t2_images(dicom), {"lesions": both})
    found = read(tmp_path, study)
    np.testing.assert_array_equal(found.labels["lesions"], masks["lesion 2"] + 2 * masks["lesion 1"])  # by slice
    assert "gland" not in found.labels


def test_a_segment_without_frames_says_that_nothing_was_found(
    dicom: Path, study: StudyVolumes, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    write_seg(tmp_path / "one.dcm", t2_images(dicom), {"gland": masks["gland"], "lesion": masks["gland"] * 0})
    found = read(tmp_path, study)
    assert found.refused == {}
    assert not found.labels["lesions"].any()


def test_a_mask_on_a_coarser_grid_is_brought_to_t2_by_the_nearest_voxel(
    files: Any, dicom: Path, study: StudyVolumes, tmp_path: Path
) -> None:
    images = t2_images(dicom)[1:5]
    for image in images:
        image.PixelSpacing, image.Rows, image.Columns = [3.0, 3.0], 6, 5
        x, y, z = image.ImagePositionPatient
        image.ImagePositionPatient = [x + 0.7, y + 0.4, z + 0.2]
    labels = np.random.default_rng(0).integers(0, 2, (5, 6, 4)).astype(np.uint8)
    write_seg(tmp_path / "one.dcm", images, {"gland": labels})
    found = read(tmp_path, study).labels["gland"]
    affine = np.diag([-3.0, 3.0, 3.0, 1.0])  # of `labels`, whose rows run from the last to the first
    affine[:3, 3] = 8.0 - 0.7, 9.0 - 0.4 - 15.0, 3.2
    index = np.indices(files.shape).reshape(3, -1)
    places = (np.linalg.inv(affine) @ study.t2.affine_ras_mm @ np.vstack([index, np.ones(index.shape[1])]))[:3]
    inside = ((places > -0.5) & (places < np.array(labels.shape)[:, None] - 0.5)).all(axis=0)
    clear = (np.abs(places % 1 - 0.5) > 1e-3).all(axis=0)
    wanted = map_coordinates(labels, np.rint(places), order=0) * inside
    np.testing.assert_array_equal(found.ravel()[clear], wanted[clear])
    assert 0 < wanted.sum() < wanted.size


def changed(path: Path, **values: Any) -> None:
    data = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(data, name, value)
    data.save_as(path)


def moved(path: Path, frame: int, shift_mm: tuple[float, float, float]) -> None:
    data = pydicom.dcmread(path)
    place = data.PerFrameFunctionalGroupsSequence[frame].PlanePositionSequence[0]
    place.ImagePositionPatient = [a + b for a, b in zip(place.ImagePositionPatient, shift_mm, strict=True)]
    data.save_as(path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def no_frames(path: Path) -> None:
    data = pydicom.dcmread(path)
    del data.PerFrameFunctionalGroupsSequence
    data.save_as(path)


def nowhere(path: Path) -> None:
    data = pydicom.dcmread(path)
    for groups in data.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence
    data.save_as(path)


BAD_FILES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "another study": (
        lambda p: changed(p, StudyInstanceUID="1.2.3"),
        "other_study",
        "another Study Instance UID in SEG of",
    ),
    "another frame": (
        lambda p: changed(p, FrameOfReferenceUID="1.2"),
        "other_frame_of_reference",
        "got another in SEG of",
    ),
    "no frame": (lambda p: changed(p, FrameOfReferenceUID=""), "other_frame_of_reference", "SEG of series 50"),
    "a frame aside": (lambda p: moved(p, 1, (1.0, 0.0, 0.0)), "uneven_slices", "got one 1.00 mm off"),
    "a frame between": (lambda p: moved(p, 1, (0.0, 0.0, 1.0)), "uneven_slices", "got one 1.00 mm off"),
    "a frame far away": (lambda p: moved(p, 0, (0.0, 0.0, 3e6)), "uneven_slices", "within 1000 slices"),
    "frames nowhere": (nowhere, "no_geometry", "got one that does not in SEG of series 50"),
    "no groups": (no_frames, "unexpected_error", "got AttributeError"),
    "truncated": (truncated, "undecodable_pixels", "in SEG of series 50"),
    "no type": (lambda p: changed(p, SegmentationType=""), "fractional_segmentation", "got no type in SEG"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_object_is_refused_with_its_series_and_no_name(
    dicom: Path, study: StudyVolumes, masks: dict[str, np.ndarray], tmp_path: Path, fault: str
) -> None:
    spoil, code, message = BAD_FILES[fault]
    spoil(write_seg(tmp_path / "Secret^Name.dcm", t2_images(dicom), masks))
    found = read(tmp_path, study)
    assert found.labels == {}
    assert {kind: error.code for kind, error in found.refused.items()} == dict.fromkeys(("lesions", "gland"), code)
    reason = found.refused["gland"].reason
    assert re.search(message, reason), reason
    assert "Secret" not in reason
    assert "\n" not in reason


def test_probabilities_and_unknown_segments_are_refused(
    dicom: Path, study: StudyVolumes, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    half = {"gland": masks["gland"] * np.float32(0.5)}
    write_seg(tmp_path / "a" / "one.dcm", t2_images(dicom), half, kind="FRACTIONAL")
    assert "BINARY or LABELMAP, got FRACTIONAL" in read(tmp_path / "a", study).refused["gland"].reason
    bladder = {"bladder": Code("89837001", "SCT", "Urinary bladder")}
    write_seg(tmp_path / "b" / "one.dcm", t2_images(dicom), {"bladder": masks["gland"]}, types=bladder)
    assert "lesion or the prostate, got 1 other segments" in read(tmp_path / "b", study).refused["lesions"].reason
    zone = {
        "peripheral zone of prostate": masks["gland"],
        "Index tumour": masks["lesion 1"],
        "Whole gland": masks["gland"],
    }
    write_seg(tmp_path / "c" / "one.dcm", t2_images(dicom), zone, types=dict.fromkeys(zone, codes.SCT.Organ))
    found = read(tmp_path / "c", study)  # by their labels; the zone is neither
    np.testing.assert_array_equal(found.labels["lesions"], masks["lesion 1"])
    np.testing.assert_array_equal(found.labels["gland"], masks["gland"])


def test_two_objects_must_say_the_same_of_what_both_hold(
    dicom: Path, study: StudyVolumes, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    images = t2_images(dicom)
    write_seg(tmp_path / "one.dcm", images, masks, number=50)
    write_seg(tmp_path / "two.dcm", images, {"gland": masks["gland"]}, number=51)
    assert read(tmp_path, study).refused == {}
    write_seg(tmp_path / "two.dcm", images, {"gland": masks["gland"], "lesion 1": masks["lesion 1"]}, number=51)
    found = read(tmp_path, study)
    assert set(found.labels) == {"gland"}
    assert found.refused["lesions"].code == "contradictory_masks"
    assert "got 2 voxels of lesions that differ between SEG of series 50 and SEG of series 51" in str(
        found.refused["lesions"]
    )
    write_seg(tmp_path / "two.dcm", images, {"gland": masks["lesion 1"]}, number=50)  # of one number, too
    assert read(tmp_path, study).refused["gland"].code == "contradictory_masks"


def test_lesions_that_share_voxels_or_leave_t2_are_refused(
    dicom: Path, study: StudyVolumes, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    masks["lesion 2"] = masks["lesion 1"]
    write_seg(tmp_path / "a" / "one.dcm", t2_images(dicom), masks)
    found = read(tmp_path / "a", study)
    assert set(found.labels) == {"gland"}
    assert "segments of lesions must not share voxels, got 2 in two of SEG" in found.refused["lesions"].reason
    images = t2_images(dicom)
    for image in images:
        image.ImagePositionPatient = [*image.ImagePositionPatient[:2], image.ImagePositionPatient[2] + 6.0]
    write_seg(tmp_path / "b" / "one.dcm", images, {"lesion": masks["lesion 1"]})
    assert (
        "T2 must show each lesion, got 2 voxels outside of lesion 1"
        in read(tmp_path / "b", study).refused["lesions"].reason
    )


def test_a_cohort_takes_the_segmentations_that_lie_in_its_studies(
    files: Any, masks: dict[str, np.ndarray], tmp_path: Path
) -> None:
    labels = {"A": 1, "B": 0, "C": 1, "D": 0}
    for seed, name in enumerate(labels):
        files.dicom(tmp_path / "dicom" / name, seed=seed)
    images = t2_images(tmp_path / "dicom" / "A")
    write_seg(tmp_path / "dicom" / "A" / "seg.dcm", images, masks)
    shutil.copy(tmp_path / "dicom" / "A" / "seg.dcm", tmp_path / "stray.dcm")
    table = files.rows(tmp_path / "labels.csv", [("id", "label"), *labels.items()])

    def built(name: str, masks_dir: Path | None = None) -> Manifest:
        studies = DicomCohort(tmp_path / "dicom", table, masks_dir=masks_dir)
        return build_manifest(studies, CohortPlan(tmp_path / name, test_share=0.5)).manifest

    plain = built("p.json")
    output = tmp_path / "c.json"
    manifest = built("c.json", tmp_path / "dicom")
    assert [one.t2.sha256 for one in manifest.studies] == [one.t2.sha256 for one in plain.studies]
    assert [one.lesions is not None for one in manifest.studies] == [True, False, False, False]
    assert check_masks(manifest, output) == []
    stored = np.asarray(nib.load(tmp_path / manifest.studies[0].lesions.path).dataobj)
    np.testing.assert_array_equal(stored, masks["lesion 1"] + 2 * masks["lesion 2"])
    (tmp_path / "masks" / "B").mkdir(parents=True)
    shutil.copy(tmp_path / "stray.dcm", tmp_path / "masks" / "B")  # the segmentation of another patient
    wrong = built("w.json", tmp_path / "masks")
    assert {(one.id, one.code) for one in wrong.refused_masks} == {("B", "other_study")}
    assert len(wrong.studies) == 4
