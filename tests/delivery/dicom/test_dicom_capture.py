"""The secondary capture: the page, bit for bit, as an image of the study."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from prostate_alm.delivery.dicom_capture import secondary_capture
from prostate_alm.delivery.prediction import Identity

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
    assert (capture.BurnedInAnnotation, capture.LossyImageCompression) == ("NO", "00")


def test_a_page_is_an_rgb_array_of_bytes(study: Path, samples: Any) -> None:
    result, page = samples.answered(study), samples.page
    for wrong in (page[..., 0], page.astype(float), page[..., :2], page[:0]):
        with pytest.raises(ValueError, match="page must be an RGB array"):
            secondary_capture(result, wrong)
    with pytest.raises(ValueError, match="an answered study"):
        secondary_capture(samples.refused(), page)


def test_a_page_with_identifiers_says_so(study: Path, samples: Any) -> None:
    identity = Identity(path="x", patient_id="x", study_instance_uid="1.2", accession_number="")
    result = samples.answered(study, samples.answer.model_copy(update={"identity": identity}))
    assert secondary_capture(result, samples.page).BurnedInAnnotation == "YES"
