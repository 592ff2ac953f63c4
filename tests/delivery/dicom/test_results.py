"""Segments, map and 3D report of lesions: where each voxel lies in the patient, for T2 in every manner of writing."""

import re
import shutil
import subprocess
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom.results import report_objects
from prostate_alm.imaging.segmentation import segmentation_files
from prostate_alm.imaging.study import explain_study

NOON = datetime(2030, 1, 2, 12, 0, 0)
TILT_DEG = np.deg2rad(17.0)
TILT = np.array(
    [[1, 0, 0], [0, np.cos(TILT_DEG), -np.sin(TILT_DEG)], [0, np.sin(TILT_DEG), np.cos(TILT_DEG)]]
) @ np.array([[np.cos(TILT_DEG), -np.sin(TILT_DEG), 0], [np.sin(TILT_DEG), np.cos(TILT_DEG), 0], [0, 0, 1]])


def placed(image: Dataset, axes: NDArray[np.float64]) -> None:
    """Turn an image about the middle of the patient: rows, columns and normal of the result are those of `axes`."""
    cosines = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
    frame = np.vstack([cosines, np.cross(*cosines)])  # rows: along a row, down a column, normal
    turn = axes @ frame  # of patient to patient, axes given in columns
    image.ImageOrientationPatient = [round(one, 9) for one in (turn @ cosines.T).T.ravel()]
    image.ImagePositionPatient = [round(one, 6) for one in turn @ np.array(image.ImagePositionPatient, dtype=float)]


def axial(image: Dataset) -> None:
    placed(image, np.eye(3))


def oblique(image: Dataset) -> None:
    placed(image, TILT)


def reversed_order(image: Dataset) -> None:
    """Count the slices from the other end."""
    image.InstanceNumber = 1000 - image.InstanceNumber


def seen_from_above(image: Dataset) -> None:
    """Turn the image over: columns run from right to left, the normal towards the feet."""
    cosines = np.array(image.ImageOrientationPatient, dtype=float).reshape(2, 3)
    width_mm = (image.Columns - 1) * image.PixelSpacing[1]
    image.ImagePositionPatient = (np.array(image.ImagePositionPatient, dtype=float) + cosines[0] * width_mm).tolist()
    image.ImageOrientationPatient = [*-cosines[0], *cosines[1]]
    image.PixelData = np.ascontiguousarray(image.pixel_array[:, ::-1]).tobytes()


MANNERS = {"axial": axial, "oblique": oblique, "reversed": reversed_order, "from above": seen_from_above}


@dataclass(frozen=True)
class Written:
    """A study whose T2 is written in some manner, and what was made of it."""

    folder: Path
    result: Any
    objects: dict[Any, Dataset]


@pytest.fixture(scope="module", params=[*MANNERS, "multi-frame"])
def written(
    request: pytest.FixtureRequest, images: list[Dataset], tmp_path_factory: pytest.TempPathFactory, samples: Any
) -> Written:
    """Return the study in each manner; the frames of the multi-frame one run from the last slice to the first."""
    folder = tmp_path_factory.mktemp("written")
    changed = [deepcopy(one) for one in images]
    for one in changed:
        MANNERS.get(request.param, lambda _: None)(one)
    if request.param == "multi-frame":
        t2 = [one for one in changed if one.SeriesNumber == 3]
        changed = [samples.multi_frame(t2[::-1]), *(one for one in changed if one.SeriesNumber != 3)]
    for number, one in enumerate(changed):
        one.save_as(folder / f"{number:03d}", enforce_file_format=True)
    result = samples.with_lesions(folder)
    return Written(folder, result, report_objects(result))


def places_mm(made: Dataset, frame: Dataset) -> NDArray[np.float64]:
    """Return where the pixels of a frame lie, (rows, columns, 3), by its own words: PS3.3 C.7.6.2.1.1."""
    shared = made.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    down = np.arange(made.Rows)[:, None, None] * between_rows * cosines[3:]
    along = np.arange(made.Columns)[None, :, None] * between_columns * cosines[:3]
    return corner + down + along


def sorted_mm(places: NDArray[np.float64]) -> NDArray[np.float64]:
    rounded = np.round(places, 2) + 0.0
    return rounded[np.lexsort(rounded.T)]


