"""What an answer refers to when the images are frames of Enhanced objects, or files without a preamble."""

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from prostate_alm.delivery.dicom.capture import secondary_capture
from prostate_alm.delivery.dicom.sr import structured_report


def test_frames_of_multi_frame_images_are_referred_to(images: list[Dataset], tmp_path: Path, samples: Any) -> None:
    t2 = [one for one in images if one.SeriesNumber == 3]
    dwi = [one for one in images if one.SeriesNumber != 3]
    folder = tmp_path / "study"
    folder.mkdir()
    for number, frames in enumerate((t2, dwi)):
        samples.multi_frame(frames).save_as(folder / str(number), enforce_file_format=True)
    result = samples.answered(folder)
    for made in (structured_report(result), secondary_capture(result, samples.page)):
        assert samples.complaints(samples.save(made, tmp_path / "made.dcm")) == []
    library = structured_report(result).ContentSequence[-2]
    frames = [
        item.ContentSequence[-1].ReferencedSOPSequence[0].ReferencedFrameNumber for item in library.ContentSequence
    ]
    b_values = [float(one.DiffusionBValue) for one in dwi]
    expected = [[n + 1 for n, b in enumerate(b_values) if b == value] for value in sorted(set(b_values))]
    assert [sorted(one) for one in frames] == [list(range(1, len(t2) + 1)), *expected]


def test_files_without_a_preamble_are_referred_to_as_those_with_one(study: Path, tmp_path: Path, samples: Any) -> None:
    for path in study.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[132:])
    bare, whole = (structured_report(samples.answered(folder)) for folder in (tmp_path, study))
    assert bare.SOPInstanceUID == whole.SOPInstanceUID
    assert (bare.PatientName, bare.get_evidence()) == (whole.PatientName, whole.get_evidence())
