"""Voxels: order and affine as dcm2niix writes them, fits as a loop gives them, resampling as scipy does it."""

import pickle
import random
import subprocess
from pathlib import Path

import dcm2niix
import nibabel
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.folder import read_series
from prostate_alm.imaging.volume import (
    ADC_RANGE_MM2_PER_S,
    Volume,
    adc_map_mm2_per_s,
    harmonise,
    load_study,
    load_volume,
    resample,
)

AFFINE_TOLERANCE_MM = 1e-3


def _dcm2niix(folder: Path, output: Path) -> Path:
    """Convert a folder to NIfTI, one file per series, named by number."""
    output.mkdir()
    command = [dcm2niix.bin, "-f", "%s", "-z", "n", "-b", "n", "-o", str(output), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return output


def _agree(volume: Volume, path: Path, *, index: int | None = None) -> None:
    """Require the voxels and the affine of a NIfTI file."""
    oracle = nibabel.load(path)
    voxels = np.asarray(oracle.dataobj)
    np.testing.assert_array_equal(volume.voxels, voxels if index is None else voxels[..., index])
    np.testing.assert_allclose(volume.affine_ras_mm, oracle.affine, atol=AFFINE_TOLERANCE_MM)


def _rotated(seed: int) -> list[float]:
    """Return the cosines of a random plane."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return [float(f"{value:.9g}") for value in matrix[:, :2].T.ravel()]


ORIENTATIONS = {
    2: {},
    3: {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
    4: {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]},
    5: {"gap_mm": -3.0},  # acquired from head to feet
    6: {"PixelSpacing": [0.5, 0.75], "origin_mm": (12.5, -80.25, 31.0)},
    **{number: {"ImageOrientationPatient": _rotated(number)} for number in (7, 8, 9, 10)},
    11: {"RescaleSlope": 2.5, "RescaleIntercept": -10.0},
}


def test_synthetic_stacks_agree_with_dcm2niix(build, tmp_path):
    images = [image for number, changes in ORIENTATIONS.items() for image in build.series(number, **changes)]
    random.Random(0).shuffle(images)
    folder = build.save(tmp_path / "dicom", images)
    output = _dcm2niix(folder, tmp_path / "nifti")
    for series in read_series(folder):
        _agree(load_volume(series), output / f"{series.number}.nii")


def test_the_real_study_agrees_with_dcm2niix(real_study, tmp_path):
    output = _dcm2niix(real_study, tmp_path / "nifti")
    by_number = {one.number: one for one in read_series(real_study)}
    for number in (3, 4, 5, 6, 8, 9, 10):
        _agree(load_volume(by_number[number]), output / f"{number}.nii")
    for index, b_value in enumerate((50.0, 400.0, 800.0)):
        _agree(load_volume(by_number[7], b_value_s_per_mm2=b_value), output / "7.nii", index=index)


def test_a_position_in_space_keeps_its_signal(build, written):
    """The affine sends the voxel of each stored pixel to the point that DICOM C.7.6.2.1.1 gives for it."""
    images = build.series(2, ImageOrientationPatient=_rotated(3), PixelSpacing=[0.5, 0.75])
    volume = load_volume(read_series(written(images))[0])
    inverse = np.linalg.inv(volume.affine_ras_mm)
    for image in images[::2]:
        cosines = np.array(image.ImageOrientationPatient, float)
        for row, column in ((0, 0), (3, 1), (7, 9)):
            lps = np.array(image.ImagePositionPatient, float)
            lps = lps + cosines[:3] * column * 0.75 + cosines[3:] * row * 0.5
            voxel = inverse @ np.array([-lps[0], -lps[1], lps[2], 1.0])
            i, j, k = np.round(voxel[:3]).astype(int)
            np.testing.assert_allclose(voxel[:3], (i, j, k), atol=1e-5)
            assert volume.voxels[i, j, k] == image.pixel_array[row, column]


def test_a_study_becomes_volumes_on_the_t2_grid(build, written):
    study = load_study(written(build.study()), b_values_s_per_mm2=(50.0, 600.0, 803.0))
    assert study.t2.voxels.shape == (10, 8, 6)
    assert [one.voxels.shape for one in study.dwi] == [(10, 8, 6)] * 3
    assert all(one.affine_ras_mm is study.t2.affine_ras_mm for one in study.dwi)
    assert {one.voxels.dtype for one in (study.t2, *study.dwi)} == {np.dtype("float32")}
    assert study.b_values_s_per_mm2 == (50.0, 600.0, 803.0)
    assert study.b_values_acquired_s_per_mm2 == (50.0, 400.0, 800.0)
    assert study.b_values_computed == (False, True, False)
    assert study.selection.t2.number == 2


def test_an_acquired_b_value_is_used_untouched_and_others_follow_the_known_decay(build, written):
    """The signal falls with a known ADC, stored as integers: computed images may differ by their rounding."""
    grid = {"shape": (8, 8), "PixelSpacing": [1.0, 1.0], "origin_mm": (-4.0, -4.0, 0.0)}
    base = np.random.default_rng(0).integers(2000, 4000, (8, 8))
    decay = {b: np.round(base * np.exp(-b * build.adc_mm2_per_s)) for b in (50.0, 400.0, 800.0)}
    dwi = build.diffusion(3, signal=lambda index, b: decay[b], **grid)
    study = load_study(written(build.series(2, **grid) + dwi), b_values_s_per_mm2=(800.0, 600.0, 1000.0))
    (series,) = [one.series for one in study.selection.dwi]
    np.testing.assert_array_equal(study.dwi[0].voxels, load_volume(series, b_value_s_per_mm2=800.0).voxels)
    for volume, b_value in zip(study.dwi[1:], (600.0, 1000.0), strict=True):
        expected = (base * np.exp(-b_value * build.adc_mm2_per_s))[::-1].T
        np.testing.assert_allclose(volume.voxels, np.repeat(expected[:, :, None], 6, axis=2), atol=1.5)


def test_the_fit_equals_a_line_fitted_in_every_voxel():
    b_values = [50.0, 400.0, 800.0, 1000.0]
    rng = np.random.default_rng(1)
    true_adc = rng.uniform(0.5e-3, 2.5e-3, (4, 3, 2))
    signals = [1000 * np.exp(-b * true_adc) * rng.uniform(0.9, 1.1, true_adc.shape) for b in b_values]
    adc, s0 = adc_map_mm2_per_s([one.astype(np.float32) for one in signals], b_values)
    for voxel in np.ndindex(true_adc.shape):
        slope, intercept = np.polyfit(b_values, [np.log(one[voxel]) for one in signals], 1)
        assert adc[voxel] == pytest.approx(-slope, rel=1e-4)
        assert s0[voxel] == pytest.approx(np.exp(intercept), rel=1e-4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 4000, width=32), min_size=3, max_size=3), st.floats(0, 3000))
def test_the_fit_stays_finite_and_within_its_range(signal, wanted):
    volumes = [Volume(np.full((1, 1, 1), value, np.float32), np.eye(4)) for value in signal]
    adc, s0 = adc_map_mm2_per_s([one.voxels for one in volumes], (50.0, 400.0, 800.0))
    low, high = ADC_RANGE_MM2_PER_S
    assert np.float32(low) <= adc.item() <= np.float32(high)
    assert np.isfinite(s0.item())
    ((computed,), _) = harmonise(volumes, (50.0, 400.0, 800.0), b_values_s_per_mm2=(wanted,))
    assert np.isfinite(computed.voxels).all()
    assert (computed.voxels >= 0).all()


@pytest.mark.parametrize(("offset", "is_computed"), [(0.0, False), (5.0, False), (5.1, True)])
def test_the_tolerance_of_an_acquired_b_value_has_two_closed_ends(offset, is_computed):
    volumes = [Volume(np.full((1, 1, 1), value, np.float32), np.eye(4)) for value in (100, 50)]
    for wanted in (800.0 - offset, 800.0 + offset):
        (volume,), flags = harmonise(volumes, (50.0, 800.0), b_values_s_per_mm2=(wanted,))
        assert flags == (is_computed,)
        assert (volume is volumes[1]) is not is_computed


def test_wrong_b_values_are_the_callers_fault(build, written):
    with pytest.raises(ValueError, match="b-values must be two distinct ones or more, got"):
        adc_map_mm2_per_s([np.ones(3, np.float32)] * 2, [800.0, 800.0])
    with pytest.raises(ValueError, match=r"b-values must be >= 0, got \[-1.0\]"):
        load_study(written(build.study()), b_values_s_per_mm2=(-1.0,))


def test_the_vendors_adc_map_is_derivable_from_the_real_study(real_study):
    by_number = {one.number: one for one in read_series(real_study)}
    b_values = (50.0, 400.0, 800.0)
    signals = [load_volume(by_number[7], b_value_s_per_mm2=b).voxels for b in b_values]
    adc, _ = adc_map_mm2_per_s(signals, b_values)
    vendor = load_volume(by_number[8]).voxels * 1e-6
    assert np.corrcoef(adc[vendor > 0], vendor[vendor > 0])[0, 1] > 0.999


def _grid(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Return an affine near the origin with a small rotation and realistic spacing."""
    angle = rng.uniform(-0.2, 0.2)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(rng.uniform(0.8, 1.5, 3) * [-1, 1, 1])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    return affine


def test_resampling_equals_linear_interpolation_in_world_coordinates():
    rng = np.random.default_rng(2)
    moving = Volume(rng.uniform(0, 1000, (14, 12, 10)).astype(np.float32), _grid(rng, (14, 12, 10)))
    fixed = Volume(np.zeros((9, 8, 7), np.float32), _grid(rng, (9, 8, 7)))
    to_moving = np.linalg.inv(moving.affine_ras_mm) @ fixed.affine_ras_mm
    voxels = np.stack(np.meshgrid(*map(np.arange, fixed.voxels.shape), indexing="ij")).reshape(3, -1)
    coordinates = to_moving[:3, :3] @ voxels + to_moving[:3, 3:]
    expected = scipy.ndimage.map_coordinates(moving.voxels, coordinates, order=1).reshape(fixed.voxels.shape)
    limits = np.array(moving.voxels.shape)[:, None] - 1
    inside = ((coordinates >= 0) & (coordinates <= limits)).all(axis=0).reshape(fixed.voxels.shape)
    found = resample(moving, reference=fixed)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(found.voxels[inside], expected[inside], atol=0.01)
    np.testing.assert_array_equal(found.affine_ras_mm, fixed.affine_ras_mm)


def test_outside_the_field_of_view_diffusion_is_zero(build, written):
    wide = build.series(2, shape=(40, 40), origin_mm=(-10.0, -10.0, 0.0))
    study = load_study(written(wide + build.diffusion(3)))
    assert (study.dwi[0].voxels == 0).any()
    assert (study.dwi[0].voxels > 0).any()


def test_a_refused_study_raises_its_code_and_reason(build, written, tmp_path):
    folder = written(build.series(2))
    with pytest.raises(StudyRefused) as caught:
        load_study(folder)
    assert caught.value.code == "no_diffusion"
    assert caught.value.reason in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.code, copy.reason, str(copy)) == (caught.value.code, caught.value.reason, str(caught.value))


