"""How often the warnings `noise_suspected` and `motion_suspected` are right: clean and spoilt synthetic studies.

python benchmarks/artefacts.py [--studies 60] [--study DIR_OF_A_REAL_STUDY]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift

from prostate_alm.delivery.quality import ArtefactLimits, noise_to_signal, slice_jump
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import Volume, load_volume
from prostate_alm.phantom.cohort import make_cohort

NOISE_FACTORS, MOVES_MM = (2.0, 3.0), (2.0, 4.0)


def noisy(volume: Volume, factor: float, random: np.random.Generator) -> Volume:
    """Return a volume with `factor` times the noise that it has, as a magnitude image shows it."""
    deviation = noise_to_signal(volume) * np.median(volume.voxels) * np.sqrt(factor**2 - 1)
    real, imaginary = (random.normal(0, deviation, volume.voxels.shape) for _ in range(2))
    return Volume(np.hypot(volume.voxels + real, imaginary).astype(np.float32), volume.affine_ras_mm)


def moved(volume: Volume, move_mm: float) -> Volume:
    """Return a volume whose even slices were acquired after a move along the columns."""
    spacing_mm = float(np.linalg.norm(volume.affine_ras_mm[:3, 1]))
    voxels: NDArray[np.float32] = volume.voxels.copy()
    for index in range(1, voxels.shape[2], 2):
        voxels[:, :, index] = shift(volume.voxels[:, :, index], (0, move_mm / spacing_mm), order=1, mode="nearest")
    return Volume(voxels, volume.affine_ras_mm)


def figures(folder: Path, random: np.random.Generator) -> dict[str, float]:
    """Return the estimates for one study, clean and spoilt."""
    selection = explain_study(folder)
    if selection.t2 is None or not selection.dwi:
        raise ValueError(f"study must be usable, got {selection.refused}.")
    t2 = load_volume(selection.t2)
    first = selection.dwi[0]
    diffusion = load_volume(first.series, b_value_s_per_mm2=first.b_values_s_per_mm2[0])
    found = {"T2 noise": noise_to_signal(t2), "T2 motion": slice_jump(t2), "diffusion motion": slice_jump(diffusion)}
    for factor in NOISE_FACTORS:
        found[f"T2 noise x {factor:g}"] = noise_to_signal(noisy(t2, factor, random))
    for move_mm in MOVES_MM:
        found[f"T2 motion {move_mm:g} mm"] = slice_jump(moved(t2, move_mm))
        found[f"diffusion motion {move_mm:g} mm"] = slice_jump(moved(diffusion, move_mm))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=60)
    parser.add_argument("--study", type=Path, help="folder of a real study, shown beside")
    options = parser.parse_args()
    random, limits = np.random.default_rng(0), ArtefactLimits()
    real = figures(options.study, random) if options.study else {}
    with tempfile.TemporaryDirectory() as name:
        make_cohort(Path(name) / "cohort", studies=options.studies)
        folders = sorted(path for path in (Path(name) / "cohort").iterdir() if path.is_dir())
        rows = [figures(folder, random) for folder in folders]
    print(f"{options.studies} synthetic studies; limits: noise {limits.t2_noise}, motion {limits.slice_jump}")
    print(f"{'':26}{'smallest':>9}{'median':>9}{'largest':>9}{'warned':>9}{'real':>9}")
    for key in rows[0]:
        values = np.array([row[key] for row in rows])
        limit = limits.t2_noise if "noise" in key else limits.slice_jump
        there = f"{real[key]:9.3f}" if real else ""
        spread = f"{values.min():9.3f}{np.median(values):9.3f}{values.max():9.3f}"
        print(f"{key:26}{spread}{(values > limit).mean():9.0%}{there}")


if __name__ == "__main__":
    main()
