"""From an anatomy to tissue maps on a grid.

A scanner's grid is rendered on a `finer` one, the signal computed there and averaged by `block_mean`: partial volume
mixes signals, not relaxation times.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prostate_alm.phantom.anatomy import Anatomy, Structure


@dataclass(frozen=True)
class Tissue:
    """What the signal depends on; `water_share` is what fat suppression leaves of the proton density in diffusion."""

    proton_density: float
    t2_ms: float
    adc_um2_per_ms: float
    water_share: float = 1.0

    @property
    def water_density(self) -> float:
        """Proton density that fat suppression leaves."""
        return self.proton_density * self.water_share


# Round figures within the ranges reported at 3 T; docs/phantom.md holds the table of sources.
TISSUES = {
    "air": Tissue(0.0, 100.0, 0.0),
    "fat": Tissue(0.85, 115.0, 0.15, 0.03),
    "marrow": Tissue(0.60, 85.0, 0.30, 0.06),
    "cortical bone": Tissue(0.08, 20.0, 0.50),
    "muscle": Tissue(0.75, 38.0, 1.40),
    "venous plexus": Tissue(0.80, 130.0, 1.90),
    "vessel": Tissue(0.50, 30.0, 1.50),
    "bladder wall": Tissue(0.80, 50.0, 1.50),
    "urine": Tissue(1.00, 600.0, 3.00),
    "seminal vesicle": Tissue(0.90, 190.0, 2.00),
    "rectal wall": Tissue(0.80, 62.0, 1.45),
    "stool": Tissue(0.55, 45.0, 1.20),
    "capsule": Tissue(0.75, 45.0, 1.40),
    "peripheral zone": Tissue(0.90, 130.0, 1.70),
    "transition zone": Tissue(0.86, 90.0, 1.45),
    "pseudo-capsule": Tissue(0.80, 55.0, 1.40),
    "fibromuscular stroma": Tissue(0.78, 50.0, 1.35),
    "glandular nodule": Tissue(0.90, 135.0, 1.75),
    "stromal nodule": Tissue(0.82, 68.0, 1.30),
    "urethra": Tissue(0.90, 150.0, 1.80),
    "prostatitis": Tissue(0.88, 88.0, 1.52),
    "lesion": Tissue(0.90, 92.0, 0.55),
}

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
# One array (slices, rows, columns) for each property of `Tissue`, and the share of the voxel inside the prostate.
TissueMaps = dict[str, Array]
Box = tuple[slice, slice, slice]
SPIN_ECHO_PROPERTIES = ("proton_density", "t2_ms")
DIFFUSION_PROPERTIES = ("water_density", "t2_ms", "adc_um2_per_ms")
GLAND_SHARE = "gland_share"
TEXTURED_PROPERTIES = ("t2_ms", "adc_um2_per_ms")
TEXTURE_STEP_MM, TEXTURE_NODES = 2.6, 37
LEAST_UNEVENNESS = 0.6  # of the quadratic form; bounds how far a lump reaches
SLAB_VOXELS = 32768
MINIMUM_BODY_MM = 100.0  # only the body's outline, which is neither turned nor bent, is as large as this
TEXTURE_SHARE = {"peripheral zone": 0.06, "transition zone": 0.08}


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


def render(anatomy: Anatomy, grid: Grid, *, properties: tuple[str, ...]) -> TissueMaps:
    """Paint an anatomy on a grid given in the gland's frame.

    Args:
        anatomy: structures in painting order.
        grid: where to paint; the edges of structures are as soft as a voxel is wide.
        properties: names of the properties of `Tissue` to paint.

    Returns:
        The tissue maps, and `gland_share`; air where nothing is.

    >>> anatomy = Anatomy((), Structure("air", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), None, 0)
    >>> grid = centred_grid(np.zeros(3), np.eye(3), spacing_mm=(1.0, 1.0, 3.0), shape=(1, 1, 1))
    >>> float(render(anatomy, grid, properties=("t2_ms",))["t2_ms"][0, 0, 0])
    100.0
    """
    air = TISSUES["air"]
    maps = {name: np.full(grid.shape, getattr(air, name), np.float32) for name in properties}
    maps[GLAND_SHARE] = np.zeros(grid.shape, np.float32)
    if not anatomy.structures:
        return maps
    finest_mm = min(grid.spacing_mm)
    structures = [one for one in anatomy.structures if 2.0 * sorted(one.half_axes_mm)[1] > finest_mm]  # not hair
    boxes = _boxes((*structures, anatomy.gland), grid)
    texture = _texture(grid, boxes[-1], anatomy.texture_seed)
    for structure, box in zip(structures, boxes, strict=False):
        clipped = _intersection(box, boxes[-1]) if structure.inside_gland else box
        if _swallows(structure, grid):
            for name in properties:
                maps[name].fill(getattr(TISSUES[structure.tissue], name))
            continue
        for slab in _slabs(clipped):
            cover = _cover(structure, grid, slab)
            if structure is anatomy.gland:
                maps[GLAND_SHARE][slab] = cover
            _paint(structure, maps, slab, cover=cover, texture=texture[_within(slab, boxes[-1])])
    return maps


def share(structure: Structure, grid: Grid) -> Array:
    """Return the share of every voxel that a structure covers, whatever is painted over it.

    Args:
        structure: an ellipsoid; not clipped by the gland.
        grid: in the gland's frame.

    Returns:
        (slices, rows, columns) within [0, 1].

    >>> grid = centred_grid(np.zeros(3), np.eye(3), spacing_mm=(1.0, 1.0, 1.0), shape=(1, 1, 8))
    >>> share(Structure("lesion", (0.0, 0.0, 0.0), (2.5, 2.5, 2.5)), grid).ravel().tolist()
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    covered = np.zeros(grid.shape, np.float32)
    (box,) = _boxes((structure,), grid)
    for slab in _slabs(box):
        covered[slab] = _cover(structure, grid, slab)
    return covered


