"""One synthetic study in memory: what is drawn for the patient and the scanner, and the volumes that come of it."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prostate_alm.phantom.anatomy import Anatomy, draw_anatomy
from prostate_alm.phantom.protocol import (
    DIFFUSION_ECHO_TIME_MS,
    T2_ECHO_TIME_MS,
    Protocol,
    draw_protocol,
)
from prostate_alm.phantom.reader import (
    DEFAULT_DIFFICULTY,
    DEFAULT_LESIONS,
    Verdict,
    check_difficulty,
    draw_verdict,
    label_of,
)
from prostate_alm.phantom.render import (
    DIFFUSION_PROPERTIES,
    SPIN_ECHO_PROPERTIES,
    Array,
    Grid,
    Matrix,
    TissueMaps,
    block_mean,
    centred_grid,
    finer,
    render,
)
from prostate_alm.phantom.signal import add_rician_noise, diffusion_signal, fit_adc, spin_echo

COMPUTED_B_VALUE_S_PER_MM2 = 1400.0
T2_NOISE = 0.012  # of the signal of pure water at TE = 0
DIFFUSION_NOISE = 0.006
ADC_UNIT_MM2_PER_S = 1e-6
T2_SCALE, DIFFUSION_SCALE = 1500.0, 900.0  # stored value of pure water at TE = 0, b = 0 and a gain of 1
MAXIMUM_PIXEL = 4095
IMAGE_DIFFICULTY_MAX = 3.0
DEFAULT_B_VALUES_S_PER_MM2 = (100.0, 600.0, 1000.0)
# Directions of columns, rows and slices in the patient's frame, one a row.
AXIAL = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
CORONAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
SAGITTAL = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class StoredVolume:
    """Stored pixels (slices, rows, columns) on a grid in the patient's frame (LPS, mm)."""

    pixels: NDArray[np.uint16]
    grid: Grid


@dataclass(frozen=True)
class StudyPlan:
    """All that is drawn for one study before anything is rendered.

    `centre_mm` is the gland's centre in the patient's frame (LPS); `gland_axes` and `image_axes` hold the
    directions of the gland and of the axial series, one a row.
    """

    identifier: str
    uid_key: str
    b_values_s_per_mm2: tuple[float, ...]
    verdict: Verdict
    anatomy: Anatomy
    protocol: Protocol
    centre_mm: Matrix
    gland_axes: Matrix
    image_axes: Matrix
    t2_centre_mm: Matrix
    diffusion_centre_mm: Matrix
    gain: float
    noise_seed: tuple[int, int]

    @property
    def label(self) -> int:
        """1 where the reader asks for contrast."""
        return self.verdict.label

    @property
    def lesion_centre_mm(self) -> Matrix | None:
        """The lesion's centre in the patient's frame, or None without a lesion."""
        lesion = self.anatomy.lesion
        if lesion is None:
            return None
        return np.asarray(self.centre_mm + np.array(lesion.centre_mm) @ self.gland_axes, dtype=np.float64)

    def in_gland(self, grid: Grid) -> Grid:
        """Return the same grid in the gland's frame."""
        origin = self.gland_axes @ (grid.origin_mm - self.centre_mm)
        return Grid(origin, grid.steps_mm @ self.gland_axes.T, grid.shape)


@dataclass(frozen=True)
class DiffusionVolumes:
    """One volume for each b-value, the ADC map in 1e-6 mm2/s, the computed high-b volume; all on one grid.

    `maps` holds the noiseless tissue maps there, with `gland_share`, the prostate's share of every voxel.
    """

    traces: tuple[StoredVolume, ...]
    adc: StoredVolume
    computed: StoredVolume
    maps: TissueMaps


@dataclass(frozen=True)
class PhantomStudy:
    """One study in memory: its plan with the truth, and the volumes as they will be stored."""

    plan: StudyPlan
    t2: StoredVolume
    sagittal: StoredVolume
    localizer: tuple[StoredVolume, ...]
    diffusion: DiffusionVolumes


