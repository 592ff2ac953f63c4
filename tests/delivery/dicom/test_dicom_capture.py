"""The secondary capture: the page, bit for bit, as an image of the study."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK

from prostate_alm.delivery.dicom.capture import secondary_capture

NOON = datetime(2030, 1, 2, 12, 0, 0)


def test_the_capture_holds_the_page_for_another_library(study: Path, tmp_path: Path, samples: Any) -> None:
    capture = secondary_capture(samples.answered(study), samples.page, created_at=NOON)
    path = samples.save(capture, tmp_path / "capture.dcm")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))[0], samples.page)
    again = secondary_capture(samples.answered(study), samples.page.copy(), created_at=NOON)
    assert path.read_bytes() == samples.save(again, tmp_path / "again.dcm").read_bytes()
    turned = secondary_capture(samples.answered(study), samples.page.transpose(1, 0, 2), created_at=NOON)
    assert turned.SeriesInstanceUID == capture.SeriesInstanceUID
    assert turned.SOPInstanceUID != capture.SOPInstanceUID
    assert (capture.BurnedInAnnotation, capture.LossyImageCompression, capture.PatientOrientation) == ("NO", "00", None)


def test_a_page_is_an_rgb_array_of_bytes(study: Path, samples: Any) -> None:
    result, page = samples.answered(study), samples.page
    for wrong in (page[..., 0], page.astype(float), page[..., :2], page[:0]):
        with pytest.raises(ValueError, match="page must be an RGB array"):
            secondary_capture(result, wrong)


def test_the_page_of_a_refusal_belongs_to_the_study_it_saw(study: Path, tmp_path: Path, samples: Any) -> None:
    capture = secondary_capture(samples.refused(), samples.page, study_dir=study)
    images = {pydicom.dcmread(path).SOPInstanceUID: path for path in study.iterdir()}
    referred = {one.ReferencedSOPInstanceUID for one in capture.SourceImageSequence}
    assert referred <= set(images)
    assert len(referred) == len({pydicom.dcmread(path).SeriesInstanceUID for path in study.iterdir()})
    assert samples.complaints(samples.save(capture, tmp_path / "capture.dcm")) == []
