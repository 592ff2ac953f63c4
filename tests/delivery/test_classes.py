"""A packed model of several classes, from the members' folders to the answer and what is written beside it."""

import csv
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import monai.bundle
import numpy as np
import pydicom
import pytest
import torch
from packs import BUNDLE, MEMBERS, packed, write_cohort
from pydantic import ValidationError
from scipy.special import log_softmax, softmax
from sklearn.metrics import roc_auc_score

from prostate_alm.cli import main
from prostate_alm.data.manifest import read_manifest, write_manifest
from prostate_alm.delivery.answers import SCHEMA_FILE, answer_from_json, answer_to_json, read_answers
from prostate_alm.delivery.beside import write_beside
from prostate_alm.delivery.card import ModelCard
from prostate_alm.delivery.package.described import describe_package
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.predict import StudyResult, predict_folder
from prostate_alm.delivery.report.saliency import blurred, integrated_gradients, saliency
from prostate_alm.delivery.sites import evaluate_sites
from prostate_alm.method.operating_point import choose_operating_point
from prostate_alm.shipped import shipped_bundle
from prostate_alm.training.networks import CascadeNet
from prostate_alm.whole_files import sha256_of_file

GOLDEN = Path(__file__).parents[1] / "golden" / "answer-two-classes.json"
NAMES, CRITICAL = ("none", "unmistakable", "equivocal"), 2

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:parsing config_file"),
]