def test_a_series_of_several_b_values_is_never_one_volume(build, written):
    series = read_series(written(build.diffusion(3)))[0]
    with pytest.raises(StudyRefused, match="repeated_slice: each position must occur once"):
        load_volume(series)
    with pytest.raises(StudyRefused, match="no_geometry"):
        load_volume(series, b_value_s_per_mm2=123.0)


def test_pixels_that_no_decoder_knows_are_refused(build, written):
    images = build.study()
    for image in images:
        image.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00junk"
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"  # JPEG-LS
    with pytest.raises(StudyRefused, match="undecodable_pixels: pixel data must be decodable, got"):
        load_study(written(images))


def test_unused_bits_and_signs_are_read_as_pydicom_reads_them(build, written):
    images = build.series(2)
    for image in images:
        values = np.frombuffer(image.PixelData, "<u2") | 0x7000  # an overlay in the unused bits
        image.PixelData, image.PixelRepresentation = values.astype("<u2").tobytes(), 1
    volume = load_volume(read_series(written(images))[0])
    for index, image in enumerate(images):
        np.testing.assert_array_equal(volume.voxels[:, :, index], image.pixel_array[::-1].T)
    assert (volume.voxels < 0).any()


def test_philips_scale_slope_makes_series_comparable(build, written):
    """FP = (SV RS + RI) / (RS SS), Chenevert et al., Transl Oncol 2014."""
    images = build.series(2, RescaleSlope=2.0, RescaleIntercept=4.0)
    for image in images:
        image.add_new((0x2005, 0x0010), "LO", "Philips MR Imaging DD 001")
        image.add_new((0x2005, 0x100E), "FL", 0.5)
    volume = load_volume(read_series(written(images))[0])
    stored = images[0].pixel_array[::-1].T
    np.testing.assert_allclose(volume.voxels[:, :, 0], (stored * 2.0 + 4.0) / (2.0 * 0.5), rtol=1e-6)
