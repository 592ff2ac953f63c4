"""Selection: what is taken, what is not, and the reason and stable code of every refusal."""

import json
import random
import re
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless

from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.folder import read_series
from prostate_alm.imaging.study import T2_PREFERENCES, explain_study, select_series
from prostate_alm.imaging.volume import load_study, load_volume

DOCS = Path(__file__).resolve().parents[2] / "docs" / "dicom.md"

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


def _without(images: list[Dataset], index: int) -> list[Dataset]:
    return images[:index] + images[index + 1 :]


def _other(images: list[Dataset], **elements: object) -> list[Dataset]:
    for image in images:
        for keyword, value in elements.items():
            setattr(image, keyword, value)
    return images


# The middle of the T2 volume in mm, and the voxels of the diffusion volume (of 1, 1 and 3 mm), along x, y and z.
T2_MIDDLE_MM, DIFFUSION_MM, DIFFUSION_SHAPE = (-2.75, -2.25, 7.5), (1.0, 1.0, 3.0), (7, 6, 6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("beyond", "code"), [(-0.1, None), (0.1, "no_overlap")])
@pytest.mark.parametrize("side", ["first", "last"])
def test_diffusion_ends_half_a_voxel_beyond_its_outer_centres(build, written, axis, side, beyond, code):
    """The middle of T2 lies a tenth of a voxel inside or outside the outer face of the diffusion volume."""
    index = [2.0, 2.0, 2.0]
    index[axis] = -0.5 - beyond if side == "first" else DIFFUSION_SHAPE[axis] - 0.5 + beyond
    origin_mm = tuple(m - i * mm for m, i, mm in zip(T2_MIDDLE_MM, index, DIFFUSION_MM, strict=True))
    axial = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    images = build.series(2, ImageOrientationPatient=axial)
    images += build.diffusion(3, ImageOrientationPatient=axial, origin_mm=origin_mm)
    refused = explain_study(written(images)).refused
    assert (refused.code if refused else None) == code


REFUSALS = {
    "no_t2": lambda b: b.diffusion(3),
    "no_diffusion": lambda b: b.series(2),
    "one_b_value": lambda b: b.series(2) + b.diffusion(3, b_values=(800.0,)),
    "missing_slice": lambda b: _without(b.study(), 2),
    "missing_slice in one b": lambda b: _without(b.study(), 6 + 6 + 3),
    "missing_slice at the end of one b": lambda b: _without(b.study(), 6 + 6 + 5),
    "repeated_slice": lambda b: b.study() + b.series(2, b_values=(None, None))[8:9],
    "uneven_slices": lambda b: _uneven(b.study()),
    "mixed_geometry": lambda b: b.series(2) + _shifted(b),
    "no_overlap": lambda b: b.series(2) + b.diffusion(3, origin_mm=(-4.0, -3.0, 500.0)),
    "several_frames_of_reference": lambda b: b.series(2, frame="other") + b.diffusion(3),
    "several_frames_of_reference in a series": lambda b: (
        _other(b.series(2)[:3], FrameOfReferenceUID=b.uid("x")) + b.series(2)[3:] + b.diffusion(3)
    ),
    "several_studies": lambda b: b.study() + b.study(study="other"),
    "several_patients": lambda b: b.study() + _other(b.study(study="other"), PatientID="2"),
    "several_patients with the same identifiers": lambda b: b.study() + _other(_again(b), PatientID="2"),
    "uneven_slices by a shift within the plane": lambda b: _drifting(b.study()),
    "not_mr": lambda b: _other(b.study(), Modality="CT"),
    "other_body_part": lambda b: _other(b.study(), BodyPartExamined="BRAIN"),
}


def _uneven(images: list[Dataset]) -> list[Dataset]:
    images[3].ImagePositionPatient = [images[3].ImagePositionPatient[0], -4.0, 10.2]
    return images


def _drifting(images: list[Dataset]) -> list[Dataset]:
    for index, image in enumerate(images[:6]):
        image.ImagePositionPatient = [-5.0 + 0.5 * index, *image.ImagePositionPatient[1:]]
    return images


def _again(build) -> list[Dataset]:
    return _other(build.study(), StudyDescription="again")