@dataclass(frozen=True)
class PhantomParameters:
    """What determines the studies of a synthetic cohort, beside their numbers.

    Args:
        seed: seed of the cohort, >= 0.
        difficulty: 0 (plain) to 1 (barely possible); to 3 where the reader has a difficulty of its own.
        reader_difficulty: that of the reader alone, 0 to 1, where it is another than that of the images.
        lesions: separate, far from what a reader might doubt, or graded, of every conspicuity.
        positive_share: share of label 1, strictly between 0 and 1.
        b_values_s_per_mm2: at least two, rising, within [0, 5000].
    """

    seed: int = 0
    difficulty: float = DEFAULT_DIFFICULTY
    reader_difficulty: float | None = None
    lesions: str = DEFAULT_LESIONS
    positive_share: float = 0.3
    b_values_s_per_mm2: tuple[float, ...] = DEFAULT_B_VALUES_S_PER_MM2

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as `cohort.json` holds them: rarer ones only where they are chosen."""
        reader = {} if self.reader_difficulty is None else {"reader_difficulty": float(self.reader_difficulty)}
        return {
            "seed": self.seed,
            "difficulty": float(self.difficulty),
            "positive_share": float(self.positive_share),
            "b_values_s_per_mm2": tuple(float(value) for value in self.b_values_s_per_mm2),
            **(reader if self.lesions == DEFAULT_LESIONS else reader | {"lesions": self.lesions}),
        }


def plan_study(index: int, **parameters: Any) -> StudyPlan:
    """Draw patient, reader's verdict and scanner of one study, in about 2 ms.

    Args:
        index: number of the study, from 1; its id is PHANTOM-0001 for 1.
        **parameters: see `PhantomParameters`.

    Returns:
        The plan; the same arguments give the same plan.

    Raises:
        ValueError: for a parameter out of range.

    >>> [plan_study(index).label for index in range(1, 11)].count(1)
    3
    """
    given = PhantomParameters(**parameters)
    seed, difficulty, lesions = given.seed, given.difficulty, given.lesions
    b_values = _check_b_values(given.b_values_s_per_mm2)
    of_reader = _check_difficulties(difficulty, given.reader_difficulty)
    label = label_of(index, seed=seed, positive_share=given.positive_share)
    streams = np.random.SeedSequence(entropy=seed, spawn_key=(index,)).spawn(5)
    of_verdict, of_anatomy, of_frame, of_protocol = (np.random.default_rng(stream) for stream in streams[:4])
    verdict = draw_verdict(label, of_verdict, difficulty=of_reader, lesions=lesions)
    rarer = "" if given.reader_difficulty is None else f"/{float(given.reader_difficulty)}"
    rarer += "" if lesions == DEFAULT_LESIONS else f"/{lesions}"
    return StudyPlan(
        identifier=f"PHANTOM-{index:04d}",
        uid_key=f"{seed}/{index}/{float(difficulty)}{rarer}/{float(given.positive_share)}/{b_values}",
        b_values_s_per_mm2=b_values,
        verdict=verdict,
        anatomy=draw_anatomy(verdict, of_anatomy, difficulty=difficulty),
        protocol=draw_protocol(of_protocol),
        gain=float(np.random.default_rng(streams[4]).uniform(0.6, 1.5)),
        noise_seed=(seed, index),
        **_draw_frame(of_frame),
    )


def make_study(index: int, *, protocol: Protocol | None = None, **parameters: Any) -> PhantomStudy:
    """Draw one synthetic study and render its volumes.

    S_T2 = PD exp(-TE / T2) and S_b = PD exp(-TE / T2) exp(-b ADC), averaged over each voxel, with Rician noise.

    Args:
        index: number of the study, from 1; its id is PHANTOM-0001 for 1.
        protocol: how the study is written; drawn from the seed where it is None.
        **parameters: see `PhantomParameters`.

    Raises:
        ValueError: for a parameter out of range.

    >>> study = make_study(1, seed=0)
    >>> study.plan.identifier, len(study.diffusion.traces), study.t2.pixels.dtype.name
    ('PHANTOM-0001', 3, 'uint16')
    """
    plan = plan_study(index, **parameters)
    return render_study(plan if protocol is None else replace(plan, protocol=protocol))


def render_study(plan: StudyPlan) -> PhantomStudy:
    """Render the volumes of a plan, each with its own noise and one gain of the scanner.

    Args:
        plan: what `plan_study` drew.

    Returns:
        The study; the same plan gives the same pixels.

    """
    return PhantomStudy(
        plan=plan,
        t2=_t2_axial(plan),
        sagittal=_sagittal(plan),
        localizer=_localizer(plan),
        diffusion=render_diffusion(plan),
    )


def render_diffusion(plan: StudyPlan) -> DiffusionVolumes:
    """Render the diffusion volumes of a plan alone; they are those of `render_study`.

    Args:
        plan: what `plan_study` drew.

    >>> len(render_diffusion(plan_study(1)).traces)
    3
    """
    grid = centred_grid(plan.diffusion_centre_mm, plan.image_axes, spacing_mm=(2.0, 2.0, 3.0), shape=(20, 72, 96))
    b_values = plan.b_values_s_per_mm2
    maps, signals = _diffusion_signals(plan, grid, _noise(plan, 0))
    adc = fit_adc(signals, b_values)
    computed = signals[0] * np.exp(-np.float32(COMPUTED_B_VALUE_S_PER_MM2 - b_values[0]) * adc)
    measured = signals[0] > 6 * DIFFUSION_NOISE  # scanners blank the ADC map where there is only noise
    scale = np.float32(DIFFUSION_SCALE * plan.gain)
    return DiffusionVolumes(
        traces=tuple(StoredVolume(_stored(signal * scale), grid) for signal in signals),
        adc=StoredVolume(_stored(adc * measured / np.float32(ADC_UNIT_MM2_PER_S)), grid),
        computed=StoredVolume(_stored(computed * scale), grid),
        maps=maps,
    )


def _noise(plan: StudyPlan, series: int) -> np.random.Generator:
    """Return the noise of one series; each has its own, so that any can be rendered without the others."""
    return np.random.default_rng([*plan.noise_seed, series])


def _check_difficulties(difficulty: float, reader_difficulty: float | None) -> float:
    """Return the reader's difficulty; images may be harder than any reader, who would only guess beyond 1."""
    if reader_difficulty is None:
        return check_difficulty(difficulty)
    if not 0.0 <= difficulty <= IMAGE_DIFFICULTY_MAX:
        raise ValueError(
            f"difficulty must be within [0, {IMAGE_DIFFICULTY_MAX:g}] beside a reader_difficulty, got {difficulty} in "
            "the phantom's parameters. 2 hides most equivocal lesions."
        )
    return check_difficulty(reader_difficulty)