def found_mm(result: Any, number: int) -> NDArray[np.float64]:
    """Return where the voxels of a candidate lie, (N, 3)."""
    voxels = np.argwhere(result.lesions.labels == number)
    places: NDArray[np.float64] = voxels @ result.lesions.affine_lps[:3, :3].T + result.lesions.affine_lps[:3, 3]
    return places


def test_segments_cover_the_patient_where_the_findings_do(written: Written, tmp_path: Path, samples: Any) -> None:
    result = written.result
    path = samples.save(written.objects["seg"], tmp_path / "seg.dcm")
    made = pydicom.dcmread(path)
    assert [one.SegmentLabel for one in made.SegmentSequence] == [
        "Lesion candidate 1, probability 0.83",
        "Lesion candidate 2, probability 0.41",
    ]
    covered: dict[int, list[NDArray[np.float64]]] = {1: [], 2: []}
    for frame, pixels in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array, strict=True):
        number = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        covered[number].append(places_mm(made, frame)[pixels > 0])
    for number, places in covered.items():
        np.testing.assert_allclose(sorted_mm(np.concatenate(places)), sorted_mm(found_mm(result, number)), atol=0.02)
    assert [line for line in samples.complaints(path) if line.startswith("Error")] == []


def test_each_frame_lies_on_the_image_that_it_names(written: Written) -> None:
    images = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, written.folder.iterdir())}
    for made in (written.objects[kind] for kind in ("seg", "map")):
        for frame in made.PerFrameFunctionalGroupsSequence:
            (source,) = frame.DerivationImageSequence[0].SourceImageSequence
            image = images[source.ReferencedSOPInstanceUID]
            assert image.SOPClassUID == source.ReferencedSOPClassUID
            assert ("ReferencedFrameNumber" in source) == ("NumberOfFrames" in image)
            if "NumberOfFrames" in image:
                (image,) = image.PerFrameFunctionalGroupsSequence[
                    source.ReferencedFrameNumber - 1
                ].PlanePositionSequence
            ours = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            np.testing.assert_allclose(ours, np.array(image.ImagePositionPatient, dtype=float), atol=1e-6)
        named = [one.ReferencedSOPInstanceUID for one in made.ReferencedSeriesSequence[0].ReferencedInstanceSequence]
        assert len(named) == len(set(named))
        assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == images[named[0]].SeriesInstanceUID


def test_the_map_holds_the_probability_at_its_place(written: Written, tmp_path: Path, samples: Any) -> None:
    result = written.result
    path = samples.save(written.objects["map"], tmp_path / "map.dcm")
    made = highdicom.imread(path)
    volume = made.get_volume(apply_real_world_transform=True)
    inverse = np.linalg.inv(result.lesions.affine_lps)
    voxels = np.argwhere(np.ones(volume.spatial_shape, bool))[::37]
    at = np.column_stack([voxels, np.ones(len(voxels))]) @ volume.affine.T @ inverse.T
    theirs = volume.array[tuple(voxels.T)]
    ours = result.lesions.probability[tuple(np.rint(at[:, :3]).astype(int).T)]
    np.testing.assert_allclose(theirs, ours, atol=6e-5)  # four decimals are kept
    assert theirs.max() > 0.2
    assert [line for line in samples.complaints(path) if line.startswith("Error")] == []


def test_the_report_says_where_lesions_are_and_viewers_can_go_there(
    written: Written, tmp_path: Path, samples: Any
) -> None:
    result, made = written.result, written.objects
    path = samples.save(made["sr"], tmp_path / "sr.dcm")
    assert samples.complaints(path) == []
    report = highdicom.sr.srread(path)
    assert isinstance(report, highdicom.sr.Comprehensive3DSR)
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == 2
    frames = {one.FrameOfReferenceUID for one in map(pydicom.dcmread, written.folder.iterdir())}
    segments = made["seg"].SegmentSequence
    for group, one, segment in zip(groups, result.lesions.candidates, segments, strict=True):
        np.testing.assert_allclose(group.roi.value, [one.position_mm], atol=1e-3)
        assert group.roi.frame_of_reference_uid in frames
        assert (group.tracking_uid, group.tracking_identifier) == (segment.TrackingUID, segment.TrackingID)
        assert [(site.value.meaning, site.laterality.meaning) for site in group.finding_sites] == [
            ("Prostate", (one.side or "").capitalize())
        ]
        numbers = {number.name.meaning: number for number in group.get_measurements()}
        assert numbers["Probability"].value == pytest.approx(one.probability)
        assert numbers["Volume"].value == pytest.approx(one.volume_mm3, abs=0.1)
        rings = [item.value for item in numbers["Volume"][0].ContentSequence if item.value_type.value == "SCOORD3D"]
        area_mm2 = sum(area_of(ring) for ring in rings)
        gap_mm = float(np.linalg.norm(result.lesions.affine_lps[:3, 2]))
        assert area_mm2 * gap_mm == pytest.approx(one.volume_mm3, rel=1e-3)  # Cavalieri


