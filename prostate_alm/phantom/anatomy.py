"""The pelvis of one synthetic patient: tissues with literature values, and the ellipsoids that are painted
with them.

Coordinates are millimetres in the gland's frame: origin at the centre of the prostate, x to the patient's
left, y posterior, z along the gland's axis towards the bladder. Structures are painted in the order of the
list, each over those before it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prostate_alm.phantom.reader import Verdict

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Structure:
    """An ellipsoid of one tissue.

    `opacity` 1 replaces what lies below; less mixes with it. `bend_per_mm` pulls the sides back (y - bend x^2)
    and `taper` widens the top, x / (1 + taper z / half_axis_z). `lumps` makes the outline uneven (0 is even, 0.2
    much). `shell_mm` leaves a wall of that width inside the surface (0 is solid). `inside_gland` clips the
    structure by the prostate's outline. `soft_mm` is the width of its edge beyond that of a voxel.
    """

    tissue: str
    centre_mm: Point
    half_axes_mm: Point
    rotation_deg: float = 0.0
    opacity: float = 1.0
    bend_per_mm: float = 0.0
    taper: float = 0.0
    soft_mm: float = 0.0
    lumps: Point = (0.0, 0.0, 0.0)
    shell_mm: float = 0.0
    inside_gland: bool = False


@dataclass(frozen=True)
class Lesion:
    """The lesion of one study, in the gland's frame."""

    zone: str
    centre_mm: Point
    radius_mm: float
    contrast: float


@dataclass(frozen=True)
class Anatomy:
    """All structures in painting order, the index of the prostate's outline among them, and the lesion, if any."""

    structures: tuple[Structure, ...]
    gland: Structure
    lesion: Lesion | None
    texture_seed: int


def lesion_contrast(conspicuity: float, *, difficulty: float) -> float:
    """Share of the way from healthy tissue to frank cancer that a lesion goes in T2 and ADC.

    contrast = c^(0.2 + difficulty)

    Args:
        conspicuity: c, within [0, 1].
        difficulty: within [0, 3]; the more, the fainter the lesions between the two ends.

    Returns:
        The contrast within [0, 1]; 0 at c = 0 and 1 at c = 1 for every difficulty.

    >>> lesion_contrast(1.0, difficulty=0.7)
    1.0
    """
    return float(conspicuity ** (0.2 + difficulty))


def draw_anatomy(verdict: Verdict, rng: np.random.Generator, *, difficulty: float) -> Anatomy:
    """Draw the pelvis of one patient: sizes, shapes, positions, distractors, and the lesion that the verdict
    is about.

    Args:
        verdict: kind of study and true conspicuity.
        rng: source of randomness; advanced.
        difficulty: within [0, 3]; strengthens the distractors, up to 1, and weakens equivocal lesions.

    >>> verdict = Verdict("no lesion", 0.0, 0.0, 0)
    >>> draw_anatomy(verdict, np.random.default_rng(0), difficulty=0.25).lesion is None
    True
    """
    gland = _gland(rng)
    body = [*_wall_and_bones(rng), *_muscles(gland, rng), *_bladder(gland, rng), *_rectum(gland, rng)]
    lobes = _lobes(gland, rng)
    zones = [*_prostate(gland, rng), *_streaks(gland, rng, difficulty=difficulty)]
    centre = [*lobes, *_nodules(lobes, rng, difficulty=difficulty), *_midline(gland)]
    lesion = _lesion(verdict, gland, rng, difficulty=difficulty)
    painted = [] if lesion is None else _lesion_structures(lesion, rng)
    return Anatomy(
        structures=tuple(body + zones + centre + painted),
        gland=gland,
        lesion=lesion,
        texture_seed=int(rng.integers(2**31)),
    )


def _gland(rng: np.random.Generator) -> Structure:
    half_width = float(rng.uniform(22.0, 29.0))
    half_height = half_width * float(rng.uniform(0.64, 0.80))
    half_length = half_width * float(rng.uniform(0.76, 0.90))
    return Structure(
        "peripheral zone",
        (0.0, 0.0, 0.0),
        (half_width, half_height, half_length),
        bend_per_mm=float(rng.uniform(0.004, 0.009)),
        taper=float(rng.uniform(0.12, 0.28)),
        lumps=_lumps(rng),
    )


def _lumps(rng: np.random.Generator) -> Point:
    x, y, z = rng.uniform(-0.12, 0.12, size=3)
    return float(x), float(y), float(z)