def write_ensemble(folder: Path, *, critical: tuple[int, ...] = (CRITICAL,), overlays: tuple[str, ...] = ()) -> Path:
    """Write what training leaves of an ensemble of three findings, its weights and logits at random."""
    folder.mkdir(parents=True)
    manifest = with_findings(write_cohort(folder))
    studies = json.loads(manifest.read_text())["studies"]
    settings = {"loss": "ce", "alm": True, "findings": list(NAMES), "critical": list(critical), "ordered": False}
    about = {"bundle": "prostate", "experiment": "prostate-critical-equivocal", "name": "ce-alm", "members": MEMBERS}
    (folder / "ensemble.json").write_text(json.dumps(about | {"settings": settings, "overrides": {}}))
    files = {name: sha256_of_file(BUNDLE / name) for name in ("train.json", "findings.json", *overlays)}
    for number in range(MEMBERS):
        member = folder / f"member-{number:02d}"
        member.mkdir()
        recorded = {"manifest": manifest.name, "manifest_sha256": sha256_of_file(manifest)}
        config = {"bundle": "prostate", "settings": settings | {"member": number}, "config_files": files} | recorded
        (member / "config.json").write_text(json.dumps(config))
        training = [study for study in studies if study["split"] == "train"]
        kept = [s for i, s in enumerate(training) if i % 5 in (number % 5, (number + 1) % 5)]
        write_predictions(member / "predictions.csv", kept, "validation", seed=number)
        torch.manual_seed(number)
        network = CascadeNet(3, (1, 3), features=(8, 16, 32), pooling=((2, 2, 1), (2, 2, 2), (2, 2, 2)), outputs=3)
        torch.save(network.state_dict(), member / "model.pt")
        (member / "metrics.json").write_text("{}")
    tests = [study for study in studies if study["split"] == "test"]
    write_predictions(folder / "predictions.csv", tests, "test", seed=99)
    positives = sum(study["label"] for study in tests)
    figures = {"auc": 0.8, "rest_error_at_tpr95": 0.25, "positives": positives, "negatives": len(tests) - positives}
    metrics = {"members": list(range(MEMBERS)), "ensemble": {"test": figures}, "intervals": {"test": {}}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def with_findings(path: Path) -> Path:
    manifest = read_manifest(path)
    names = (NAMES[CRITICAL] if study.label else NAMES[int(study.id[-1]) % 2] for study in manifest.studies)
    studies = [study.model_copy(update={"finding": n}) for study, n in zip(manifest.studies, names, strict=True)]
    write_manifest(manifest.model_copy(update={"studies": tuple(studies)}), path)
    return path


def write_predictions(path: Path, studies: list[dict[str, Any]], split: str, *, seed: int) -> None:
    random = np.random.default_rng(seed)
    columns = ("sample_id", "split", "label", "logit", "class", *(f"logit_{k}" for k in range(3)))
    rows: list[tuple[Any, ...]] = [columns]
    for study in studies:
        number = NAMES.index(study["finding"])
        logits = random.normal(0, 0.5, 3) + 0.6 * np.eye(3)[number]
        rows.append((study["id"], split, study["label"], log_odds(logits), number, *map(float, logits)))
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def log_odds(logits: np.ndarray) -> float:
    """Return the log-odds of the critical class from its softmax probability."""
    p = softmax(logits)[CRITICAL]
    return float(np.log(p / (1 - p)))


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ensemble(tmp_path_factory.mktemp("classes") / "ce-alm")


@pytest.fixture(scope="module")
def pack(ensemble: Path) -> Path:
    path = ensemble.parent / "findings.zip"
    packed(ensemble, path)
    return path


@pytest.fixture(scope="module")
def model(pack: Path) -> PackedModel:
    return open_package(pack)


@pytest.fixture(scope="module")
def result(model: PackedModel, phantom_study: Path) -> StudyResult:
    return predict_folder(phantom_study, model)


def test_an_answer_about_two_classes_is_the_text_that_it_was(phantom_study: Path) -> None:
    """Written before there were several classes, but for `acquisition`; numbers to three decimals."""
    answer = predict_folder(phantom_study, open_package(shipped_bundle("prostate") / "demo.zip")).answer
    content = json.loads(answer_to_json(answer))
    content["software"] = sorted(content["software"])
    assert json.dumps(rounded(content), indent=1) + "\n" == GOLDEN.read_text()


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def test_the_answer_follows_from_the_mean_of_the_members_logits(model: PackedModel, result: StudyResult) -> None:
    answer, card = result.answer, model.card
    with torch.inference_mode():
        of_members = np.stack([member(result.image[None])[0].double().numpy() for member in model.network.members])
    mean = of_members.mean(axis=0)
    assert answer.logit == pytest.approx(log_odds(mean), rel=1e-6)
    assert answer.member_logits == pytest.approx([log_odds(one) for one in of_members], rel=1e-6)
    found = answer.classes.probabilities
    assert list(found) == list(NAMES)
    assert sum(found.values()) == pytest.approx(1)
    assert found["equivocal"] == answer.probability
    assert np.log(found["none"] / found["unmistakable"]) == pytest.approx(mean[0] - mean[1])
    slope, intercept = card.calibration.slope, card.calibration.intercept
    assert answer.probability == pytest.approx(1 / (1 + np.exp(-(slope * log_odds(mean) + intercept))))


def test_the_class_called_is_the_critical_one_at_the_threshold_and_the_most_probable_other_below(
    model: PackedModel, phantom_study: Path, result: StudyResult
) -> None:
    others = {name: p for name, p in result.answer.classes.probabilities.items() if name != "equivocal"}
    for threshold, decision, called in (
        (result.answer.logit, "positive", "equivocal"),
        (np.nextafter(result.answer.logit, np.inf), "negative", max(others, key=others.get)),
    ):
        point = model.card.operating_points[0].model_copy(update={"threshold": float(threshold), "target_tpr": 0.5})
        card = model.card.model_copy(update={"operating_points": (point,), "default_target_tpr": 0.5})
        answer = predict_folder(phantom_study, replace(model, card=card)).answer
        assert (answer.decision, answer.classes.called) == (decision, called)


def test_thresholds_rest_on_the_mean_logits_of_the_members_that_validated_a_study(
    ensemble: Path, model: PackedModel
) -> None:
    of_study: dict[str, list[list[float]]] = {}
    labels = {}
    for number in range(MEMBERS):
        with (ensemble / f"member-{number:02d}" / "predictions.csv").open() as stream:
            for row in csv.DictReader(stream):
                of_study.setdefault(row["sample_id"], []).append([float(row[f"logit_{k}"]) for k in range(3)])
                labels[row["sample_id"]] = int(row["class"] == "2")
    scores = [round(log_odds(np.mean(logits, axis=0)), 4) for logits in of_study.values()]
    truth = [labels[key] for key in of_study]
    for stored in model.card.operating_points:
        expected = choose_operating_point(truth, scores, target_tpr=stored.target_tpr)
        assert stored.threshold == expected.threshold
        assert stored.fpr == expected.fpr.estimate


def test_the_answer_follows_the_schema_and_survives_its_file(result: StudyResult) -> None:
    text = answer_to_json(result.answer)
    jsonschema.validate(json.loads(text), json.loads(SCHEMA_FILE.read_text()))
    assert json.loads(text)["schema_version"] == "1.1"
    assert answer_from_json(text) == result.answer
    with pytest.raises(ValidationError, match=r"schema_version must be 1\.1"):
        answer_from_json(text.replace('"schema_version": "1.1"', '"schema_version": "1.0"'))


def test_saliency_is_that_of_the_critical_class(model: PackedModel, result: StudyResult) -> None:
    image = result.image
    baseline = blurred(image, spacing_mm=model.card.grid.spacing_mm)

    def score(images: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(model.network(images), dim=1)[:, CRITICAL]
        return torch.log(p / (1 - p))

    expected = integrated_gradients(score, image, baseline=baseline, steps=2)
    found = saliency(model, image)
    torch.testing.assert_close(torch.from_numpy(found[0]), expected[:1].sum(0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(torch.from_numpy(found[1]), expected[1:].sum(0), rtol=1e-3, atol=1e-6)


def test_report_and_structured_report_say_all_probabilities_and_the_decision_about_the_critical_class(
    model: PackedModel, result: StudyResult, phantom_study: Path, tmp_path: Path
) -> None:
    written = write_beside(result, model, tmp_path, study_dir=phantom_study, kinds=("sr", "report"))
    files = {path.suffixes[0]: path for path in written}
    page, found = files[".html"].read_text(), result.answer.classes
    assert f"Called {found.called}: none " in page
    assert "The decision is about equivocal" in page
    numbers, words = items_of(pydicom.dcmread(files[".sr"]))
    for name, probability in found.probabilities.items():
        assert numbers[f"Probability of {name}"] == pytest.approx(probability, abs=5e-5)
    assert words["Class called at the operating point"] == found.called
    assert words["Name of the critical class"] == "equivocal"
    assert "probability of the critical class, equivocal, " in words["Summary"]


def items_of(report: pydicom.Dataset) -> tuple[dict[str, float], dict[str, str]]:
    """Return the numbers and the words of a report by the meaning of their concepts."""
    numbers, words = {}, {}
    for item in report.get("ContentSequence", ()):
        name = item.ConceptNameCodeSequence[0].CodeMeaning
        if item.ValueType == "NUM":
            numbers[name] = float(item.MeasuredValueSequence[0].NumericValue)
        elif item.ValueType == "TEXT":
            words[name] = item.TextValue
        elif item.ValueType == "CODE":
            words[name] = item.ConceptCodeSequence[0].CodeMeaning
        inner = items_of(item)
        numbers |= inner[0]
        words |= inner[1]
    return numbers, words


def test_the_command_answers_with_the_class_called(
    pack: Path, phantom_study: Path, result: StudyResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(phantom_study), "--model", str(pack), "--output", str(tmp_path / "answers")]) == 0
    assert f", called {result.answer.classes.called}" in capsys.readouterr().out
    (answer,) = read_answers(tmp_path / "answers").values()
    assert answer.classes == result.answer.classes
    with (tmp_path / "answers" / "answers.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["called"] == result.answer.classes.called


def test_monai_answers_as_predict_does(pack: Path, result: StudyResult, phantom_study: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(pack) as packed:
        packed.extractall(tmp_path)
    folder = tmp_path / "findings"
    files = {name: str(folder / "configs" / f"{name}.json") for name in ("metadata", "inference")}
    monai.bundle.verify_net_in_out(
        "network_def", meta_file=files["metadata"], config_file=files["inference"], device="cpu"
    )
    where = {"study_dir": str(phantom_study), "output_dir": str(tmp_path / "answers"), "bundle_root": str(folder)}
    monai.bundle.run("inference", config_file=files["inference"], **where)
    (path,) = (tmp_path / "answers").iterdir()
    assert answer_from_json(path.read_text()).classes == result.answer.classes


def test_the_pack_says_what_it_is_and_brings_the_configs_of_its_training(
    pack: Path, model: PackedModel, caplog: pytest.LogCaptureFixture
) -> None:
    assert (model.card.format_version, model.card.classes.names, model.card.classes.critical) == (2, NAMES, CRITICAL)
    describe_package(pack)
    assert not caplog.records  # a config that this version does not write would be told
    with zipfile.ZipFile(pack) as packed:
        config = json.loads(packed.read("findings/configs/member_train.json"))
        text = packed.read("findings/docs/README.md").decode()
    assert config["network_def"]["outputs"] == "$@settings.classes"
    assert config["train"]["trainer"]["_target_"] == "monai.engines.SupervisedTrainer"
    assert "They tell none, unmistakable, equivocal apart" in text
    assert "| error of the other classes at 95 % TPR | 25.0 % |" in text


def test_a_card_of_two_classes_is_as_it_was(packed_model: PackedModel) -> None:
    content = packed_model.card.model_dump(mode="json")
    assert content["format_version"] == 1
    assert "classes" not in content
    assert "outputs" not in content["network"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["network"].pop("outputs"), "network must have 3 outputs, got 1"),
        (lambda card: card.pop("classes"), "network must have 1 outputs, got 3"),
        (lambda card: card.update(format_version=1), "format_version must be 2 with classes, got 1"),
        (lambda card: card["classes"].update(critical=3), "critical must be one of 3 different names, got 3"),
        (lambda card: card["classes"].update(names=["a", "a", "b"]), "critical must be one of 3 different names"),
        (lambda card: card["classes"].update(names=["a", "b", "c" * 65]), "at most 64 characters"),
    ],
)
def test_a_card_whose_classes_do_not_fit_is_refused(
    model: PackedModel, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    content = model.card.model_dump(mode="json")
    change(content)
    with pytest.raises(ValidationError, match=message):
        ModelCard.model_validate_json(json.dumps(content))


def test_what_a_pack_cannot_repeat_is_refused(tmp_path: Path) -> None:
    several = write_ensemble(tmp_path / "several", critical=(2, 1))
    with pytest.raises(PackageError, match=r"critical must be one finding in a pack, got 2 in .*Train with --critical"):
        packed(several, tmp_path / "a.zip")
    more = write_ensemble(tmp_path / "more", overlays=("federated.json",))
    with pytest.raises(PackageError, match=r"members must be trained by train\.json and overrides, got the overlay f"):
        packed(more, tmp_path / "b.zip")
    other = write_ensemble(tmp_path / "other")
    copy = other / "member-00" / "bundle"
    copy.mkdir()
    (copy / "train.json").write_bytes((BUNDLE / "train.json").read_bytes())
    (copy / "findings.json").write_text("{}")
    with pytest.raises(PackageError, match=r"findings\.json must be the one that the members were trained with"):
        packed(other, tmp_path / "c.zip")


def test_a_site_is_judged_by_the_critical_class(model: PackedModel, cohort: Path, dicom_cohort: Path) -> None:
    report, scores = evaluate_sites(model, [cohort])
    found = scores["cohort"]
    assert found.logits[0] == pytest.approx(predict_folder(dicom_cohort / found.ids[0], model).answer.logit, abs=1e-4)
    assert report.sites["cohort"]["auc"]["estimate"] == roc_auc_score(found.labels, found.logits)


def test_log_odds_and_softmax_agree() -> None:
    """Of the tests' own oracle."""
    logits = np.array([0.3, -1.0, 0.7])
    assert log_softmax(logits)[CRITICAL] == pytest.approx(-np.log1p(np.exp(-log_odds(logits))))
