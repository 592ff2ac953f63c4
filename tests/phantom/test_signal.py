"""The physics: shapes against their volumes, signals against their formulas, noise against the Rice distribution."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from prostate_alm.phantom.anatomy import Anatomy, Structure, draw_anatomy, lesion_contrast
from prostate_alm.phantom.reader import Verdict
from prostate_alm.phantom.render import (
    DIFFUSION_PROPERTIES,
    SPIN_ECHO_PROPERTIES,
    TISSUES,
    Array,
    Grid,
    block_mean,
    centred_grid,
    finer,
    render,
)
from prostate_alm.phantom.signal import add_rician_noise, diffusion_signal, fit_adc, spin_echo

BODY = Structure("fat", (0.0, 0.0, 0.0), (150.0, 150.0, 150.0))
BALL = Structure("lesion", (1.0, -2.0, 3.0), (11.0, 7.0, 9.0), 25.0)


def _grid(spacing_mm: float = 1.0, *, tilt_deg: float = 0.0, voxels: int = 40) -> Grid:
    angle = math.radians(tilt_deg)
    axes = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    return centred_grid(np.zeros(3), axes, spacing_mm=(spacing_mm,) * 3, shape=(voxels, voxels, voxels))


def _share(structure: Structure, grid: Grid) -> Array:
    """Return the share of every voxel that a structure covers: it is the only one with proton density."""
    anatomy = Anatomy((replace(structure, tissue="urine"),), structure, None, 0)
    return render(anatomy, grid, properties=("proton_density",))["proton_density"]


@pytest.mark.parametrize("tilt_deg", [0.0, 20.0])
def test_painted_volume_is_that_of_the_ellipsoid(tilt_deg: float) -> None:
    painted_mm3 = float(_share(BALL, _grid(tilt_deg=tilt_deg)).sum(dtype=np.float64))
    assert painted_mm3 == pytest.approx(4 / 3 * math.pi * 11 * 7 * 9, rel=0.01)


def test_shell_has_the_volume_between_two_ellipsoids() -> None:
    sphere = Structure("muscle", (0.0, 0.0, 0.0), (15.0, 15.0, 15.0), shell_mm=4.0)
    painted_mm3 = float(_share(sphere, _grid()).sum(dtype=np.float64))
    assert painted_mm3 == pytest.approx(4 / 3 * math.pi * (15**3 - 11**3), rel=0.01)


def test_opacity_mixes_with_what_lies_below() -> None:
    anatomy = Anatomy((BODY, replace(BALL, opacity=0.25)), BALL, None, 0)
    adc = render(anatomy, _grid(), properties=("adc_um2_per_ms",))["adc_um2_per_ms"]
    expected = 0.75 * TISSUES["fat"].adc_um2_per_ms + 0.25 * TISSUES["lesion"].adc_um2_per_ms
    assert adc[22, 17, 20] == pytest.approx(expected, rel=1e-5)
    assert adc[0, 0, 0] == pytest.approx(TISSUES["fat"].adc_um2_per_ms, rel=1e-5)


def test_what_is_inside_the_gland_does_not_leave_it() -> None:
    lesion = replace(BALL, centre_mm=(9.0, 0.0, 0.0), inside_gland=True)
    gland = Structure("peripheral zone", (0.0, 0.0, 0.0), (12.0, 12.0, 12.0))
    maps = render(Anatomy((BODY, gland, lesion), gland, None, 0), _grid(), properties=("t2_ms",))
    outside = maps["gland_share"] == 0
    np.testing.assert_allclose(maps["t2_ms"][outside], TISSUES["fat"].t2_ms, rtol=1e-6)


def test_blocks_of_the_finer_grid_lie_at_the_voxels_of_the_coarser() -> None:
    grid = _grid(3.0, tilt_deg=15.0, voxels=5)
    fine = finer(grid, (2, 3, 1))
    places = [_places(one)[..., axis].astype(np.float32) for one in (grid, fine) for axis in range(3)]
    for coarse, divided in zip(places[:3], places[3:], strict=True):
        np.testing.assert_allclose(block_mean(divided, (2, 3, 1)), coarse, atol=1e-5)


def _places(grid: Grid) -> np.ndarray:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)[..., ::-1]
    return np.asarray(index @ grid.steps_mm + grid.origin_mm)


def test_partial_volume_mixes_signals() -> None:
    """A coarse voxel holds the mean of the signals of its parts, which differs from the signal of the mean ADC."""
    anatomy = Anatomy((BODY, replace(BALL, tissue="urine")), BALL, None, 0)
    coarse = centred_grid(np.zeros(3), np.eye(3), spacing_mm=(4.0, 4.0, 4.0), shape=(8, 8, 8))
    fine = render(anatomy, finer(coarse, (4, 4, 4)), properties=DIFFUSION_PROPERTIES)
    mean_of_signals = block_mean(diffusion_signal(fine, 1000.0, echo_time_ms=60.0), (4, 4, 4))
    naive = diffusion_signal(fine, 1000.0, echo_time_ms=60.0).reshape(8, 4, 8, 4, 8, 4).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(mean_of_signals, naive, rtol=1e-5)
    mixed = {name: block_mean(values, (4, 4, 4)) for name, values in fine.items()}
    assert np.abs(diffusion_signal(mixed, 1000.0, echo_time_ms=60.0) - mean_of_signals).max() > 1e-3


@pytest.mark.parametrize("tissue", ["peripheral zone", "lesion", "urine", "muscle"])
def test_signals_of_a_pure_tissue_follow_the_formulas(tissue: str) -> None:
    anatomy = Anatomy((replace(BODY, tissue=tissue),), BODY, None, 0)
    what = TISSUES[tissue]
    grid = _grid(voxels=2)
    spin = spin_echo(render(anatomy, grid, properties=SPIN_ECHO_PROPERTIES), echo_time_ms=101.0)
    assert spin[0, 0, 0] == pytest.approx(what.proton_density * math.exp(-101.0 / what.t2_ms), rel=1e-5)
    maps = render(anatomy, grid, properties=DIFFUSION_PROPERTIES)
    for b_value in (0.0, 100.0, 1000.0):
        decay = math.exp(-58.0 / what.t2_ms - b_value * what.adc_um2_per_ms * 1e-3)
        assert diffusion_signal(maps, b_value, echo_time_ms=58.0)[0, 0, 0] == pytest.approx(
            what.proton_density * what.water_share * decay, rel=1e-5
        )


@pytest.mark.parametrize("signal", [0.0, 0.5, 3.0, 20.0])
def test_noise_has_the_rice_distribution(signal: float) -> None:
    noisy = add_rician_noise(np.full(4000, signal, np.float32), 2.0, np.random.default_rng(3))
    assert stats.kstest(noisy, stats.rice(signal / 2.0, scale=2.0).cdf).pvalue > 0.01


def test_adc_is_the_slope_that_numpys_polyfit_finds() -> None:
    b_values = (50.0, 400.0, 800.0, 1200.0)
    signals = list(np.random.default_rng(4).uniform(0.05, 1.0, size=(4, 6)).astype(np.float32))
    slope = -np.polyfit(b_values, np.log(np.stack(signals)), deg=1)[0]
    np.testing.assert_allclose(fit_adc(signals, b_values), np.maximum(slope, 0), atol=1e-7)


def test_lesions_fade_with_difficulty_between_two_fixed_ends() -> None:
    contrasts = [lesion_contrast(0.6, difficulty=difficulty) for difficulty in (0.0, 0.25, 0.5, 1.0)]
    assert contrasts == sorted(contrasts, reverse=True)
    assert lesion_contrast(0.0, difficulty=0.5) == 0.0
    assert lesion_contrast(1.0, difficulty=0.5) == 1.0


def test_lesions_lie_mostly_inside_the_gland_and_kinds_differ_in_size() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        kind = "unmistakable" if seed % 2 else "equivocal"
        anatomy = draw_anatomy(Verdict(kind, 0.6, 0.6, 1), rng, difficulty=0.25)
        assert anatomy.lesion is not None
        assert anatomy.lesion.radius_mm > 10.0 if kind == "unmistakable" else anatomy.lesion.radius_mm < 9.0
        whole = _share(replace(anatomy.structures[-1], inside_gland=False, opacity=1.0), _grid(2.0, voxels=36))
        gland = _share(replace(anatomy.gland, opacity=1.0), _grid(2.0, voxels=36))
        assert float((whole * gland).sum()) > 0.5 * float(whole.sum())
