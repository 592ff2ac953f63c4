"""The frames of T2 that lesions and maps lie on: where they are, by the images themselves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from prostate_alm.delivery.dicom.evidence import selected_evidence
from prostate_alm.delivery.dicom.frames import frames_of
from prostate_alm.delivery.dicom.results import report_objects
from prostate_alm.imaging.study import explain_study


def test_findings_on_another_grid_are_not_placed(study: Path, samples: Any) -> None:
    result = samples.with_lesions(study)
    moved = result.lesions.affine_lps.copy()
    moved[0, 3] += 1.0
    with pytest.raises(ValueError, match=r"on the grid of T2, got them 1\.00 mm off"):
        report_objects(replace(result, lesions=replace(result.lesions, affine_lps=moved)))
    cut = replace(result.lesions, labels=result.lesions.labels[1:])
    with pytest.raises(ValueError, match="on the grid of T2"):
        report_objects(replace(result, lesions=cut))


def test_frames_lie_where_the_images_say(study: Path) -> None:
    selection = explain_study(study)
    frames = frames_of(selection, selected_evidence(selection))
    headers = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, filter(Path.is_file, study.rglob("*")))}
    places = frames.places()
    assert len(places["plane_positions"]) == len(frames.stack.instances) > 1
    for number, (image, place) in enumerate(zip(frames.stack.instances, places["plane_positions"], strict=True)):
        said = [float(one) for one in headers[image.sop_instance_uid].ImagePositionPatient]
        assert [float(one) for one in place[0].ImagePositionPatient] == pytest.approx(said)
        first_pixel = (0, frames.stack.shape[1] - 1, number, 1)  # `planes` turns the rows round
        assert (frames.affine_lps @ first_pixel)[:3] == pytest.approx(said, abs=1e-3)
