"""What makes a study unusable: the stable code and the one line of every refusal."""

import re
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless

from prostate_alm.imaging.dicom import StudyRefused
from prostate_alm.imaging.folder import read_series
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import load_study, load_volume

DOCS = Path(__file__).resolve().parents[2] / "docs" / "dicom.md"


SAGITTAL = [0, 1, 0, 0, 0, -1]


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
    beside = [Path(__file__).with_name(name) for name in ("test_pixels.py", "test_scan.py", "test_apart.py")]
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


@pytest.mark.parametrize("content", [None, b"", b"some text"])
def test_a_folder_without_dicom_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "Secret Name.dcm").write_bytes(content)
    selection = explain_study(tmp_path)
    assert selection.refused.code == "no_dicom"
    assert "Secret" not in selection.to_text()
