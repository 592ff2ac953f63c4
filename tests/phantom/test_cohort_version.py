"""Version 1 of the phantom is one cohort for good.

The figures of README.md and docs/results were measured on it, and a folder of studies is completed only by the same
version. tests/golden/phantom.json holds what it is made of: sums over drawn patients, and statistics of the pixels of
one study. Who changes them on purpose raises PHANTOM_VERSION, runs this file as a script, and measures again.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from prostate_alm.phantom.cohort import PHANTOM_VERSION
from prostate_alm.phantom.study import make_study, plan_study

GOLDEN = Path(__file__).parents[1] / "golden" / "phantom.json"
SIZES = ("rotation_deg", "opacity", "bend_per_mm", "taper", "soft_mm", "shell_mm")


def drawn(studies: int = 60) -> dict[str, list[float]]:
    """Return for each tissue the number of its structures and sums over their sizes, the patients' frames besides.

    Summed is v + v² of each size v, in which neither the sides of the body nor signs cancel.
    """
    sums: dict[str, np.ndarray] = {}

    def add(name: str, values: list[float]) -> None:
        sizes = np.array(values, dtype=float)
        sums[name] = sums.get(name, 0.0) + np.array([1.0, *(sizes + sizes**2)])

    for index in range(1, studies + 1):
        plan = plan_study(index)
        for one in plan.anatomy.structures:
            points = (*one.centre_mm, *one.half_axes_mm, *one.lumps)
            add(one.tissue, [one.inside_gland, *(getattr(one, name) for name in SIZES), *points])
        axes = [*plan.image_axes.ravel(), *plan.gland_axes.ravel()]
        places = [*plan.centre_mm, *plan.t2_centre_mm, *plan.diffusion_centre_mm]
        add("frames", [*places, *axes, plan.gain, plan.label, plan.verdict.conspicuity])
    return {name: total.tolist() for name, total in sorted(sums.items())}


def stored() -> dict[str, list[float]]:
    """Return mean, deviation and roughness along each axis of every volume of the first study."""
    study = make_study(1)
    volumes = {"t2": study.t2, "sagittal": study.sagittal, "adc": study.diffusion.adc}
    volumes |= {f"localizer {number}": one for number, one in enumerate(study.localizer)}
    volumes |= {f"trace {number}": one for number, one in enumerate(study.diffusion.traces)}
    volumes["computed"] = study.diffusion.computed
    return {name: _statistics(one.pixels.astype(np.float64)) for name, one in volumes.items()}


def _statistics(pixels: np.ndarray) -> list[float]:
    rough = [np.abs(np.diff(pixels, axis=axis)).mean() for axis in range(3) if pixels.shape[axis] > 1]
    return [float(value) for value in (pixels.mean(), pixels.std(), *rough)]


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_the_golden_values_are_those_of_this_version(golden: dict) -> None:
    assert golden["version"] == PHANTOM_VERSION


def test_the_patients_are_those_of_the_version(golden: dict) -> None:
    found = drawn()
    assert found.keys() == golden["drawn"].keys()
    for name, values in golden["drawn"].items():
        assert found[name] == pytest.approx(values, rel=1e-9, abs=1e-9), name


def test_the_pixels_are_those_of_the_version(golden: dict) -> None:
    found = stored()
    assert found.keys() == golden["stored"].keys()
    for name, values in golden["stored"].items():
        assert found[name] == pytest.approx(values, rel=1e-5), name  # another processor may round a pixel otherwise


if __name__ == "__main__":
    parts = {"version": PHANTOM_VERSION, "drawn": drawn(), "stored": stored()}
    GOLDEN.write_text(json.dumps(parts).replace("], ", "],\n").replace("}, ", "},\n") + "\n", encoding="utf-8")