def _both_sides(structure: Structure) -> list[Structure]:
    x, y, z = structure.centre_mm
    return [structure, replace(structure, centre_mm=(-x, y, z), rotation_deg=-structure.rotation_deg)]


def _scaled(point: Point, factors: NDArray[np.float64]) -> Point:
    x, y, z = (value * float(factor) for value, factor in zip(point, factors, strict=True))
    return x, y, z


def _rimmed(structure: Structure, rim: str, width_mm: float) -> list[Structure]:
    a, b, c = structure.half_axes_mm
    outer = replace(structure, tissue=rim, half_axes_mm=(a + width_mm, b + width_mm, c + width_mm))
    return [outer, structure]


def _wall_and_bones(rng: np.random.Generator) -> list[Structure]:
    width, front = float(rng.uniform(170, 195)), float(rng.uniform(-4, 8))
    structures = [Structure("fat", (0.0, 22.0 + front, 0.0), (width, 118.0, 900.0))]
    structures += [Structure("muscle", (0.0, -68.0 + front, 75.0), (80.0, 7.0, 62.0))]
    for _ in range(36):  # vessels and strands of the pelvic fat
        centre = (float(rng.uniform(-85, 85)), float(rng.uniform(-75, 90)), float(rng.uniform(-45, 45)))
        size = (float(rng.uniform(0.8, 2.2)), float(rng.uniform(0.8, 3.0)), float(rng.uniform(4, 18)))
        structures += [Structure("vessel", centre, size, float(rng.uniform(0, 90)), 0.6)]
    pubis = Structure("marrow", (19.0, -46.0 + front, -14.0), (17.0, 8.0, 16.0), 32.0)
    hip = Structure("marrow", (70.0, 14.0, -2.0), (9.0, 27.0, 42.0), -12.0)
    femur = Structure("marrow", (93.0, -6.0, 18.0), (23.0, 23.0, 23.0))
    coccyx = Structure("marrow", (0.0, 88.0, 20.0), (11.0, 6.0, 26.0))
    for bone in (pubis, hip, femur):
        structures += [part for side in _both_sides(bone) for part in _rimmed(side, "cortical bone", 1.8)]
    return structures + _rimmed(coccyx, "cortical bone", 1.5)


def _muscles(gland: Structure, rng: np.random.Generator) -> list[Structure]:
    half_width = gland.half_axes_mm[0]
    bulk = float(rng.uniform(0.85, 1.2))
    obturator = Structure(
        "muscle", (half_width + 26.0, 0.0, -2.0), (8.0 * bulk, 36.0, 42.0), 12.0, lumps=(0.2, 0.15, 0.1)
    )
    pectineus = Structure("muscle", (46.0, -54.0, -12.0), (20.0 * bulk, 11.0, 34.0), 25.0, lumps=(-0.2, 0.1, 0.2))
    gluteus = Structure("muscle", (58.0, 76.0, -8.0), (48.0, 16.0 * bulk, 80.0), -30.0, lumps=(0.1, 0.2, 0.0))
    levator = Structure(  # a thin wall about gland and rectum
        "muscle",
        (0.0, 16.0, -6.0),
        (half_width + 9.0, gland.half_axes_mm[1] + 25.0, 47.0),
        lumps=(0.0, 0.2, 0.0),
        shell_mm=3.4 * bulk,
    )
    return [side for muscle in (obturator, pectineus, gluteus) for side in _both_sides(muscle)] + [levator]


def _bladder(gland: Structure, rng: np.random.Generator) -> list[Structure]:
    _, half_height, half_length = gland.half_axes_mm
    fill = float(rng.uniform(0.65, 1.0))  # patients are asked to void first
    radii = (32.0 * fill, 26.0 * fill, 24.0 * fill)
    lumen = Structure(
        "urine",
        (0.0, -10.0 - 4.0 * fill, half_length + 0.80 * radii[2]),
        radii,
        lumps=(0.0, float(rng.uniform(-0.2, 0.2)), 0.0),
    )
    vesicle = Structure(
        "seminal vesicle", (15.0, half_height + 1.0, half_length + 4.0), (14.0, 4.5, 6.0), float(rng.uniform(8, 24))
    )
    plexus = Structure(
        "venous plexus", (0.0, -half_height - 4.0, -4.0), (15.0, 3.5, 17.0), bend_per_mm=-0.01, soft_mm=1.5
    )
    folds = []
    for _ in range(10):  # the convolutions of the seminal vesicles
        x, y, z = (float(rng.uniform(-26, 26)), half_height + 1.0, half_length + float(rng.uniform(0, 9)))
        folds += [Structure("capsule", (x, y, z), (0.8, 4.0, 5.0), float(rng.uniform(-60, 60)), 0.8)]
    return [plexus, *_both_sides(vesicle), *folds, *_rimmed(lumen, "bladder wall", 3.0 / fill)]


