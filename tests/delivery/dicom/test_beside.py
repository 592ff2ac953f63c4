"""Reports as files beside the answers: through the archive with a packed model, and one by one."""

from datetime import datetime
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from prostate_alm.delivery.answers import answer_name, read_answers
from prostate_alm.delivery.archive import Job, answer_archive
from prostate_alm.delivery.beside import OutputError, lacks_files, write_beside
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import predict_folder
from prostate_alm.delivery.report.html import render_report
from prostate_alm.delivery.report.saliency import saliency

NOON = datetime(2030, 1, 2, 12, 0, 0)


def test_the_archive_writes_a_report_beside_each_answer_once(
    study: Path, packed_file: Path, packed_model: PackedModel, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    first = sorted(study.iterdir())[0]
    other = pydicom.dcmread(first)
    other.StudyInstanceUID = "1.2.3"
    other.save_as(lonely / "one", enforce_file_format=True)
    point = packed_model.card.operating_point().target_tpr

    def answer(*kinds: str, **options: Any) -> list[Any]:
        job = Job(packed_file, packed_model.identity.sha256, point, identify=False, beside=kinds)
        return list(answer_archive([study, lonely], out, job=job, **options))

    assert [one.conflict for one in answer()] == [None, None]
    assert not list(out.glob("*.dcm"))
    assert [(one.kept, one.conflict) for one in answer("sr")] == [(True, None)] * 2  # the answers were there
    reports = {path: pydicom.dcmread(path) for path in sorted(out.glob("*.dcm"))}
    answers = read_answers(out)
    assert {path.name.removesuffix(".sr.dcm") for path in reports} == {name.removesuffix(".json") for name in answers}
    for path, report in reports.items():
        found = answers[path.name.replace(".sr.dcm", ".json")]
        assert report.CompletionFlag == ("COMPLETE" if found.status == "answered" else "PARTIAL")
        if found.status == "answered":
            (value,) = [float(item.MeasuredValueSequence[0].NumericValue) for item in group_of(report)]
            assert value == pytest.approx(found.probability, abs=5e-5)
    before = {path: path.read_bytes() for path in reports}
    answer("sr")
    assert {path: path.read_bytes() for path in reports} == before  # nothing was made again: the clock is in it
    path = min(reports)
    path.write_bytes(b"a letter")
    assert answer("sr")[0].conflict is None
    assert path.read_bytes() == b"a letter"
    (out / path.name.replace(".sr.dcm", ".json")).unlink()
    assert [one.conflict for one in answer("sr") if one.conflict and path.name in one.conflict]
    assert path.read_bytes() == b"a letter"
    assert not [one.conflict for one in answer("sr", overwrite=True) if one.conflict]
    assert pydicom.dcmread(path).Modality == "SR"


def group_of(report: Any) -> list[Any]:
    """Return the items of a report that are called a probability."""
    group = report.ContentSequence[-1].ContentSequence[0].ContentSequence
    return [item for item in group if item.ConceptNameCodeSequence[0].CodeMeaning == "Probability"]


def test_a_file_is_replaced_by_its_own_kind_only(
    study: Path, packed_model: PackedModel, tmp_path: Path, samples: Any
) -> None:
    out, result = tmp_path / "out", samples.answered(study)
    (path,) = write_beside(result, packed_model, out, study_dir=study, kinds=["sr"], created_at=NOON)
    assert path == out / "0123456789abcdef.sr.dcm"
    assert write_beside(result, packed_model, out, study_dir=study, kinds=["sr"]) == (path,)
    assert list(out.iterdir()) == [path]
    for content in (b"a letter", next(study.iterdir()).read_bytes()):
        path.write_bytes(content)
        with pytest.raises(OutputError, match="earlier files of the same model and study"):
            write_beside(result, packed_model, out, study_dir=study, kinds=["sr"])
        assert path.read_bytes() == content


def test_nothing_is_written_for_files_that_are_no_study(
    packed_model: PackedModel, tmp_path: Path, samples: Any
) -> None:
    (tmp_path / "empty").mkdir()
    out, kinds, empty = tmp_path / "out", ("sr", "capture"), tmp_path / "empty"
    assert write_beside(samples.refused(), packed_model, out, study_dir=empty, kinds=kinds) == ()
    assert not out.exists()


def test_the_report_to_look_at_is_a_file_of_its_own(packed_model: PackedModel, tmp_path: Path, samples: Any) -> None:
    out, result = tmp_path / "out", samples.refused()
    (path,) = write_beside(result, packed_model, out, study_dir=tmp_path, kinds=["report"])
    assert path.stem == answer_name(result.answer).removesuffix(".json")
    assert path.read_text(encoding="utf-8") == render_report(result, packed_model)
    assert write_beside(result, packed_model, out, study_dir=tmp_path, kinds=["report"]) == (path,)
    path.write_text("<!DOCTYPE html><title>A page of somebody else</title>")
    with pytest.raises(OutputError, match="earlier files"):
        write_beside(result, packed_model, out, study_dir=tmp_path, kinds=["report"])
    assert "somebody else" in path.read_text()


def test_saliency_is_a_map_on_the_images_of_t2_with_the_sum_that_the_network_gives(
    phantom_study: Path, packed_model: PackedModel, tmp_path: Path, samples: Any
) -> None:
    result = predict_folder(phantom_study, packed_model)
    (path,) = write_beside(result, packed_model, tmp_path, study_dir=phantom_study, kinds=["saliency"])
    assert [line for line in samples.complaints(path) if line.startswith("Error")] == []
    made = highdicom.imread(path).get_volume(apply_real_world_transform=True)
    t2 = result.volumes.t2 if result.volumes else None
    assert t2 is not None
    assert made.spatial_shape == t2.voxels.shape[::-1]
    of_network = saliency(packed_model, result.image)
    sum_of_map = float(made.array.sum()) * abs(float(np.linalg.det(made.affine[:3, :3]))) / 1000
    assert sum_of_map == pytest.approx(float(of_network.sum()), abs=0.1 * float(np.abs(of_network).sum()))
    assert float(np.abs(made.array).max()) > 0


def test_a_refused_study_has_no_saliency(packed_model: PackedModel, tmp_path: Path, samples: Any) -> None:
    out = tmp_path / "out"
    assert write_beside(samples.refused(), packed_model, out, study_dir=tmp_path, kinds=["saliency"]) == ()
    assert not lacks_files(samples.refused().answer, out, kinds=["saliency"])
