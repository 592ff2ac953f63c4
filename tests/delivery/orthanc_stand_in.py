"""A watcher without a network, to be run and killed: real selection, real report and capture, an invented logit."""

from __future__ import annotations

import signal
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from prostate_alm.delivery.dicom.capture import capture_of
from prostate_alm.delivery.dicom.evidence import selected_evidence
from prostate_alm.delivery.dicom.sr import report_of
from prostate_alm.delivery.orthanc.client import Backoff, OrthancNode
from prostate_alm.delivery.orthanc.watch import Pace, Watcher
from prostate_alm.delivery.orthanc.work import Response
from prostate_alm.delivery.prediction import AppliedOperatingPoint, ModelIdentity, Prediction
from prostate_alm.imaging.study import explain_study

MODEL = ModelIdentity(name="m", version="1", sha256="a" * 64, members=2, trained_on="nothing", data_is_synthetic=True)
POINT = AppliedOperatingPoint(
    target_tpr=0.95, threshold=0.0, tpr=0.95, tpr_low=0.9, tpr_high=1.0, fpr=0.5, fpr_low=0.4, fpr_high=0.6,
    positives=10, negatives=20,
)  # fmt: skip


def respond(folder: Path, *, logit: float = 0.5) -> Response:
    """Answer as the real one does, without torch."""
    selection = explain_study(folder)
    if selection.refused is not None:
        return Response(selection.refused.code, selection.refused.reason)
    answer = answer_of(logit)
    evidence, now = selected_evidence(selection), datetime.now()
    page = np.full((4, 4, 3), round(100 + 10 * logit), dtype=np.uint8)
    report, capture = (report_of(answer, evidence, created_at=now), capture_of(MODEL, page, evidence, created_at=now))
    return Response("answered", objects=(report, capture))


def answer_of(logit: float) -> Prediction:
    """Return the answer of a logit."""
    return Prediction(
        study="0" * 16, probability=0.6, decision="positive", logit=logit, logit_std=0.1,
        member_logits=(logit - 0.1, logit + 0.1), operating_point=POINT, b_values_s_per_mm2=(50.0, 800.0),
        b_values_acquired_s_per_mm2=(50.0, 800.0), b_values_computed=(False, False), series=(), warnings=(),
        model=MODEL, software={"prostate-alm": "0"}, source_sha256=None,
    )  # fmt: skip


def main(url: str, log: str, seconds: str) -> None:
    """Watch; write one line for each study that was begun."""

    def slowly(folder: Path) -> Response:
        with Path(log).open("a") as stream:
            stream.write("begun\n")
        time.sleep(float(seconds))
        return respond(folder)

    for sign in (signal.SIGTERM, signal.SIGINT):  # the latter is ignored in what a shell starts in the background
        signal.signal(sign, signal.default_int_handler)
    pace = Pace(interval_s=0.1, quiet_s=1.0, lease_s=1.5, retry_s=0.5)
    node = OrthancNode(url, backoff=Backoff(first_s=0.1, longest_s=0.5))
    try:
        for outcome in Watcher(node, slowly, model_sha256=MODEL.sha256, pace=pace).follow():
            sys.stdout.write(f"{outcome}\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
