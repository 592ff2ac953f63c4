"""Selection: what is taken, what is not, and the reason and stable code of every refusal."""

import json
import random
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from prostate_alm.imaging.folder import read_series
from prostate_alm.imaging.study import T2_PREFERENCES, explain_study, select_series

SAGITTAL = [0, 1, 0, 0, 0, -1]
CORONAL = [1, 0, 0, 0, 0, -1]


def _roles(selection) -> dict[int, str]:
    return {one.series.number: one.role for one in selection.series}


def _taken(selection) -> dict[int, list[float]]:
    return {one.series.number: list(one.b_values_s_per_mm2) for one in selection.dwi}


def test_a_plain_study_is_used(build, written):
    selection = explain_study(written(build.study()))
    assert selection.refused is None
    assert selection.to_dict() == {
        "t2": {"series_number": 2, "series_uid": build.uid("study 2")},
        "dwi": [{"series_number": 3, "series_uid": build.uid("study 3"), "b_values": [50.0, 400.0, 800.0]}],
        "refused": None,
        "warnings": [],
        "series": [
            {
                "series_number": 2,
                "description": "t2_tse_tra",
                "role": "t2",
                "b_values": [],
                "reason": "axial spin echo with an echo time of 104 ms",
            },
            {
                "series_number": 3,
                "description": "ep2d_diff_tra",
                "role": "dwi",
                "b_values": [50.0, 400.0, 800.0],
                "reason": "trace images at b 50, 400, 800, b-values from standard (0018,9087)",
            },
        ],
    }
    json.dumps(selection.to_dict())
    assert selection.to_text().splitlines()[-1] == "usable: T2 from series 2, diffusion from series 3 (b 50, 400, 800)"


def _side_series(build) -> list[tuple[str, list[Dataset]]]:
    """Return what real studies hold besides T2 and diffusion, each with its role."""
    localizer = build.series(20, ImageOrientationPatient=SAGITTAL)
    for image in localizer[:2]:
        image.ImageOrientationPatient = CORONAL
    adc = ["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]
    trace = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW"]
    dynamic = build.series(33, ScanningSequence="GR", EchoTime=2.0, b_values=(None, None, None))
    multi_echo = build.series(34, b_values=(None, None))
    for image in multi_echo[6:]:
        image.EchoTime = 160.0
    directions = build.diffusion(30, b_values=(0.0, 800.0))
    for image in directions[6:]:
        image.DiffusionDirectionality = "DIRECTIONAL"
    return [
        ("localizer", localizer),
        ("not_axial", build.series(21, ImageOrientationPatient=SAGITTAL)),
        ("not_axial", build.series(22, ImageOrientationPatient=CORONAL)),
        ("adc", build.diffusion(23, b_values=(800.0,), ImageType=adc)),
        ("adc", build.diffusion(24, b_values=(50.0,), ImageType=["DERIVED", "PRIMARY"], SeriesDescription="dADC map")),
        ("adc", build.diffusion(25, b_values=(None,), ImageType=adc)),
        ("computed_b", build.diffusion(26, b_values=(1000.0,), ImageType=trace, SequenceName="*ep_b50_800")),
        ("computed_b", build.diffusion(27, b_values=(1400.0,), ImageType=trace, SeriesDescription="dwiCALC_BVAL")),
        ("computed_b", build.diffusion(28, b_values=(2000.0,), SeriesDescription="Synthetic b=2000")),
        ("computed_b", build.diffusion(29, b_values=(2000.0,), ImageType=[*trace, "CALC_BVALUE"])),
        ("dwi_directions", directions),
        ("dwi_directions", build.diffusion(38, b_values=(0.0, 800.0, 800.0, 800.0))),
        ("no_geometry", build.series(39, ImageOrientationPatient=[1, 0, 0, 1, 0, 0])),
        ("no_geometry", build.series(40, PixelSpacing=None)),
        ("mosaic", build.diffusion(31, b_values=(1000.0,), ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])),
        ("few_slices", build.series(32, slices=3)),
        ("dynamic", dynamic),
        ("multi_echo", multi_echo),
        ("other", build.series(35, EchoTime=12.0, SeriesDescription="t1_tse_tra")),
        ("other", build.series(36, ScanningSequence="GR", SeriesDescription="t2 space star")),
        ("other", build.series(37, ImageType=["DERIVED", "PRIMARY", "T2 MAP"])),
    ]


def test_what_real_studies_hold_besides_is_named_and_not_taken(build, written):
    side = _side_series(build)
    images = build.study() + [image for _, series in side for image in series]
    selection = explain_study(written(images))
    assert selection.refused is None
    expected = {series[0].SeriesNumber: role for role, series in side}
    assert _roles(selection) == {2: "t2", 3: "dwi"} | expected
    assert all(one.reason for one in selection.series)


