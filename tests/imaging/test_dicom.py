"""Headers to series: any names, any order, any encoding; what is no image is left out and remembered."""

import random
from dataclasses import FrozenInstanceError
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    RLELossless,
)

from prostate_alm.imaging.folder import read_folder, read_series
from prostate_alm.imaging.volume import load_volume


def test_headers_become_frozen_series(build, written):
    (t2, dwi) = read_series(written(build.study()))
    assert (t2.number, t2.uid, t2.description, t2.modality) == (2, build.uid("study 2"), "t2_tse_tra", "MR")
    assert (t2.field_strength_t, t2.manufacturer, t2.body_part) == (3.0, "TEST", "")
    assert (len(t2.instances), len(dwi.instances)) == (6, 18)
    first = t2.instances[0]
    assert (first.rows, first.columns, first.pixel_spacing_mm) == (8, 10, (0.5, 0.5))
    assert first.position_mm == (-5.0, -4.0, 0.0)
    assert (first.echo_time_ms, first.repetition_time_ms, first.acquired_at) == (104, 5000, "20240102100200.000000")
    assert dwi.b_values_s_per_mm2 == (50.0, 400.0, 800.0)
    with pytest.raises(FrozenInstanceError):
        t2.number = 3


def test_names_folders_and_order_of_files_do_not_matter(build, tmp_path):
    images = build.study()
    expected = [repr((one, one.instances)) for one in read_series(build.save(tmp_path / "a", images))]
    random.Random(0).shuffle(images)
    for index, image in enumerate(images):
        folder = tmp_path / "b" / f"deep{index % 3}" / ("x" * (index % 2))
        folder.mkdir(parents=True, exist_ok=True)
        image.save_as(folder / f"{random.Random(index).random()}.weird name", enforce_file_format=True)
    assert [repr((one, one.instances)) for one in read_series(tmp_path / "b")] == expected


def test_copies_of_an_object_count_once_and_whole_ones_win(build, tmp_path):
    folder = build.save(tmp_path, build.study())
    for name in ("0000", "0003"):
        whole = (folder / name).read_bytes()
        (folder / f"{name} copy").write_bytes(whole)
        (folder / f"0 {name} broken").write_bytes(whole[:-20])
    series = read_series(folder)
    assert [len(one.instances) for one in series] == [6, 18]
    assert all(image.pixels.is_complete for one in series for image in one.instances)


def test_other_files_are_skipped_and_remembered(build, tmp_path):
    folder = build.save(tmp_path, build.study())
    (folder / "empty.dcm").touch()
    (folder / "notes.txt").write_text("no image")
    (folder / "long.dcm").write_bytes(b"x" * 1000)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "nowhere").symlink_to(folder / "missing")
    found = read_folder(folder)
    assert [len(one.instances) for one in found.series] == [6, 18]
    assert [(str(one.path), one.reason, one.code) for one in found.skipped] == [
        ("loop", "a linked folder is not followed", ""),
        ("empty.dcm", "empty", ""),
        ("long.dcm", "not DICOM", ""),
        ("notes.txt", "not DICOM", ""),
        ("nowhere", "neither file nor folder", ""),
    ]


def test_a_directory_record_is_no_image(build, tmp_path):
    record = build.series(1)[0]
    record.SOPClassUID = MediaStorageDirectoryStorage
    (skipped,) = read_folder(build.save(tmp_path, [record])).skipped
    assert "DICOMDIR" in skipped.reason
    assert not skipped.code


@pytest.mark.parametrize("size", [0, 100, 131, 132, 140, 200, 300, 340, 400, 500, 600, 700, 900, 1000, 1100])
def test_a_file_cut_anywhere_is_told_from_a_whole_one(build, tmp_path, size):
    path = build.save(tmp_path, build.series(1)[:1]) / "0000"
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    found = read_folder(tmp_path)
    if size < 132:  # no magic word yet
        assert [one.code for one in found.skipped] == [""]
    elif found.skipped:
        assert [one.code for one in found.skipped] == ["truncated"]
    else:
        assert size > len(whole) - 160  # within the pixels
        assert not found.series[0].instances[0].pixels.is_complete
    assert len(whole) > 1100


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless]
)
def test_every_encoding_gives_the_same_series_and_voxels(build, tmp_path, syntax):
    images = build.series(2)
    expected = load_volume(read_series(build.save(tmp_path / "plain", images))[0])
    for image in images:
        _encode(image, syntax)
    (series,) = read_series(build.save(tmp_path / "other", images))
    found = load_volume(series)
    assert (found.voxels == expected.voxels).all()
    assert (found.affine_ras_mm == expected.affine_ras_mm).all()
    assert all(one.pixels.is_complete for one in series.instances)


def _encode(image: Dataset, syntax: str) -> None:
    """Re-encode an image in place."""
    if syntax == RLELossless:
        image.compress(RLELossless, generate_instance_uid=False)
    elif syntax == ExplicitVRBigEndian:
        image.PixelData = image.pixel_array.astype(">u2").tobytes()
    image.file_meta.TransferSyntaxUID = syntax


def test_compressed_pixels_that_break_off_are_noticed(build, tmp_path):
    image = build.series(2)[0]
    image.compress(RLELossless, generate_instance_uid=False)
    path = build.save(tmp_path, [image]) / "0000"
    path.write_bytes(path.read_bytes()[:-30])
    assert not read_series(tmp_path)[0].instances[0].pixels.is_complete


def test_an_enhanced_object_gives_one_instance_per_frame(build, tmp_path):
    frames = build.diffusion(3)
    (classic,) = read_series(build.save(tmp_path / "classic", frames))
    (enhanced,) = read_series(build.save(tmp_path / "enhanced", [build.enhanced(frames)]))
    assert enhanced.b_values_s_per_mm2 == (50.0, 400.0, 800.0)
    for b_value in enhanced.b_values_s_per_mm2:
        expected = load_volume(classic, b_value_s_per_mm2=b_value)
        found = load_volume(enhanced, b_value_s_per_mm2=b_value)
        assert (found.voxels == expected.voxels).all()
        assert (found.affine_ras_mm == expected.affine_ras_mm).all()


def test_identifiers_and_paths_do_not_show(build, tmp_path):
    series = read_series(build.save(tmp_path / "Secret^Name", build.study()))
    shown = repr(series) + repr([one.instances for one in series])
    assert "secret" not in shown.lower()
    assert str(tmp_path) not in shown


def test_a_path_that_is_no_folder_is_the_callers_fault(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="study must be an existing folder"):
        read_series(tmp_path / "missing")
    with pytest.raises(NotADirectoryError, match="study must be a folder of DICOM files"):
        read_series(tmp_path / "file")


def test_odd_values_in_a_header_do_not_stop_the_reading(build, tmp_path):
    image = build.series(2)[0]
    path = build.save(tmp_path, [image]) / "0000"
    path.write_bytes(path.read_bytes().replace(b"104.0", b"1O4,0"))  # no number
    (series,) = read_series(tmp_path)
    assert series.instances[0].echo_time_ms is None


def test_the_real_study_has_eleven_series(real_study: Path):
    found = read_folder(real_study)
    assert [one.number for one in found.series] == list(range(1, 12))
    assert sum(len(one.instances) for one in found.series) == 212
    assert found.skipped == ()
    path = found.series[6].instances[0].pixels.path
    oracle = pydicom.dcmread(path)
    assert found.series[6].instances[0].position_mm == tuple(oracle.ImagePositionPatient)