def _rectum(gland: Structure, rng: np.random.Generator) -> list[Structure]:
    _, half_height, _ = gland.half_axes_mm
    width, height = float(rng.uniform(10.0, 19.0)), float(rng.uniform(7.0, 13.0))
    back = half_height + 5.0 + height
    lumen = Structure(
        "stool", (float(rng.uniform(-3, 3)), back, 14.0), (width, height, 75.0), taper=0.15, lumps=_lumps(rng)
    )
    gas_share = float(rng.uniform(0.1, 0.85))
    gas_height = height * gas_share
    gas = Structure(
        "air",
        (lumen.centre_mm[0], back - height + gas_height, 14.0),
        (width * math.sqrt(gas_share), gas_height, 60.0 * gas_share),
    )
    return [*_rimmed(lumen, "rectal wall", 3.2), gas]


def _prostate(gland: Structure, rng: np.random.Generator) -> list[Structure]:
    half_width, half_height, half_length = gland.half_axes_mm
    bundle = Structure("vessel", (0.72 * half_width, 0.86 * half_height, 0.0), (1.6, 1.2, half_length), opacity=0.7)
    veins = []
    for _ in range(12):  # the neurovascular bundles and the periprostatic veins
        angle = float(rng.uniform(0, 2 * math.pi))
        centre = (
            (half_width + 3.0) * math.cos(angle),
            (half_height + 3.0) * math.sin(angle),
            float(rng.uniform(-15, 15)),
        )
        veins += [Structure("venous plexus", centre, (1.5, 1.5, 7.0), opacity=0.8)]
    return [*veins, *_both_sides(bundle), *_rimmed(gland, "capsule", 0.9)]


def _streaks(gland: Structure, rng: np.random.Generator, *, difficulty: float) -> list[Structure]:
    """Return the lesions' distractors: bands of low T2 in the peripheral zone with little restricted diffusion."""
    half_width, half_height, half_length = gland.half_axes_mm
    streaks = []
    for _ in range(int(rng.integers(1, 5))):
        angle = math.radians(float(rng.uniform(15, 165)))
        centre = (
            0.80 * half_width * math.cos(angle),
            0.78 * half_height * math.sin(angle) + gland.bend_per_mm * (0.8 * half_width * math.cos(angle)) ** 2,
            float(rng.uniform(-0.5, 0.5)) * half_length,
        )
        size = (float(rng.uniform(1.2, 2.6)), float(rng.uniform(4, 8)), float(rng.uniform(4, 10)))
        streaks += [
            Structure(
                "prostatitis",
                centre,
                size,
                math.degrees(angle) - 90.0 + float(rng.uniform(-25, 25)),
                opacity=min(1.0, float(rng.uniform(0.5, 0.8)) + 0.3 * difficulty),
                soft_mm=2.0,
                inside_gland=True,
            )
        ]
    return streaks


def _lobes(gland: Structure, rng: np.random.Generator) -> list[Structure]:
    """Return the two lobes of the transition zone within their dark pseudo-capsule; hyperplasia makes them large."""
    half_width, half_height, half_length = gland.half_axes_mm
    bulk = float(np.clip((half_width - 22.0) / 7.0 + rng.normal(0.0, 0.2), 0.0, 1.0))
    left = Structure(
        "transition zone",
        ((0.29 + 0.04 * bulk) * half_width, -(0.26 - 0.06 * bulk) * half_height, 0.14 * half_length),
        ((0.36 + 0.10 * bulk) * half_width, (0.54 + 0.08 * bulk) * half_height, (0.60 + 0.12 * bulk) * half_length),
        float(rng.uniform(-14, 4)),
        inside_gland=True,
        lumps=_lumps(rng),
    )
    unequal = [
        replace(side, half_axes_mm=_scaled(side.half_axes_mm, rng.uniform(0.92, 1.06, size=3)))
        for side in _both_sides(left)
    ]
    rims = [_rimmed(side, "pseudo-capsule", 0.9)[0] for side in unequal]
    return rims + unequal