def area_of(ring: NDArray[np.float64]) -> float:
    """Return the area of a flat polygon in space."""
    return float(np.linalg.norm(np.cross(ring[:-1], ring[1:]).sum(0)) / 2)


@pytest.mark.skipif(shutil.which("dsr2html") is None, reason="dcmtk is not installed")
def test_dcmtk_shows_names_and_values_of_candidates(study: Path, tmp_path: Path, samples: Any) -> None:
    result = samples.with_lesions(study)
    path = samples.save(report_objects(result)["sr"], tmp_path / "sr.dcm")
    page = subprocess.run(["dsr2html", str(path)], capture_output=True, text=True, check=True).stdout
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    x, y, z = result.lesions.candidates[0].position_mm
    for words in (
        "lesion candidates: 2, the surest with probability 0.83",
        'Tracking Identifier = "Lesion candidate 1, probability 0.83"',
        "Probability: 0.41",
        f"x {x:.1f}, y {y:.1f}, z {z:.1f} mm",
        "Laterality = Right",
    ):
        assert words in text, text


def test_all_objects_are_the_same_each_time_and_follow_the_findings(study: Path, tmp_path: Path, samples: Any) -> None:
    result = samples.with_lesions(study)
    first, again = report_objects(result, created_at=NOON), report_objects(result, created_at=NOON)
    assert set(first) == {"sr", "seg", "map"}
    assert len({one.SeriesInstanceUID for one in first.values()}) == 3
    fewer = replace(result.lesions, candidates=result.lesions.candidates[:1], labels=result.lesions.labels % 2)
    other = report_objects(replace(result, lesions=fewer), created_at=NOON)
    for kind, made in first.items():
        one = samples.save(made, tmp_path / "one").read_bytes()
        assert one == samples.save(again[kind], tmp_path / "other").read_bytes()
        assert other[kind].SeriesInstanceUID == made.SeriesInstanceUID
        assert (other[kind].SOPInstanceUID == made.SOPInstanceUID) == (kind == "map")


def test_without_a_candidate_there_are_no_segments_and_the_report_says_so(
    study: Path, tmp_path: Path, samples: Any
) -> None:
    result = samples.with_lesions(study)
    none = replace(result.lesions, candidates=(), labels=np.zeros_like(result.lesions.labels))
    made = report_objects(replace(result, lesions=none))
    assert set(made) == {"sr", "map"}
    path = samples.save(made["sr"], tmp_path / "sr.dcm")
    assert samples.complaints(path) == []
    (summary,) = [one for one in made["sr"].ContentSequence if "Positive at" in one.get("TextValue", "")]
    assert "lesion candidates: none" in summary.TextValue
    report = highdicom.sr.srread(path)
    assert isinstance(report, highdicom.sr.ComprehensiveSR)  # a group without a place ends OHIF 3.13 in a 3D report
    assert report.content.get_planar_roi_measurement_groups() == []


def test_what_came_back_is_not_taken_for_an_image_of_the_study(study: Path, tmp_path: Path, samples: Any) -> None:
    folder = shutil.copytree(study, tmp_path / "study")
    result = samples.with_lesions(folder)
    made = report_objects(result)
    for kind, one in made.items():
        samples.save(one, folder / kind)
    assert list(segmentation_files(folder)) == []  # no truth to train on
    used = [one.uid for one in explain_study(folder).used]
    assert used == [one.uid for one in explain_study(study).used]
    assert report_objects(samples.with_lesions(folder))["sr"].SOPInstanceUID == made["sr"].SOPInstanceUID
