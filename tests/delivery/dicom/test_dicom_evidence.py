"""What an answer refers to when the images are frames of Enhanced objects, or files without a preamble."""

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from prostate_alm.delivery.dicom.capture import secondary_capture
from prostate_alm.delivery.dicom.sr import structured_report


def test_frames_of_multi_frame_images_are_referred_to(images: list[Dataset], tmp_path: Path, samples: Any) -> None:
    t2 = [one for one in images if one.SeriesNumber == 3]
    dwi = [one for one in images if one.SeriesNumber != 3]
    folder = tmp_path / "study"
    folder.mkdir()
    for number, frames in enumerate((t2, dwi)):
        multi_frame(frames).save_as(folder / str(number), enforce_file_format=True)
    result = samples.answered(folder)
    for made in (structured_report(result), secondary_capture(result, samples.page)):
        assert samples.complaints(samples.save(made, tmp_path / "made.dcm")) == []
    library = structured_report(result).content[0].ContentSequence[-2]
    frames = [
        item.ContentSequence[-1].ReferencedSOPSequence[0].ReferencedFrameNumber for item in library.ContentSequence
    ]
    b_values = [float(one.DiffusionBValue) for one in dwi]
    expected = [[n + 1 for n, b in enumerate(b_values) if b == value] for value in sorted(set(b_values))]
    assert [sorted(one) for one in frames] == [list(range(1, len(t2) + 1)), *expected]


def multi_frame(frames: list[Dataset]) -> Dataset:
    """Return classic images as one Enhanced MR object."""
    whole, first = Dataset(), frames[0]
    whole.file_meta = FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword in ("SOPInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
                    "StudyID", "StudyDate", "StudyTime", "AccessionNumber", "SeriesInstanceUID", "FrameOfReferenceUID",
                    "Modality", "SeriesNumber", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
                    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):  # fmt: skip
        setattr(whole, keyword, first[keyword].value)
    whole.SOPClassUID, whole.NumberOfFrames = EnhancedMRImageStorage, len(frames)
    whole.EchoPulseSequence = "SPIN"
    whole.EchoPlanarPulseSequence = "YES" if "DiffusionBValue" in first else "NO"
    shared = Dataset()
    shared.PlaneOrientationSequence = [item_of(ImageOrientationPatient=first.ImageOrientationPatient)]
    shared.PixelMeasuresSequence = [item_of(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)]
    shared.MREchoSequence = [item_of(EffectiveEchoTime=float(first.EchoTime))]
    whole.SharedFunctionalGroupsSequence = [shared]
    whole.PerFrameFunctionalGroupsSequence = [frame_of(one) for one in frames]
    whole.PixelData = b"".join(one.PixelData for one in frames)
    return whole


def frame_of(image: Dataset) -> Dataset:
    """Return the functional groups of one frame."""
    group = Dataset()
    group.PlanePositionSequence = [item_of(ImagePositionPatient=image.ImagePositionPatient)]
    group.MRImageFrameTypeSequence = [item_of(FrameType=image.ImageType)]
    if "DiffusionBValue" in image:
        group.MRDiffusionSequence = [
            item_of(DiffusionBValue=float(image.DiffusionBValue), DiffusionDirectionality="ISOTROPIC")
        ]
    return group


def item_of(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def test_files_without_a_preamble_are_referred_to_as_those_with_one(study: Path, tmp_path: Path, samples: Any) -> None:
    for path in study.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[132:])
    bare, whole = (structured_report(samples.answered(folder)) for folder in (tmp_path, study))
    assert bare.SOPInstanceUID == whole.SOPInstanceUID
    assert (bare.PatientName, bare.get_evidence()) == (whole.PatientName, whole.get_evidence())