def _slabs(box: Box) -> Iterator[Box]:
    """Cut a box into slabs of slices whose arrays stay in the processor's cache; twice as fast as all at once."""
    slices, rows, columns = box
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    if area <= 0:
        return
    thickness = max(1, SLAB_VOXELS // area)
    for start in range(slices.start, slices.stop, thickness):
        yield slice(start, min(start + thickness, slices.stop)), rows, columns


def _swallows(structure: Structure, grid: Grid) -> bool:
    """Return whether a plain ellipsoid covers the whole grid, as the body does: then no distance need be computed."""
    if min(structure.half_axes_mm) < MINIMUM_BODY_MM:
        return False
    corners = np.array([[i, j, k] for k in (0, 1) for j in (0, 1) for i in (0, 1)]) * (np.array(grid.shape[::-1]) - 1)
    places = (corners @ grid.steps_mm + grid.origin_mm - structure.centre_mm) / structure.half_axes_mm
    return bool((places**2).sum(axis=1).max() < 0.96)


def _paint(structure: Structure, maps: TissueMaps, box: Box, *, cover: Array, texture: Array) -> None:
    if structure.inside_gland:
        cover *= maps[GLAND_SHARE][box]
    if structure.opacity != 1.0:
        cover *= np.float32(structure.opacity)
    tissue = TISSUES[structure.tissue]
    roughness = np.float32(TEXTURE_SHARE.get(structure.tissue, 0.0))
    for name in maps.keys() - {GLAND_SHARE}:
        value: Array | np.float32 = np.float32(getattr(tissue, name))
        if roughness and name in TEXTURED_PROPERTIES:
            value = value * (1.0 + roughness * texture)
        part = maps[name][box]
        change = value - part
        change *= cover
        part += change


def _boxes(structures: tuple[Structure, ...], grid: Grid) -> list[Box]:
    """Return the index ranges that hold each structure; empty ones where it lies outside the grid."""
    half = np.array([one.half_axes_mm for one in structures])  # (N, 3)
    widen = 1.0 + np.abs([one.taper for one in structures])
    bend = np.abs([one.bend_per_mm for one in structures]) * (half[:, 0] * widen) ** 2
    lumpy = np.array([LEAST_UNEVENNESS**-0.5 if one.lumps != (0.0, 0.0, 0.0) else 1.0 for one in structures])
    half = np.stack([half[:, 0] * widen, half[:, 1] + bend, half[:, 2]], axis=1) * lumpy[:, None]
    spacing = np.array(grid.spacing_mm)
    half += 0.5 * (np.array([one.soft_mm for one in structures])[:, None] + spacing.max())
    axes = grid.steps_mm / spacing[:, None]
    angle = np.deg2rad([one.rotation_deg for one in structures])
    along_x = axes[:, 0] * np.cos(angle)[:, None] + axes[:, 1] * np.sin(angle)[:, None]  # (N, 3): column, row, slice
    along_y = axes[:, 1] * np.cos(angle)[:, None] - axes[:, 0] * np.sin(angle)[:, None]
    extent = np.sqrt((along_x * half[:, :1]) ** 2 + (along_y * half[:, 1:2]) ** 2 + (axes[:, 2] * half[:, 2:]) ** 2)
    middle = (np.array([one.centre_mm for one in structures]) - grid.origin_mm) @ axes.T
    size = np.array(grid.shape[::-1])
    low = np.clip(np.floor((middle - extent) / spacing), 0, size).astype(int).tolist()
    high = np.clip(np.ceil((middle + extent) / spacing) + 1, 0, size).astype(int).tolist()
    return [(slice(a[2], b[2]), slice(a[1], b[1]), slice(a[0], b[0])) for a, b in zip(low, high, strict=True)]


def _intersection(box: Box, other: Box) -> Box:
    first, second, third = (slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(box, other, strict=True))
    return first, second, third


def _within(box: Box, outer: Box) -> Box:
    """Return the part of a box inside another in the indices of the other."""
    first, second, third = (
        slice(max(a.start - b.start, 0), max(a.stop - b.start, 0)) for a, b in zip(box, outer, strict=True)
    )
    return first, second, third


def _coordinates(grid: Grid, box: Box, structure: Structure) -> list[Array]:
    """Return x, y, z of the box's voxels along the structure's axes from its centre; each broadcasts to the box."""
    angle = np.deg2rad(structure.rotation_deg)
    turn = np.array([[np.cos(angle), np.sin(angle), 0.0], [-np.sin(angle), np.cos(angle), 0.0], [0.0, 0.0, 1.0]])
    steps = grid.steps_mm @ turn.T
    start = turn @ (grid.origin_mm - np.array(structure.centre_mm))
    slices, rows, columns = (np.arange(part.start, part.stop, dtype=np.float32) for part in box)
    result = []
    for axis in range(3):
        along_slice, along_row, along_column = (np.float32(steps[which, axis]) for which in (2, 1, 0))
        total = (np.float32(start[axis]) + along_slice * slices[:, None] + along_row * rows)[:, :, None]
        if abs(along_column) > 1e-6:
            total = total + along_column * columns
        result.append(total)
    return result


def _cover(structure: Structure, grid: Grid, box: Box) -> Array:
    """Return the share of every voxel that the structure covers: a ramp over its edge, by the distance to the surface.

    distance = f / |grad f| with f = sqrt(sum (x_i / a_i)^2) - 1: exact for a sphere, else to first order (Taubin 1991).
    """
    x, y, z = _coordinates(grid, box, structure)
    a, b, c = (np.float32(1.0 / value) for value in structure.half_axes_mm)
    if structure.taper:
        x = x / np.maximum(np.float32(0.3), 1.0 + np.float32(structure.taper) * c * z)
    if structure.bend_per_mm:
        y = y - np.float32(structure.bend_per_mm) * x * x
    x, y, z = x * a, y * b, z * c
    xx, yy, zz = x * x, y * y, z * z
    slope = a**2 * xx + b**2 * yy + c**2 * zz
    q = xx + yy + zz
    if structure.lumps != (0.0, 0.0, 0.0):
        first, second, third = (np.float32(value) for value in structure.lumps)
        uneven = 1.0 + first * x * (1.0 + y) + second * y * (1.0 + z) + third * z * (1.0 + x)
        q *= np.maximum(uneven, np.float32(LEAST_UNEVENNESS), out=uneven)
    edge_mm = np.float32(structure.soft_mm + float(np.mean(grid.spacing_mm)))
    np.sqrt(slope, out=slope)
    slope *= edge_mm
    slope += np.float32(1e-6)
    np.sqrt(q, out=q)
    q *= q - 1.0
    q /= slope
    if structure.shell_mm:  # from the distance to the surface to the distance to the wall's middle
        half = np.float32(0.5 * structure.shell_mm / edge_mm)
        q = np.abs(q + half) - half
    np.subtract(np.float32(0.5), q, out=q)
    return np.asarray(np.clip(q, 0.0, 1.0), dtype=np.float32)


@lru_cache(maxsize=1)  # all series of one study share it
def _lattice(seed: int) -> Array:
    """Return the random values between which the texture is interpolated, centred on the gland."""
    lattice = np.random.default_rng(seed).standard_normal((TEXTURE_NODES,) * 3, dtype=np.float32)
    smooth = ndimage.gaussian_filter(lattice, 0.6)
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


def _texture(grid: Grid, box: Box, seed: int) -> Array:
    """Return a smooth random field of about unit variance, a function of the place in the gland and the seed alone."""
    lattice = _lattice(seed)
    gland_frame = Structure("air", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    shape = tuple(part.stop - part.start for part in box)
    x, y, z = (
        np.broadcast_to(axis / np.float32(TEXTURE_STEP_MM) + np.float32(0.5 * (TEXTURE_NODES - 1)), shape)
        for axis in _coordinates(grid, box, gland_frame)
    )
    field = ndimage.map_coordinates(lattice, [z, y, x], order=1, mode="nearest", output=np.float32)
    return np.asarray(field, dtype=np.float32)