def _shifted(build) -> list[Dataset]:
    moved = build.diffusion(4, b_values=(800.0,), origin_mm=(-4.0, -3.0, 3.0))
    return build.diffusion(3, b_values=(50.0,)) + moved


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_studies_are_refused_with_a_stable_code_and_one_line(build, written, case):
    selection = explain_study(written(REFUSALS[case](build)))
    assert selection.refused is not None
    assert selection.refused.code == case.split()[0]
    reason = selection.refused.reason
    assert "\n" not in reason
    assert " must " in reason
    assert ", got " in reason
    assert "SECRET" not in selection.to_text() + str(selection.to_dict())
    assert selection.to_dict()["refused"] == {"code": selection.refused.code, "reason": reason}
    assert selection.to_text().splitlines()[-1] == f"refused ({selection.refused.code}): {reason}"


def _cut(folder: Path, *, size: int) -> Path:
    (folder / "0003").write_bytes((folder / "0003").read_bytes()[:size])
    return folder


def _conflicting(images: list[Dataset]) -> list[Dataset]:
    images[1].SOPInstanceUID = images[0].SOPInstanceUID
    return images


def _undecodable(images: list[Dataset]) -> list[Dataset]:
    for image in images:
        image.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00junk"
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = JPEGLSLossless
    return images


FURTHER_REFUSALS = {
    "truncated": lambda b, folder: load_study(_cut(b.save(folder, b.study()), size=600)),
    "no_dicom": lambda b, folder: load_study(b.save(folder, [])),
    "conflicting_copies": lambda b, folder: load_study(b.save(folder, _conflicting(b.study()))),
    "lossy_pixels": lambda b, folder: load_study(b.save(folder, b.study(LossyImageCompression="01"))),
    "undecodable_pixels": lambda b, folder: load_study(b.save(folder, _undecodable(b.study()))),
    "no_geometry": lambda b, folder: load_volume(
        read_series(b.save(folder, b.series(2, PixelSpacing=None)))[0]  # a study without positions has no T2
    ),
}


@pytest.mark.parametrize("code", FURTHER_REFUSALS)
def test_files_and_pixels_that_cannot_be_used_are_refused(build, tmp_path, code):
    with pytest.raises(StudyRefused) as caught:
        FURTHER_REFUSALS[code](build, tmp_path / "Secret^Name")
    assert caught.value.code == code
    assert " must " in caught.value.reason
    assert "secret" not in caught.value.reason.lower()


def test_every_documented_refusal_is_reached_by_a_test():
    section = DOCS.read_text(encoding="utf-8").split("## Refusals")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    here = {case.split()[0] for case in REFUSALS} | set(FURTHER_REFUSALS)
    beside = [Path(__file__).with_name(name) for name in ("test_pixels.py", "test_limits.py", "test_apart.py")]
    expected = {code for path in beside for code in re.findall(r'"(\w+)"', path.read_text(encoding="utf-8"))}
    assert here <= documented
    assert documented - here <= expected


def test_a_missing_slice_is_named_in_mm_and_by_its_neighbours(build, written):
    reason = explain_study(written(_without(build.study(), 2))).refused.reason
    assert "slices must be 3.00 mm apart, got a gap of 6.00 mm between images 2 and 4 in series 2" in reason


@pytest.mark.parametrize(("index", "code"), [(3, "truncated"), (10, "truncated"), (24, None)])
def test_pixels_cut_short_refuse_a_study_only_where_they_are_used(build, written, index, code):
    folder = written(build.study() + build.series(30, ImageOrientationPatient=SAGITTAL))
    path = folder / f"{index:04d}"
    path.write_bytes(path.read_bytes()[:-10])
    refused = explain_study(folder).refused
    assert (refused and refused.code) == code


def test_a_header_that_breaks_off_refuses_the_study(build, written):
    folder = written(build.study())
    (folder / "0005").write_bytes((folder / "0005").read_bytes()[:700])
    assert explain_study(folder).refused.code == "truncated"


def test_a_description_cannot_write_to_the_terminal(build, written):
    study = build.series(2, SeriesDescription="t2\x1b[31m\nred") + build.diffusion(3)
    assert "\x1b" not in explain_study(written(study)).to_text()


@pytest.mark.parametrize("content", [None, b"", b"some text"])
def test_a_folder_without_dicom_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "Secret Name.dcm").write_bytes(content)
    selection = explain_study(tmp_path)
    assert selection.refused.code == "no_dicom"
    assert "Secret" not in selection.to_text()


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