def _check_b_values(b_values_s_per_mm2: tuple[float, ...]) -> tuple[float, ...]:
    values = tuple(float(value) for value in b_values_s_per_mm2)
    rising = all(low < high for low, high in pairwise(values))
    if len(values) < 2 or not rising or values[0] < 0 or values[-1] > 5000:
        raise ValueError(
            f"b_values_s_per_mm2 must be at least two rising numbers within [0, 5000], got {values} "
            "in the phantom's parameters. The paper's are 100, 600, 1000."
        )
    return values


def _draw_frame(rng: np.random.Generator) -> dict[str, Matrix]:
    centre_mm = rng.uniform((-12.0, -45.0, -60.0), (12.0, 15.0, 40.0))
    tilt_deg = float(rng.uniform(6.0, 23.0))
    gland_tilt_deg = tilt_deg + float(rng.uniform(-3.0, 3.0))  # the technologist's plane is never exact
    image_axes = _axial_axes(tilt_deg, turn_deg=float(rng.uniform(-3.0, 3.0)))
    offset_mm = rng.uniform((-6.0, -7.0, -3.5), (6.0, 7.0, 3.5))
    shift_mm = rng.uniform((-8.0, -6.0, 0.0), (8.0, 6.0, 0.0))
    if float(rng.uniform()) < 0.5:  # the two stacks share their slice positions in half of the studies
        shift_mm[2] = float(rng.uniform(-1.5, 1.5))
    return {
        "centre_mm": centre_mm,
        "gland_axes": _axial_axes(gland_tilt_deg, turn_deg=0.0),
        "image_axes": image_axes,
        "t2_centre_mm": centre_mm + offset_mm @ image_axes,
        "diffusion_centre_mm": centre_mm + (offset_mm + shift_mm) @ image_axes,
    }


