"""From an anatomy to what a scanner would measure: tissue maps on a grid, spin-echo and diffusion signal,
noise.

Every grid is rendered on a finer one (`oversampling`), the signal computed there and averaged over the voxel:
partial volume mixes signals, not relaxation times.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prostate_alm.imaging.phantom_anatomy import TISSUES, Anatomy, Structure

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
TEXTURE_STEP_MM = 2.6
TEXTURE_SHARE = {"peripheral zone": 0.10, "transition zone": 0.13}


@dataclass(frozen=True)
class Grid:
    """A stack of slices: voxel (k, j, i) lies at origin + i step[0] + j step[1] + k step[2].

    `origin_mm` (3,) is the centre of voxel (0, 0, 0); `steps_mm` (3, 3) holds one vector a row. Frame as the
    caller says: the patient's (LPS) or the gland's.
    """

    origin_mm: Matrix
    steps_mm: Matrix
    shape: tuple[int, int, int]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between columns, rows and slices."""
        lengths = np.linalg.norm(self.steps_mm, axis=1)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])


@dataclass(frozen=True)
class TissueMaps:
    """Proton density (0 to 1), its water share, T2 (ms), ADC (um2/ms), share of prostate; (slices, rows, columns)."""

    proton_density: Array
    water_share: Array
    t2_ms: Array
    adc_um2_per_ms: Array
    gland_share: Array


def centred_grid(
    centre_mm: Matrix, axes: Matrix, *, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int]
) -> Grid:
    """Return the grid whose middle is at a point.

    Args:
        centre_mm: the middle of the block of voxels, (3,).
        axes: unit vectors along columns, rows and slices, one a row, (3, 3).
        spacing_mm: distance between columns, rows and slices.
        shape: numbers of slices, rows and columns.

    Returns:
        The grid, in the frame of `centre_mm`.

    Reference:
        DICOM PS3.3 C.7.6.2.1.1.

    >>> centred_grid(np.zeros(3), np.eye(3), spacing_mm=(1.0, 1.0, 3.0), shape=(3, 5, 5)).origin_mm.tolist()
    [-2.0, -2.0, -3.0]
    """
    steps = axes * np.array(spacing_mm)[:, None]
    middle = (np.array(shape[::-1]) - 1) / 2.0
    return Grid(centre_mm - middle @ steps, steps, shape)


def finer(grid: Grid, oversampling: tuple[int, int, int]) -> Grid:
    """Return the grid that divides every voxel into oversampling (slices, rows, columns) parts.

    Args:
        grid: the grid to divide.
        oversampling: parts along slices, rows and columns, each >= 1.

    Returns:
        The finer grid; the means of its blocks lie at the voxels of `grid`.

    Reference:
        None needed: geometry.

    >>> coarse = centred_grid(np.zeros(3), np.eye(3), spacing_mm=(2.0, 2.0, 3.0), shape=(1, 1, 1))
    >>> finer(coarse, (1, 2, 2)).origin_mm.tolist()
    [-0.5, -0.5, 0.0]
    """
    parts = np.array(oversampling[::-1], dtype=np.float64)
    steps = grid.steps_mm / parts[:, None]
    shape = tuple(int(n * part) for n, part in zip(grid.shape, oversampling, strict=True))
    return Grid(grid.origin_mm - ((parts - 1) / 2) @ steps, steps, (shape[0], shape[1], shape[2]))


def block_mean(values: Array, oversampling: tuple[int, int, int]) -> Array:
    """Average blocks of a finer grid's values.

    Args:
        values: (slices, rows, columns) of the finer grid.
        oversampling: size of a block; divides the shape.

    Returns:
        The means, (slices, rows, columns) of the coarser grid.

    Reference:
        None needed: a mean.

    >>> block_mean(np.arange(4, dtype=np.float32).reshape(1, 2, 2), (1, 2, 2)).tolist()
    [[[1.5]]]
    """
    total = values
    for axis, parts in enumerate(oversampling):
        if parts > 1:
            pieces = [total[(slice(None),) * axis + (slice(start, None, parts),)] for start in range(parts)]
            total = sum(pieces[1:], start=pieces[0]) / np.float32(parts)
    return total


def render(anatomy: Anatomy, grid: Grid) -> TissueMaps:
    """Paint an anatomy on a grid given in the gland's frame.

    Args:
        anatomy: structures in painting order.
        grid: where to paint; the edges of structures are as soft as a voxel is wide.

    Returns:
        The tissue maps; air where nothing is.

    Reference:
        `docs/phantom.md`, the section on physics.
    """
    air = TISSUES["air"]
    maps = TissueMaps(
        proton_density=np.full(grid.shape, air.proton_density, np.float32),
        water_share=np.full(grid.shape, air.water_share, np.float32),
        t2_ms=np.full(grid.shape, air.t2_ms, np.float32),
        adc_um2_per_ms=np.full(grid.shape, air.adc_um2_per_ms, np.float32),
        gland_share=np.zeros(grid.shape, np.float32),
    )
    for structure in anatomy.structures:
        _paint(structure, grid, maps, anatomy=anatomy)
    return maps


