"""Thresholds of candidates that a pack freezes, by hand."""

import numpy as np
import pytest

from prostate_alm.delivery.package.lesions import lesions_spec
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.method.lesion_metrics import Detections

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs


def test_thresholds_are_cut_downwards_and_say_what_they_cannot_reach() -> None:
    cases = [Detections(np.array([1.23456789, -np.inf]), np.array([2.0])), Detections(np.array([]), np.array([0.1]))]
    (half, whole) = lesions_spec(cases, targets=(0.5, 1.0)).points
    assert half.threshold == whole.threshold == 1.2345
    assert (half.sensitivity, whole.sensitivity) == (0.5, 0.5)
    assert half.false_positives_per_case == 0.5
    assert lesions_spec(cases, targets=(1.0,)).missed == 1


def test_no_lesion_found_is_no_pack() -> None:
    with pytest.raises(PackageError, match="validation lesions must be found by a candidate, got none of 1 in 1"):
        lesions_spec([Detections(np.array([-np.inf]), np.array([2.0]))], targets=(0.95,))
