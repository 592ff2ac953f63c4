"""Where lesions are, in the real Orthanc: report, segments and map beside the images, each exactly once."""

from pathlib import Path
from typing import Any

import numpy as np
import orthanc_stand_in as stand_in
import pytest
import requests
from orthanc_server import fill

from prostate_alm.delivery.dicom.results import report_objects
from prostate_alm.delivery.lesions import LesionFindings
from prostate_alm.delivery.orthanc.client import NodeError, OrthancNode
from prostate_alm.delivery.orthanc.watch import Pace, Watcher
from prostate_alm.delivery.orthanc.work import Response
from prostate_alm.delivery.predict import StudyResult
from prostate_alm.delivery.prediction import LesionCandidate
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import StudyVolumes, load_volume

MODEL = stand_in.MODEL.sha256
PACE = Pace(interval_s=0.05, quiet_s=0.0, lease_s=0.6, retry_s=0.1)
WHOLE = {"MR": 15, "SR": 1, "SEG": 1, "OT": 1}
pytestmark = pytest.mark.usefixtures("own_temporary_folder")


def respond(folder: Path, *, sure: float = 0.7) -> Response:
    """Answer with one candidate of two voxels."""
    selection = explain_study(folder)
    assert selection.t2 is not None
    t2 = load_volume(selection.t2)
    labels = np.zeros(t2.voxels.shape, np.uint8)
    labels[3:5, 2, 1] = 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ t2.affine_ras_mm
    x, y, z = (affine @ [3, 2, 1, 1])[:3].tolist()
    one = LesionCandidate(number=1, probability=sure, position_mm=(x, y, z), volume_mm3=6.0)
    findings = LesionFindings((labels * sure).astype(np.float32), labels, affine, (one,))
    volumes = StudyVolumes(t2, (), (), (), (), selection)
    result = StudyResult(stand_in.answer_of(0.5), volumes, None, findings)
    return Response("answered", objects=tuple(report_objects(result).values()))


def test_report_segments_and_map_are_stored_once_and_found_over_dicomweb(server: Any) -> None:
    (study,) = fill(server, "A")
    for _ in range(2):
        list(Watcher(OrthancNode(server.url), respond, model_sha256=MODEL, pace=PACE).once())
        server.settle()
        assert server.modalities(study) == WHOLE
    if requests.get(f"{server.url}/dicom-web/studies", timeout=30).status_code == 404:
        return  # Orthanc without its plug-in (Debian: orthanc-dicomweb)
    (found,) = server.get("/dicom-web/studies")
    assert {"SEG", "SR", "OT"} <= set(found["00080061"]["Value"])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_was_cut_off_while_storing_is_completed(server: Any, number: int) -> None:
    (study,) = fill(server, "A")
    stored: list[bytes] = []

    class FullNode(OrthancNode):
        def store(self, file: bytes, *, study: str) -> None:
            stored.append(file)
            if len(stored) == number:
                raise NodeError("full")
            super().store(file, study=study)

    sure = iter((0.7, 0.71))  # the second attempt differs, as on another machine
    again = Watcher(
        FullNode(server.url), lambda folder: respond(folder, sure=next(sure)), model_sha256=MODEL, pace=PACE
    ).once()
    assert [one.state for one in again] == ["failed", "done"]
    assert server.modalities(study) == WHOLE