def _paint(structure: Structure, grid: Grid, maps: TissueMaps, *, anatomy: Anatomy) -> None:
    box = _box(structure, grid)
    if box is None:
        return
    cover = _cover(structure, grid, box)
    if structure is anatomy.gland:
        maps.gland_share[box] = cover
    if structure.inside_gland:
        cover = cover * maps.gland_share[box]
    cover *= np.float32(structure.opacity)
    tissue = TISSUES[structure.tissue]
    texture: Array | np.float32 = np.float32(1.0)
    if structure.tissue in TEXTURE_SHARE:
        texture = 1.0 + np.float32(TEXTURE_SHARE[structure.tissue]) * _texture(grid, box, anatomy.texture_seed)
    for field, value in (
        (maps.proton_density, np.float32(tissue.proton_density)),
        (maps.water_share, np.float32(tissue.water_share)),
        (maps.t2_ms, np.float32(tissue.t2_ms) * texture),
        (maps.adc_um2_per_ms, np.float32(tissue.adc_um2_per_ms) * texture),
    ):
        part = field[box]
        part += cover * (value - part)


def _box(structure: Structure, grid: Grid) -> tuple[slice, slice, slice] | None:
    """Index ranges that hold the structure, or None where it lies outside the grid."""
    a, b, c = structure.half_axes_mm
    bend = structure.bend_per_mm * a * a
    widen = 1.0 + abs(structure.taper)
    spacing = np.array(grid.spacing_mm)
    half = np.array([a * widen, b + abs(bend) * widen**2, c]) + 0.5 * (structure.soft_mm + float(spacing.max()))
    axes = grid.steps_mm / spacing[:, None]
    turned = _turn(axes, structure.rotation_deg)
    extent = np.linalg.norm(turned * half, axis=1)  # along columns, rows, slices
    middle = axes @ (np.array(structure.centre_mm) - grid.origin_mm)
    low = np.clip(np.floor((middle - extent) / spacing), 0, None).astype(int)
    high = np.minimum(np.ceil((middle + extent) / spacing).astype(int) + 1, grid.shape[::-1])
    if np.any(high <= low):
        return None
    return slice(low[2], high[2]), slice(low[1], high[1]), slice(low[0], high[0])


def _turn(vectors: Matrix, rotation_deg: float) -> Matrix:
    """Components of row vectors along axes rotated about z."""
    angle = np.deg2rad(rotation_deg)
    cosine, sine = np.cos(angle), np.sin(angle)
    x, y, z = vectors.T
    return np.stack([cosine * x + sine * y, cosine * y - sine * x, z], axis=1)


def _coordinates(grid: Grid, box: tuple[slice, slice, slice], origin_mm: Matrix, rotation_deg: float) -> list[Array]:
    """Coordinates x, y, z of the box's voxels, relative to a point and turned about z; each broadcasts to the box."""
    steps = _turn(grid.steps_mm, rotation_deg)
    start = _turn((grid.origin_mm - origin_mm)[None], rotation_deg)[0]
    along = [np.arange(part.start, part.stop, dtype=np.float64) for part in box]
    slices, rows, columns = along[0][:, None, None], along[1][None, :, None], along[2][None, None, :]
    result = []
    for axis in range(3):
        offset = start[axis] + slices * steps[2, axis] + rows * steps[1, axis]
        total = offset.astype(np.float32)
        if abs(steps[0, axis]) > 1e-9:
            total = total + (columns * steps[0, axis]).astype(np.float32)
        result.append(total)
    return result


def _cover(structure: Structure, grid: Grid, box: tuple[slice, slice, slice]) -> Array:
    """Share of every voxel that the structure covers: a ramp over its edge, by the first-order distance to
    the surface.

    distance = (q - 1) / |grad q| with q = sum (x_i / a_i)^2 (Taubin 1991).
    """
    x, y, z = _coordinates(grid, box, np.array(structure.centre_mm), structure.rotation_deg)
    a, b, c = (np.float32(value) for value in structure.half_axes_mm)
    if structure.taper:
        x = x / np.maximum(np.float32(0.3), 1.0 + np.float32(structure.taper) / c * z)
    if structure.bend_per_mm:
        y = y - np.float32(structure.bend_per_mm) * x * x
    squares = [x * x * (1 / a**2), y * y * (1 / b**2), z * z * (1 / c**2)]
    q = squares[0] + squares[1] + squares[2]
    slope = squares[0] * (1 / a**2) + squares[1] * (1 / b**2) + squares[2] * (1 / c**2)
    edge_mm = np.float32(structure.soft_mm + float(np.mean(grid.spacing_mm)))
    distance = (q - 1.0) / (2.0 * np.sqrt(slope) + np.float32(1e-6))
    return np.asarray(np.clip(0.5 - distance / edge_mm, 0.0, 1.0), dtype=np.float32)


