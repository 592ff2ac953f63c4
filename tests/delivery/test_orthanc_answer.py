"""What a packed model puts into a study of a PACS: what `predict` answers, as objects, and nothing of a bad study."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset

from prostate_alm.delivery.orthanc.answer import responder
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.delivery.predict import predict_folder


def test_a_study_gets_the_report_and_the_page_of_its_answer(packed_model: PackedModel, phantom_study: Path) -> None:
    found = responder(packed_model)(phantom_study)
    report, page = found.objects
    assert (found.code, report.Modality, page.Modality) == ("answered", "SR", "OT")
    answer = predict_folder(phantom_study, packed_model).answer
    assert any(abs(one - answer.logit) < 1e-4 for one in numbers_in(report))


def numbers_in(item: Dataset) -> Iterator[float]:
    """Yield every number of a report, however deep it lies."""
    for value in item.get("MeasuredValueSequence", []):
        yield float(value.NumericValue)
    for inner in item.get("ContentSequence", []):
        yield from numbers_in(inner)


def test_a_study_that_is_refused_gets_a_report_only_where_it_is_asked_for(
    packed_model: PackedModel, phantom_study: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "t2-only"
    shutil.copytree(sorted(phantom_study.iterdir())[-1], folder / "one")
    refused = predict_folder(folder, packed_model).answer
    assert responder(packed_model)(folder).objects == ()
    found = responder(packed_model, extras=["refusals"])(folder)
    assert (found.code, found.reason) == (refused.code, refused.reason)
    assert [one.Modality for one in found.objects] == ["SR"]