def _axial_axes(tilt_deg: float, *, turn_deg: float) -> Matrix:
    """Directions of columns, rows and slices of an axial plane that is tilted about x and turned about its normal."""
    tilt, turn = np.deg2rad(tilt_deg), np.deg2rad(turn_deg)
    left = np.array([1.0, 0.0, 0.0])
    back = np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    along_columns = np.cos(turn) * left + np.sin(turn) * back
    along_rows = np.cos(turn) * back - np.sin(turn) * left
    return np.stack([along_columns, along_rows, np.cross(left, back)])


def _diffusion_signals(plan: StudyPlan, grid: Grid, rng: np.random.Generator) -> tuple[TissueMaps, list[Array]]:
    parts = (2, 2, 2)
    fine = render(plan.anatomy, finer(plan.in_gland(grid), parts), properties=DIFFUSION_PROPERTIES)
    signals = []
    for b_value in plan.b_values_s_per_mm2:
        clean = block_mean(diffusion_signal(fine, b_value, echo_time_ms=DIFFUSION_ECHO_TIME_MS), parts)
        signals.append(add_rician_noise(clean, DIFFUSION_NOISE, rng))
    coarse = {name: block_mean(values, parts) for name, values in fine.items()}
    return coarse, signals


def _t2_volume(plan: StudyPlan, grid: Grid, rng: np.random.Generator, *, slice_parts: int = 1) -> StoredVolume:
    parts = (slice_parts, 1, 1)
    maps = render(plan.anatomy, finer(plan.in_gland(grid), parts), properties=SPIN_ECHO_PROPERTIES)
    signal = block_mean(spin_echo(maps, echo_time_ms=T2_ECHO_TIME_MS), parts) * _coil_shading(grid, rng)
    noisy = add_rician_noise(signal, T2_NOISE, rng)
    return StoredVolume(_stored(noisy * np.float32(T2_SCALE * plan.gain)), grid)


def _coil_shading(grid: Grid, rng: np.random.Generator) -> Array:
    """Return a slowly varying sensitivity: a plane and a bowl, about +-25 % over the field of view."""
    slices, rows, columns = (np.linspace(-1, 1, n, dtype=np.float32) for n in grid.shape)
    slope = rng.uniform(-0.12, 0.12, size=3).astype(np.float32)
    bowl = np.float32(rng.uniform(0.0, 0.20))
    plane = slope[0] * columns[None, None, :] + slope[1] * rows[None, :, None] + slope[2] * slices[:, None, None]
    return np.asarray(1.0 + plane + bowl * (rows[None, :, None] ** 2 - 0.3), dtype=np.float32)


def t2_grid(plan: StudyPlan) -> Grid:
    """Return the grid of the axial T2 in the patient's frame."""
    return centred_grid(plan.t2_centre_mm, plan.image_axes, spacing_mm=(0.9, 0.9, 3.0), shape=(20, 176, 176))


def _t2_axial(plan: StudyPlan) -> StoredVolume:
    return _t2_volume(plan, t2_grid(plan), _noise(plan, 1), slice_parts=2)


def _sagittal(plan: StudyPlan) -> StoredVolume:
    grid = centred_grid(plan.t2_centre_mm, SAGITTAL, spacing_mm=(1.25, 1.25, 4.0), shape=(13, 144, 144))
    return _t2_volume(plan, grid, _noise(plan, 2))


def _localizer(plan: StudyPlan) -> tuple[StoredVolume, ...]:
    rng = _noise(plan, 3)
    grids = [
        centred_grid(plan.t2_centre_mm, axes, spacing_mm=(4.5, 4.5, 12.0), shape=(3, 72, 72))
        for axes in (AXIAL, CORONAL, SAGITTAL)
    ]
    return tuple(_t2_volume(plan, grid, rng) for grid in grids)


def _stored(values: Array) -> NDArray[np.uint16]:
    return np.clip(np.rint(values), 0, MAXIMUM_PIXEL).astype(np.uint16)