def _texture(grid: Grid, box: tuple[slice, slice, slice], seed: int) -> Array:
    """Return a smooth random field of about unit variance, a function of the place in the gland and the seed alone."""
    half_mm = 48.0
    nodes = int(2 * half_mm / TEXTURE_STEP_MM) + 3
    lattice = np.random.default_rng(seed).normal(size=(nodes, nodes, nodes)).astype(np.float32)
    lattice = ndimage.gaussian_filter(lattice, 0.6)
    lattice /= lattice.std()
    shape = tuple(part.stop - part.start for part in box)
    x, y, z = (
        np.broadcast_to((axis + np.float32(half_mm)) / np.float32(TEXTURE_STEP_MM), shape)
        for axis in _coordinates(grid, box, np.zeros(3), 0.0)
    )
    return np.asarray(ndimage.map_coordinates(lattice, [z, y, x], order=1, mode="nearest"), dtype=np.float32)


def spin_echo(maps: TissueMaps, *, echo_time_ms: float) -> Array:
    """T2-weighted spin echo with a repetition time well above T1.

    S = PD exp(-TE / T2)

    Args:
        maps: tissue maps.
        echo_time_ms: TE, > 0.

    Returns:
        The signal, the shape of the maps, within [0, 1].

    Reference:
        Bernstein, King, Zhou: Handbook of MRI Pulse Sequences, 2004, section 14.3.
    """
    return np.asarray(maps.proton_density * np.exp(np.float32(-echo_time_ms) / maps.t2_ms), dtype=np.float32)


def diffusion_signal(maps: TissueMaps, b_value_s_per_mm2: float, *, echo_time_ms: float) -> Array:
    """Fat-suppressed diffusion-weighted spin echo.

    S_b = PD water exp(-TE / T2) exp(-b ADC)

    Args:
        maps: tissue maps.
        b_value_s_per_mm2: b, >= 0.
        echo_time_ms: TE, > 0.

    Returns:
        The signal, the shape of the maps, within [0, 1].

    Reference:
        Stejskal and Tanner, J Chem Phys 42:288, 1965.
    """
    per_ms = np.float32(b_value_s_per_mm2 * 1e-3)  # b in ms/um2, since the ADC is in um2/ms
    exponent = np.float32(-echo_time_ms) / maps.t2_ms - per_ms * maps.adc_um2_per_ms
    return np.asarray(maps.proton_density * maps.water_share * np.exp(exponent), dtype=np.float32)


def add_rician_noise(signal: Array, sd: float, rng: np.random.Generator) -> Array:
    """Magnitude of a complex signal with normal noise in both channels.

    M = sqrt((S + n1)^2 + n2^2), n1 and n2 normal with standard deviation sd

    Args:
        signal: S, any shape, >= 0.
        sd: standard deviation of a channel, >= 0, in the unit of the signal.
        rng: source of randomness; advanced.

    Returns:
        M, the shape of `signal`.

    Reference:
        Gudbjartsson and Patz, Magn Reson Med 34:910, 1995.

    >>> add_rician_noise(np.full(2, 3.0, np.float32), 0.0, np.random.default_rng(0)).tolist()
    [3.0, 3.0]
    """
    real = signal + np.float32(sd) * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = np.float32(sd) * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.asarray(np.sqrt(real * real + imaginary * imaginary), dtype=np.float32)


def fit_adc(signals: list[Array], b_values_s_per_mm2: tuple[float, ...]) -> Array:
    """Apparent diffusion coefficient by the least-squares line through the logarithm of the signals.

    ADC = -sum (b - mean b) ln S_b / sum (b - mean b)^2

    Args:
        signals: one array for each b-value, the same shape, > 0 where it matters (others are floored).
        b_values_s_per_mm2: at least two different values.

    Returns:
        The ADC in mm2/s, the shape of a signal; negative values become 0.

    Reference:
        Stejskal and Tanner, J Chem Phys 42:288, 1965.

    >>> decay = [np.exp(np.float32([-b * 0.001])) for b in (0.0, 1000.0)]
    >>> fit_adc(decay, (0.0, 1000.0)).round(5).tolist()
    [0.0010000000474974513]
    """
    b = np.array(b_values_s_per_mm2)
    weights = ((b.mean() - b) / ((b - b.mean()) ** 2).sum()).astype(np.float32)
    floor = np.float32(1e-6)
    total = sum(w * np.log(np.maximum(s, floor)) for w, s in zip(weights, signals, strict=True))
    return np.asarray(np.maximum(total, 0.0), dtype=np.float32)
