"""Which diffusion images enter one fit: series of one protocol, each b-value once."""

import pytest

from prostate_alm.imaging.study import explain_study


def _roles(selection) -> dict[int, str]:
    return {one.series.number: one.role for one in selection.series}


def _taken(selection) -> dict[int, list[float]]:
    return {one.series.number: list(one.b_values_s_per_mm2) for one in selection.dwi}


def test_one_series_for_each_b_value_makes_one_protocol(build, written):
    images = build.series(2)
    for number, b_value in ((7, 800.0), (5, 0.0), (6, 100.0)):
        images += build.diffusion(number, b_values=(b_value,))
    selection = explain_study(written(images))
    assert selection.refused is None
    assert _taken(selection) == {5: [0.0], 6: [100.0], 7: [800.0]}


@pytest.mark.parametrize(
    "change",
    [{"EchoTime": 80.0}, {"RepetitionTime": 4000.0}, {"PixelSpacing": [2.0, 2.0]}, {"origin_mm": (5.0, -3.0, 0.0)}],
)
def test_series_of_different_protocols_are_never_fitted_together(build, written, change):
    apart = build.diffusion(3, b_values=(50.0,)) + build.diffusion(4, b_values=(800.0,), **change)
    assert explain_study(written(build.series(2) + apart)).refused.code == "one_b_value"


def test_a_repeat_of_diffusion_replaces_the_first_and_a_further_b_value_joins(build, written):
    images = build.study() + build.diffusion(4) + build.diffusion(5, b_values=(50.0, 1400.0))
    selection = explain_study(written(images))
    assert _taken(selection) == {4: [50.0, 400.0, 800.0], 5: [1400.0]}
    assert _roles(selection) == {2: "t2", 3: "dwi_unused", 4: "dwi", 5: "dwi"}
    assert "series 4 is preferred: acquired later" in selection.series[1].reason