def _nodules(lobes: list[Structure], rng: np.random.Generator, *, difficulty: float) -> list[Structure]:
    """Nodules of benign hyperplasia: glandular ones are bright, stromal ones dark with a moderately low ADC."""
    nodules: list[Structure] = []
    for _ in range(int(rng.integers(4, 12))):
        lobe = lobes[2 + int(rng.integers(2))]
        direction = rng.normal(size=3)
        direction *= 0.62 * float(rng.uniform(0, 1)) ** 0.5 / np.linalg.norm(direction)
        x, y, z = np.array(lobe.centre_mm) + np.array(lobe.half_axes_mm) * direction
        radius = float(rng.uniform(2.0, 5.5))
        size = _scaled((radius, radius, radius), rng.uniform(0.75, 1.3, size=3))
        stromal = float(rng.uniform()) < 0.4
        kind, opacity = ("stromal nodule", min(1.0, 0.7 + 0.3 * difficulty)) if stromal else ("glandular nodule", 0.75)
        nodule = Structure(
            kind,
            (float(x), float(y), float(z)),
            size,
            float(rng.uniform(0, 90)),
            opacity,
            soft_mm=0.4,
            inside_gland=True,
        )
        nodules += [replace(_rimmed(nodule, "pseudo-capsule", 0.6)[0], opacity=0.6), nodule]
    return nodules


def _midline(gland: Structure) -> list[Structure]:
    """Return the anterior fibromuscular stroma, and the urethra with its wall."""
    half_width, half_height, half_length = gland.half_axes_mm
    stroma = Structure(
        "fibromuscular stroma",
        (0.0, -0.88 * half_height, 0.0),
        (0.40 * half_width, 0.22 * half_height, 0.85 * half_length),
        opacity=0.9,
        soft_mm=1.5,
        inside_gland=True,
    )
    urethra = Structure("urethra", (0.0, 0.10 * half_height, -0.25 * half_length), (2.0, 1.7, 0.75 * half_length))
    return [stroma, *_rimmed(urethra, "pseudo-capsule", 0.9)]


_RADIUS_MM = {"equivocal": (6.0, 2.5), "unmistakable": (11.0, 3.5), "graded": (6.0, 5.0)}
"""Smallest radius and range of the lesions of each kind."""


def _lesion(verdict: Verdict, gland: Structure, rng: np.random.Generator, *, difficulty: float) -> Lesion | None:
    """Where the lesion sits: most in the peripheral zone, postero-lateral; some in the anterior transition zone."""
    zone, side = ("PZ" if float(rng.uniform()) < 0.7 else "TZ"), (1.0 if float(rng.uniform()) < 0.5 else -1.0)
    across, along, size = float(rng.uniform(0.3, 0.85)), float(rng.uniform(-0.42, 0.42)), float(rng.uniform(0, 1))
    if verdict.kind == "no lesion":
        return None
    smallest_mm, range_mm = _RADIUS_MM[verdict.kind]
    radius_mm = smallest_mm + range_mm * size
    half_width, half_height, half_length = gland.half_axes_mm
    inner = (half_width - 0.75 * radius_mm, half_height - 0.75 * radius_mm)  # most of the lesion is inside the gland
    azimuth = math.asin(across) if zone == "PZ" else math.pi - 0.6 * across
    shrink = math.sqrt(1.0 - along**2)
    x = side * inner[0] * math.sin(azimuth) * shrink * (1.0 if zone == "PZ" else 0.7)
    y = inner[1] * math.cos(azimuth) * shrink * (1.0 if zone == "PZ" else 0.8) + gland.bend_per_mm * x * x
    contrast = lesion_contrast(verdict.conspicuity, difficulty=difficulty)
    return Lesion(zone, (x, y, along * half_length), radius_mm, contrast)


def _lesion_structures(lesion: Lesion, rng: np.random.Generator) -> list[Structure]:
    """Return the lesion as an uneven ellipsoid of about the volume that its radius says."""
    radius = lesion.radius_mm
    return [
        Structure(
            "lesion",
            lesion.centre_mm,
            (
                radius * float(rng.uniform(0.9, 1.15)),
                radius * float(rng.uniform(0.75, 0.95)),
                radius * float(rng.uniform(0.9, 1.2)),
            ),
            float(rng.uniform(-40, 40)),
            opacity=lesion.contrast,
            soft_mm=1.0,
            inside_gland=True,
            lumps=(float(rng.uniform(-0.2, 0.2)), float(rng.uniform(-0.2, 0.2)), float(rng.uniform(-0.2, 0.2))),
        )
    ]
