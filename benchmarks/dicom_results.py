"""Processor time of what a lesion model's answer puts into the study: report, segments and map as DICOM files.

Beside it highdicom alone, as its documentation has it: the T2 files read whole and given as source images, with the
same pixels, no report. Times are medians of the process's own processor time, so that other work does not count.

    python benchmarks/dicom_results.py [--repeats 9]
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median

import highdicom
import numpy as np
import pydicom
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import Segmentation, SegmentDescription
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from pydicom.sr.codedict import codes

from prostate_alm.delivery.dicom.objects import encoded
from prostate_alm.delivery.dicom.results import report_objects
from prostate_alm.delivery.lesions import LesionFindings
from prostate_alm.delivery.predict import StudyResult
from prostate_alm.delivery.prediction import AppliedOperatingPoint, LesionCandidate, ModelIdentity, Prediction
from prostate_alm.imaging.study import explain_study
from prostate_alm.imaging.volume import StudyVolumes, load_volume
from prostate_alm.phantom.cohort import make_study, write_study

CANDIDATES = 3
MODEL = ModelIdentity(name="m", version="1", sha256="0" * 64, members=5, trained_on="-", data_is_synthetic=True)
POINT = AppliedOperatingPoint(
    target_tpr=0.95, threshold=0.0, tpr=0.95, tpr_low=0.9, tpr_high=1.0, fpr=0.5, fpr_low=0.4, fpr_high=0.6,
    positives=10, negatives=20, threshold_probability=0.5,
)  # fmt: skip


def answered(folder: Path) -> StudyResult:
    """Return an answer with balls as candidates."""
    selection = explain_study(folder)
    assert selection.t2 is not None
    t2 = load_volume(selection.t2)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ t2.affine_ras_mm
    labels, candidates = np.zeros(t2.voxels.shape, np.uint8), []
    places = np.moveaxis(np.indices(labels.shape), 0, -1)
    for number in range(1, CANDIDATES + 1):
        middle = np.array(labels.shape) // 2 + [20 * (number - 2), 0, number]
        ball = np.linalg.norm((places - middle) * [1.0, 1.0, 3.0], axis=-1) < 8
        labels[ball] = number
        x, y, z = (affine @ [*middle, 1.0])[:3].tolist()
        candidates.append(LesionCandidate(number=number, probability=0.5, position_mm=(x, y, z), volume_mm3=1.0))
    probability = np.random.default_rng(0).random(labels.shape, np.float32)
    answer = Prediction(
        study="0" * 16, probability=0.8, decision="positive", logit=1.4, logit_std=0.1, member_logits=(1.3, 1.5),
        operating_point=POINT, b_values_s_per_mm2=(100.0,), b_values_acquired_s_per_mm2=(100.0,),
        b_values_computed=(False,), series=(), warnings=(), model=MODEL, software={},
    )  # fmt: skip
    findings = LesionFindings(probability, labels, affine, tuple(candidates))
    return StudyResult(answer, StudyVolumes(t2, (), (), (), (), selection), None, findings)


def by_highdicom(result: StudyResult) -> int:
    """Make segments and map from whole T2 files; return their bytes."""
    assert result.volumes is not None
    assert result.lesions is not None
    assert result.volumes.selection.t2 is not None
    images = [pydicom.dcmread(one.pixels.path) for one in result.volumes.selection.t2.instances]
    normal = np.cross(*np.reshape(np.array(images[0].ImageOrientationPatient, float), (2, 3)))
    images.sort(key=lambda one: float(np.dot(one.ImagePositionPatient, normal)))
    shared = {
        "source_images": images, "series_instance_uid": highdicom.UID(), "series_number": 1,
        "sop_instance_uid": highdicom.UID(), "instance_number": 1, "manufacturer": "m", "manufacturer_model_name": "m",
        "software_versions": "1", "device_serial_number": "1",
    }  # fmt: skip
    segments = [
        SegmentDescription(number, f"{number}", codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, "MANUAL")
        for number in range(1, CANDIDATES + 1)
    ]
    segmentation = Segmentation(
        pixel_array=planes(result.lesions.labels), segmentation_type="BINARY", segment_descriptions=segments, **shared
    )
    mapping = RealWorldValueMapping("p", "p", CodedConcept("1", "UCUM", "1"), (0.0, 1.0), slope=1, intercept=0)
    parametric = ParametricMap(
        pixel_array=planes(result.lesions.probability), contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping], voi_lut_transformations=[highdicom.VOILUTTransformation(0.5, 1.0)],
        **{**shared, "sop_instance_uid": highdicom.UID()},
    )  # fmt: skip
    return sum(len(encoded(one)) for one in (segmentation, parametric))


def planes(volume: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.ascontiguousarray(volume[:, ::-1].transpose(2, 1, 0))


def ours(result: StudyResult) -> int:
    """Make all three; return their bytes."""
    return sum(len(encoded(one)) for one in report_objects(result, created_at=datetime(2030, 1, 1)).values())


def processor_s(action: Callable[[StudyResult], int], result: StudyResult, repeats: int) -> tuple[float, int]:
    """Return the median processor time of an action, after one that warms up, and what it returns."""
    size, times = action(result), []
    for _ in range(repeats):
        start = time.process_time()
        action(result)
        times.append(time.process_time() - start)
    return median(times), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        result = answered(write_study(make_study(5), Path(name) / "study"))
        for label, action in (("report, segments and map", ours), ("highdicom: segments and map", by_highdicom)):
            seconds, size = processor_s(action, result, repeats)
            print(f"{label}: {seconds:.3f} s, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
