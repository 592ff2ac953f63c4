"""From the command line: a study becomes an answer, a bad one a refusal, and nothing else happens."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from pydicom.dataset import Dataset

from prostate_alm.delivery.answers import answer_to_json
from prostate_alm.delivery.predict import network_input, predict_folder
from prostate_alm.delivery.prediction import Prediction, Refused
from prostate_alm.imaging.volume import load_study
from prostate_alm.parallel import map_with_ray

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
IDENTIFIERS = re.compile(r"phantom|2\.25\.|1\.2\.826", re.IGNORECASE)


@pytest.fixture(scope="module")
def images(phantom_study: Path) -> dict[str, list[Path]]:
    """Return the files of a study that matter, by what they are: T2, diffusion, ADC map, localizer."""
    folders = {path.name: sorted(path.iterdir()) for path in sorted(phantom_study.iterdir())}
    by_role: dict[str, list[Path]] = {}
    for files in folders.values():
        header = pydicom.dcmread(files[0], stop_before_pixels=True)
        words = f"{header.SeriesDescription} {header.ImageType}".lower()
        axial = abs(header.ImageOrientationPatient[0]) > 0.9 and abs(header.ImageOrientationPatient[4]) > 0.9
        roles = (("adc", "adc" in words), ("localizer", "localizer" in words), ("computed", "calc" in words))
        role = next((name for name, is_it in roles if is_it), "diffusion" if "diff" in words else "t2")
        if role != "t2" or axial:
            by_role.setdefault(role, []).extend(files)
    return by_role


Edit = Callable[[Dataset], None]


def _set(**elements: object) -> Edit:
    def edit(image: Dataset) -> None:
        for keyword, value in elements.items():
            setattr(image, keyword, value)

    return edit


TRAPS: dict[str, tuple[str, ...] | tuple[str, tuple[str, ...], str, Edit]] = {
    # what is sent, what of it is altered, and how
    "no_t2": ("diffusion",),
    "no_t2: localizers only": ("localizer",),
    "no_diffusion": ("t2",),
    "no_diffusion: ADC only": ("t2", "adc"),
    "no_diffusion: mosaics only": ("t2", "diffusion", _set(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"])),
    "no_diffusion: directions only": (
        "t2", "diffusion",
        _set(DiffusionDirectionality="DIRECTIONAL", ImageType=["ORIGINAL", "PRIMARY", "DIFFUSION"]),
    ),
    "other_body_part: brain": ("diffusion", "t2", _set(BodyPartExamined="BRAIN")),
    "other_body_part: knee": ("diffusion", "t2", _set(BodyPartExamined="KNEE")),
    "not_mr": ("t2", _set(Modality="CT")),
    "several_frames_of_reference": ("diffusion", "t2", _set(FrameOfReferenceUID="2.25.1")),
    "several_patients": ("t2", "diffusion", _set(PatientID="another")),
    "several_studies": ("t2", "diffusion", _set(StudyInstanceUID="2.25.1")),
}  # fmt: skip


def _send(images: dict[str, list[Path]], trap: tuple[object, ...], folder: Path) -> Path:
    """Write the series of a trap; the last one is altered where there is an edit."""
    *roles, edit = trap if callable(trap[-1]) else (*trap, None)
    folder.mkdir()
    for role in roles:
        for number, path in enumerate(images[str(role)]):
            target = folder / f"{role}-{number}"
            if edit is None or role != roles[-1]:
                target.symlink_to(path)
                continue
            image = pydicom.dcmread(path)
            edit(image)
            image.save_as(target)
    return folder


@pytest.mark.parametrize("case", TRAPS)
def test_each_trap_is_refused_with_its_code(images, packed_model, tmp_path, case):
    result = predict_folder(_send(images, TRAPS[case], tmp_path / "study"), packed_model)
    assert isinstance(result.answer, Refused)
    assert result.answer.code == case.split(":")[0]
    assert result.volumes is None and result.image is None  # noqa: PT018
    assert not any(one.used for one in result.answer.series)
    assert not IDENTIFIERS.search(answer_to_json(result.answer))


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # of this process, which makes them
def test_words_typed_at_the_scanner_are_in_a_refusal_only_where_asked_for(images, packed_model, tmp_path):
    typed = _set(Modality="DOE^JANE", SeriesDescription="Jane Doe")
    folder = _send(images, ("t2", typed), tmp_path / "study")
    refused = predict_folder(folder, packed_model).answer
    assert (refused.code, refused.series[0].description) == ("not_mr", "")
    assert "doe" not in answer_to_json(refused).lower()
    assert "got no term of DICOM." in refused.reason
    assert predict_folder(folder, packed_model, identify=True).answer.series[0].description == "Jane Doe"


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # of this process, which makes them
def test_invalid_uids_do_not_reach_the_terminal(images, packed_file, tmp_path):
    def edit(image: Dataset) -> None:
        image["StudyInstanceUID"]._value = "1.2.03.SECRET"

    folder = _send(images, ("t2", "diffusion", edit), tmp_path / "study")
    for path in folder.iterdir():  # all of one study
        image = pydicom.dcmread(path)
        edit(image)
        path.unlink()
        image.save_as(path)
    command = ["predict", str(folder), "--model", str(packed_file), "--output", str(tmp_path / "out"), "--sr"]
    done = subprocess.run([sys.executable, "-m", "prostate_alm.cli", *command], capture_output=True, text=True)
    assert done.returncode == 0
    assert "SECRET" not in done.stdout + done.stderr


def test_one_b_value_a_gap_and_a_cut_file_are_refused(images, packed_model, tmp_path):
    folder = _send(images, ("t2", "diffusion"), tmp_path / "study")
    assert predict_folder(folder, packed_model).answer.status == "answered"
    (folder / "t2-9").unlink()
    assert predict_folder(folder, packed_model).answer.code == "missing_slice"
    (folder / "t2-9").write_bytes(images["t2"][9].read_bytes()[:-100])
    assert predict_folder(folder, packed_model).answer.code == "truncated"
    shutil.rmtree(folder)
    _send({"t2": images["t2"], "diffusion": images["diffusion"][:20]}, ("t2", "diffusion"), folder)
    assert predict_folder(folder, packed_model).answer.code == "one_b_value"


def test_pixels_that_are_no_numbers_and_faults_of_the_program_are_refusals(images, packed_model, tmp_path, monkeypatch):
    folder = _send(images, ("diffusion", "t2", _set(RescaleSlope="1e39", RescaleIntercept=0)), tmp_path / "study")
    assert predict_folder(folder, packed_model).answer.code == "no_finite_signal"

    def fault(*_: object, **__: object) -> None:
        raise RuntimeError(f"in {folder}")

    monkeypatch.setattr("prostate_alm.delivery.predict.explain_study", fault)
    answer = predict_folder(folder, packed_model).answer
    assert answer.code == "unexpected_error"
    assert str(folder) not in answer_to_json(answer)


def test_the_logit_is_the_mean_of_the_members_and_the_decision_is_the_thresholds(phantom_study, packed_model):
    result = predict_folder(phantom_study, packed_model)
    answer = result.answer
    assert isinstance(answer, Prediction)
    image = network_input(load_study(phantom_study), packed_model.card.grid)
    torch.testing.assert_close(result.image, image, rtol=0, atol=0)
    with torch.inference_mode():
        expected = packed_model.network(image[None])
    assert answer.logit == pytest.approx(float(expected), abs=1e-6)
    assert answer.logit_std == pytest.approx(np.std(answer.member_logits, ddof=1))
    calibration = packed_model.card.calibration
    odds = np.exp(calibration.slope * answer.logit + calibration.intercept)
    assert answer.probability == pytest.approx(odds / (1 + odds))
    for point in packed_model.card.operating_points:
        chosen = predict_folder(phantom_study, packed_model, target_tpr=point.target_tpr).answer
        assert chosen.decision == ("positive" if chosen.logit >= point.threshold else "negative")
    uid = pydicom.dcmread(next(phantom_study.rglob("*.dcm"))).StudyInstanceUID
    assert answer.study == hashlib.sha256(uid.encode()).hexdigest()[:16]
    assert [one.series_number for one in answer.series if one.used] == sorted(
        one.number for one in result.volumes.selection.used
    )


def test_an_operating_point_that_was_not_packed_is_the_callers_fault(phantom_study, packed_model):
    with pytest.raises(ValueError, match="target_tpr must be one that the model was packed with"):
        predict_folder(phantom_study, packed_model, target_tpr=0.123)


def test_names_and_order_of_files_change_no_byte(phantom_study, packed_model, tmp_path):
    files = sorted(path for path in phantom_study.rglob("*") if path.is_file())
    random.Random(0).shuffle(files)
    (tmp_path / "study").mkdir()
    for number, path in enumerate(files):
        shutil.copy(path, tmp_path / "study" / f"{number:05d}")
    expected = answer_to_json(predict_folder(phantom_study, packed_model).answer)
    assert answer_to_json(predict_folder(tmp_path / "study", packed_model).answer) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_a_ray_cluster_keeps_the_order_and_the_folder(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    assert list(map_with_ray(os.path.abspath, ["c", "a", "b"], jobs=2)) == [str(tmp_path / name) for name in "cab"]


def test_the_real_study_is_answered(packed_model):
    study = SHARED / "data" / "prostatex" / "ProstateX-0001"
    if not study.is_dir():
        pytest.skip("the real PROSTATEx study is not beside this checkout")
    answer = predict_folder(study, packed_model).answer
    assert answer.status == "answered"
    assert answer.b_values_acquired_s_per_mm2 == (50.0, 400.0, 800.0)
    assert answer.b_values_computed == (True, True, True)
    codes = {warning.code for warning in answer.warnings}
    assert {"b_values_computed", "b_values_not_in_training"} <= codes
    assert not codes & {"noise_suspected", "motion_suspected", "prostate_outside_diffusion", "t2_smaller_than_crop"}
    assert "ProstateX" not in answer_to_json(answer)