@pytest.mark.parametrize("role", ["adc", "computed_b", "dwi_directions", "mosaic"])
def test_diffusion_of_a_wrong_kind_alone_is_no_diffusion(build, written, role):
    wrong = [image for found, series in _side_series(build) for image in series if found == role]
    selection = explain_study(written(build.series(2) + wrong))
    assert selection.refused.code == "no_diffusion"
    assert role in selection.refused.reason
    assert selection.dwi == ()


def test_adc_and_directions_inside_the_series_are_left_out(build, written):
    """Philips keeps traces, directions and the map in one series."""
    dwi = build.diffusion(3, b_values=(0.0, 800.0, 800.0, 1.0))
    for image in dwi[6:12]:
        image.DiffusionDirectionality = "DIRECTIONAL"
    for image in dwi[12:18]:
        image.DiffusionDirectionality = "ISOTROPIC"
    for image in dwi[18:]:
        image.ImageType = ["DERIVED", "PRIMARY", "ADC", "ADC"]
    selection = explain_study(written(build.series(2) + dwi))
    assert selection.refused is None
    assert _taken(selection) == {3: [0.0, 800.0]}


def test_b_zero_in_every_image_makes_no_diffusion(build, written):
    """Philips, GE and UIH write b = 0 into T2 images, too."""
    selection = explain_study(written(build.series(2, b_values=(0.0,)) + build.diffusion(3)))
    assert _roles(selection) == {2: "t2", 3: "dwi"}


T2_RIVALS = [
    ("acquired later", {}, 9),
    ("acquired, not derived", {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, 2),
    ("without fat saturation", {"ScanOptions": ["PFP", "FS"]}, 2),
    ("finer pixels", {"PixelSpacing": [0.8, 0.8]}, 2),
    ("longer coverage", {"slices": 5}, 2),
    ("acquired later", {"AcquisitionTime": "080000"}, 2),
]


@pytest.mark.parametrize(("reason", "change", "winner"), T2_RIVALS)
def test_of_two_axial_t2_series_one_is_taken_for_a_stated_reason(build, written, reason, change, winner):
    selection = explain_study(written(build.study() + build.series(9, **change)))
    assert selection.refused is None
    assert selection.t2.number == winner
    told = {one.series.number: one.reason for one in selection.series}
    assert f"preferred to series {11 - winner}: {reason}" in told[winner]
    assert f"series {winner} is preferred: {reason}" in told[11 - winner]


def test_preferences_decide_every_tie(build, written):
    images = build.study() + build.series(9, AcquisitionTime="100200.000000")
    selection = explain_study(written(images))
    assert selection.t2.number == 9
    assert "the higher series number" in selection.series[-1].reason
    keys = [tuple(rule.key(one.series) for rule in T2_PREFERENCES) for one in selection.series]
    assert len(set(keys)) == len(keys)


def test_the_t2_in_the_frame_of_reference_of_the_diffusion_is_taken(build, written):
    images = build.study() + build.series(9, frame="moved")
    selection = explain_study(written(images))
    assert selection.t2.number == 2
    assert "in the Frame of Reference of the diffusion" in selection.series[-1].reason


def test_an_echo_time_lost_to_deidentification_is_replaced_by_the_description(build, written):
    images = build.series(2, EchoTime=None) + build.series(9, EchoTime=None, SeriesDescription="t1_vibe_tra")
    assert _roles(explain_study(written(images + build.diffusion(3)))) == {2: "t2", 3: "dwi", 9: "other"}


def test_the_choice_does_not_depend_on_order_or_names(build, tmp_path):
    images = build.study() + build.series(9) + build.diffusion(4)
    expected = explain_study(build.save(tmp_path / "a", images)).to_dict()
    for seed in range(3):
        random.Random(seed).shuffle(images)
        assert explain_study(build.save(tmp_path / str(seed), images)).to_dict() == expected
    series = list(read_series(tmp_path / "a"))
    random.Random(1).shuffle(series)
    assert select_series(series).to_dict() == expected


def test_the_real_study(real_study: Path):
    selection = explain_study(real_study)
    assert selection.refused is None
    assert _taken(selection) == {7: [50.0, 400.0, 800.0]}
    assert selection.t2.number == 10
    roles = _roles(selection)
    assert (roles[6], roles[8], roles[9]) == ("t2_unused", "adc", "computed_b")
    assert [roles[number] for number in (1, 2, 3, 4, 5, 11)] == ["localizer"] * 2 + ["not_axial"] * 3 + ["other"]
    told = {one.series.number: one.reason for one in selection.series}
    assert "preferred to series 6: acquired later" in told[10]
