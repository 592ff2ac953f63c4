"""A model of lesions: packed, asked, and where it says they are, beside the masks of the phantom."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import highdicom
import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from scipy import ndimage

from prostate_alm.cli import main
from prostate_alm.data.manifest import Manifest, read_manifest
from prostate_alm.delivery.answers import answer_from_json, answer_schema, answer_to_json
from prostate_alm.delivery.beside import file_beside, lacks_files, write_beside
from prostate_alm.delivery.card import LESIONS_FORMAT_VERSION, GridSpec
from prostate_alm.delivery.gland import GlandLocation
from prostate_alm.delivery.lesions import LesionFindings, find_lesions, mean_map
from prostate_alm.delivery.package.build import PackLabel, pack_ensemble
from prostate_alm.delivery.package.cohort import read_volumes
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.package.trained import Origins
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.predict import StudyResult, predict_folder
from prostate_alm.delivery.preprocess import network_input
from prostate_alm.delivery.scores import member_logits
from prostate_alm.delivery.sites import SiteError, evaluate_sites
from prostate_alm.imaging.volume import Volume
from prostate_alm.method.lesion_candidates import lesion_candidates
from prostate_alm.method.lesion_metrics import Detections, froc
from prostate_alm.method.lesions import case_logits
from prostate_alm.training.lesion_network import DualPathUNet
from prostate_alm.whole_files import sha256_of_file

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs
REPOSITORY = Path(__file__).resolve().parents[2]


BUNDLE, LICENCE = REPOSITORY / "bundles" / "lesions", REPOSITORY / "LICENSE"


B_VALUES = (100.0, 600.0, 1000.0)
GRID = GridSpec(
    spacing_mm=(2.0, 2.0, 3.0), normalised_size=(46, 46, 22), image_size=(40, 40, 20), b_values_s_per_mm2=B_VALUES
)


STRIDES = ((2, 2, 1),)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def network(number: int) -> DualPathUNet:
    """Return a network that needs no training: what stays bright from b 100 to b 1000 is a lesion of the phantom."""
    net = DualPathUNet((1, 3), features=(1,), strides=STRIDES)
    for path in net.paths:
        path[0].conv.weight.data.zero_()
    net.paths[1][0].conv.weight.data[0, 0], net.paths[1][0].conv.weight.data[0, 2] = -0.7, 1.0 + 0.01 * number
    net.head.weight.data[:] = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1, 1)
    return net.eval()


def write_ensemble(folder: Path, manifest: Path, *, members: int = 2) -> Path:
    """Write an ensemble of such networks as training leaves one, their logits on the cohort in `predictions.csv`."""
    cohort = read_manifest(manifest)
    folder.mkdir(parents=True)
    overrides = {"network_def#features": "[1]", "network_def#strides": str([list(one) for one in STRIDES])}
    about = {"bundle": "lesions", "experiment": "lesions", "data": "phantoms", "name": "dice_bce-alm"}
    settings = {"loss": "dice_bce", "alm": True}
    (folder / "ensemble.json").write_text(
        json.dumps({**about, "members": members, "settings": settings, "overrides": overrides})
    )
    images = {one.id: network_input(read_volumes(one, manifest.parent, B_VALUES), GRID) for one in cohort.studies}
    for number in range(members):
        _write_member(folder / f"member-{number:02d}", number, cohort, manifest, images=images)
    tests = [(one.id, "test", one.label, 0.0, 0.1) for one in cohort.studies if one.split == "test"]
    _write_rows(folder / "predictions.csv", ("sample_id", "split", "label", "logit", "logit_std"), tests)
    figures = {"auc": 0.8, "positives": sum(row[2] for row in tests), "negatives": sum(not row[2] for row in tests)}
    metrics = {"members": list(range(members)), "failed": [], "ensemble": {"test": figures}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def _write_member(folder: Path, number: int, cohort: Manifest, manifest: Path, *, images: dict[str, Any]) -> None:
    folder.mkdir()
    config = {
        "bundle": "lesions", "settings": {"member": number}, "dtype": "float32", "versions": {"torch": "2.9"},
        "config_files": {"train.json": sha256_of_file(BUNDLE / "train.json")}, "manifest": manifest.name,
        "manifest_sha256": sha256_of_file(manifest),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    net = network(number)
    with torch.inference_mode():
        logits = {key: float(case_logits(net(image[None]).double())) for key, image in images.items()}
    rows = [(one.id, "validation", one.label, logits[one.id]) for one in cohort.studies if one.split == "train"]
    _write_rows(folder / "predictions.csv", ("sample_id", "split", "label", "logit"), rows)
    torch.save(net.state_dict(), folder / "model.pt")
    (folder / "metrics.json").write_text("{}")


def _write_rows(path: Path, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    path.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]) + "\n")


@pytest.fixture(scope="module")
def ensemble(lesion_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ensemble(tmp_path_factory.mktemp("lesions") / "dice_bce-alm", lesion_cohort)


@pytest.fixture(scope="module")
def pack(ensemble: Path, lesion_cohort: Path) -> Path:
    path = ensemble.parent / "lesions.zip"
    pack_ensemble(ensemble, path, origins=Origins(manifest=lesion_cohort), label=PackLabel(licence=LICENCE))
    return path


@pytest.fixture(scope="module")
def model(pack: Path) -> PackedModel:
    return open_package(pack)


@pytest.fixture(scope="module")
def positive(lesion_cohort: Path) -> str:
    return next(study.id for study in read_manifest(lesion_cohort).studies if study.label)


@pytest.fixture(scope="module")
def result(model: PackedModel, dicom_cohort: Path, positive: str) -> StudyResult:
    return predict_folder(dicom_cohort / positive, model)


def test_the_card_holds_the_thresholds_of_candidates_and_what_they_rest_on(
    model: PackedModel, lesion_cohort: Path
) -> None:
    card = model.card
    assert card.format_version == LESIONS_FORMAT_VERSION
    training = [study for study in read_manifest(lesion_cohort).studies if study.split == "train"]
    assert card.lesions is not None
    assert card.lesions.cases == len(training)
    assert card.lesions.lesions == sum(study.label for study in training)
    assert [one.target_sensitivity for one in card.lesions.points] == [one.target_tpr for one in card.operating_points]
    found = [Detections(np.array([*card.lesions.found, *[-np.inf] * card.lesions.missed]), np.array([]))]
    others = [Detections(np.array([]), np.array(card.lesions.false_positives))]
    curve = froc([*found, *others])  # of two cases, as far as it reaches
    for point in card.lesions.points:
        at = np.flatnonzero(curve.thresholds >= point.threshold)[-1]
        assert curve.sensitivity[at] == pytest.approx(point.sensitivity)
        false_positives = curve.false_positives_per_case[at] * 2 / card.lesions.cases
        assert false_positives == pytest.approx(point.false_positives_per_case)


def test_a_candidate_is_where_the_phantom_has_its_lesion(
    result: StudyResult, lesion_cohort: Path, positive: str
) -> None:
    answer = result.answer
    assert answer.schema_version == "1.2"
    assert [one.number for one in answer.lesions] == list(range(1, len(answer.lesions) + 1))
    assert answer.lesions == result.lesions.candidates
    assert all(one.probability >= answer.lesion_point.threshold_probability for one in answer.lesions)
    (study,) = (one for one in read_manifest(lesion_cohort).studies if one.id == positive)
    mask = nib.load(lesion_cohort.parent / study.lesions.path)
    away_mm = ndimage.distance_transform_edt(np.asarray(mask.dataobj) == 0, sampling=mask.header.get_zooms())
    nearest = min(_at(away_mm, RAS_TO_LPS @ mask.affine, one.position_mm) for one in answer.lesions)
    assert nearest <= 3  # a voxel of the network


def _at(values: np.ndarray, affine_lps: np.ndarray, place_mm: tuple[float, ...]) -> float:
    voxel = np.rint(np.linalg.inv(affine_lps) @ [*place_mm, 1.0]).astype(int)[:3]
    return float(values[tuple(np.clip(voxel, 0, np.array(values.shape) - 1))])


def test_labels_positions_and_volumes_fit_each_other_and_t2(result: StudyResult) -> None:
    found, t2 = result.lesions, result.volumes.t2
    assert found.probability.shape == found.labels.shape == t2.voxels.shape
    assert (found.probability.dtype, found.labels.dtype) == (np.float32, np.uint8)
    np.testing.assert_allclose(found.affine_lps, RAS_TO_LPS @ t2.affine_ras_mm)
    voxel_mm3 = abs(np.linalg.det(found.affine_lps[:3, :3]))
    for one in found.candidates:
        inside = found.labels == one.number
        assert one.volume_mm3 == pytest.approx(inside.sum() * voxel_mm3, abs=0.1)
        assert _at(found.labels, found.affine_lps, one.position_mm) == one.number
        assert found.probability[inside].max() <= one.probability + 1e-6


def test_an_answer_with_lesions_is_read_again_and_fits_the_schema(result: StudyResult) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    text = answer_to_json(result.answer)
    assert answer_from_json(text) == result.answer
    jsonschema.validate(json.loads(text), answer_schema())
    assert "side" not in json.loads(text)["lesions"][0]  # nobody looked for the gland
    with pytest.raises(ValueError, match=r"schema_version must be 1\.2"):
        answer_from_json(text.replace('"schema_version": "1.2"', '"schema_version": "1.0"'))


def test_the_map_is_that_of_the_inference_of_the_bundle(
    model: PackedModel, ensemble: Path, lesion_cohort: Path, positive: str, tmp_path: Path
) -> None:
    study = next(one for one in read_manifest(lesion_cohort).studies if one.id == positive)
    folder = tmp_path / "studies" / positive
    folder.mkdir(parents=True)
    for file in (study.t2, study.dwi):
        (folder / Path(file.path).name).symlink_to(lesion_cohort.parent / file.path)
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "inference.json"), meta_file=str(BUNDLE / "metadata.json"), workflow_type="infer",
        member_dir=str(ensemble / "member-00"), dataset_dir=str(tmp_path / "studies"),
        output_dir=str(tmp_path / "maps"),
        **{"network_def#features": [1], "network_def#strides": [list(one) for one in STRIDES]},
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    expected = nib.load(tmp_path / "maps" / positive / "t2_lesions.nii.gz").get_fdata()
    volumes = read_volumes(study, lesion_cohort.parent, B_VALUES)
    outputs = member_logits(model.network, network_input(volumes, GRID)[None])[0, :1]
    found = find_lesions(mean_map(outputs, volumes.t2, GRID), volumes.t2, GRID, threshold=0.0)
    assert expected.max() > 0.5
    np.testing.assert_allclose(found.probability, expected, atol=1e-5)


def test_the_command_line_packs_and_answers(
    ensemble: Path, lesion_cohort: Path, dicom_cohort: Path, positive: str, tmp_path: Path, capsys: Any
) -> None:
    packed = ("pack", ensemble, "--output", tmp_path / "p.zip", "--manifest", lesion_cohort, "--license", LICENCE)
    assert main(list(map(str, packed))) == 0
    told = capsys.readouterr()
    assert "target 95 % of lesions: candidates from" in told.out
    assert "warning: The threshold that finds 95 % of the lesions rests on" in told.err
    asked = ("predict", dicom_cohort / positive, "--model", tmp_path / "p.zip", "--output", tmp_path / "answers")
    assert main(list(map(str, asked))) == 0
    told = capsys.readouterr().out
    header, row = (line.split(",") for line in (tmp_path / "answers" / "answers.csv").read_text().splitlines())
    (file,) = (tmp_path / "answers").glob("*.json")
    answer = answer_from_json(file.read_bytes())
    cells = dict(zip(header, row, strict=True))
    assert int(cells["lesions"]) == len(answer.lesions)
    assert f"candidates of lesions: {len(answer.lesions)}" in told
    assert [float(cells[f"lesion_{axis}_mm"]) for axis in "xyz"] == list(answer.lesions[0].position_mm)


def test_monai_s_commands_answer_as_predict_does_and_export_the_network(
    pack: Path, model: PackedModel, dicom_cohort: Path, positive: str, result: StudyResult, tmp_path: Path
) -> None:
    with zipfile.ZipFile(pack) as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / model.card.name
    files = {name: str(folder / "configs" / f"{name}.json") for name in ("metadata", "inference")}
    monai.bundle.verify_net_in_out(
        "network_def", meta_file=files["metadata"], config_file=files["inference"], device="cpu"
    )
    workflow = ConfigWorkflow(
        config_file=files["inference"], workflow_type="infer", bundle_root=str(folder),
        study_dir=str(dicom_cohort / positive), output_dir=str(tmp_path / "answers"),
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    (path,) = (tmp_path / "answers").iterdir()
    answer = answer_from_json(path.read_bytes())
    assert answer.model_copy(update={"model": result.answer.model}) == result.answer  # the folder has another digest
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 4, 40, 40, 20)).astype(np.float32))
    exported = torch.export.export(model.network, (image,))
    torch.testing.assert_close(exported.module()(image), model.network(image), atol=1e-4, rtol=0)


@pytest.mark.slow  # trains two members for two epochs
def test_from_masks_to_candidates_by_the_commands_of_the_documents(
    lesion_cohort: Path, dicom_cohort: Path, positive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = ("ensemble", "train", "lesions", "--members", 2, "--manifest", lesion_cohort, "--tracking_uri", "none")
    assert main(list(map(str, (*trained, "--alm_epochs", 2)))) == 0
    (ensemble,) = (tmp_path / "outputs" / "lesions" / "lesions").iterdir()
    assert main(list(map(str, ("pack", ensemble, "--output", "p.zip", "--manifest", lesion_cohort)))) == 0
    study = dicom_cohort / positive
    assert main(["predict", str(study), "--model", "p.zip", "--output", "answers", "--report"]) == 0
    (file,) = (tmp_path / "answers").glob("*.json")
    answer = answer_from_json(file.read_bytes())
    assert answer.lesion_point.cases == open_package(Path("p.zip")).card.lesions.cases
    assert "Where lesions may be" in file.with_suffix(".html").read_text()


def findings(place: tuple[int, int, int], **given: Any) -> LesionFindings:
    """Return what is found in a map with one peak, on T2 of the network's own grid."""
    logits = np.full(GRID.image_size, -9.0)
    logits[place] = 3.0
    volume = Volume(np.zeros((46, 46, 22), np.float32), np.diag([-2.0, -2.0, 3.0, 1.0]))
    return find_lesions(logits, volume, GRID, threshold=0.0, **given)


def test_a_peak_has_its_place_in_the_patient_and_its_part_of_the_gland() -> None:
    gland = GlandLocation((40.0, 40.0, 30.0), low_mm=(20.0, 20.0, 10.0), high_mm=(60.0, 60.0, 50.0), volume_ml=40.0)
    (one,) = findings((25, 20, 12), gland=gland).candidates
    assert one.position_mm == (2 * 28.0, 2 * 23.0, 3 * 13.0)  # the image begins at voxel (3, 3, 1) of T2
    assert (one.volume_mm3, one.side, one.level) == (12.0, "left", "base")
    (other,) = findings((10, 20, 4), gland=gland).candidates
    assert (other.side, other.level) == ("right", "apex")
    (unknown,) = findings((10, 20, 4)).candidates
    assert (unknown.side, unknown.level) == (None, None)


def test_a_candidate_at_the_edge_is_told_and_one_in_the_middle_is_not() -> None:
    assert findings((0, 20, 12)).at_edge == (1,)
    assert findings((20, 20, 12)).at_edge == ()


def test_where_t2_ends_nobody_looks() -> None:
    volume = Volume(np.zeros((46, 46, 10), np.float32), np.diag([-2.0, -2.0, 3.0, 1.0]))
    logits = mean_map(torch.arange(20.0).expand(2, 1, 40, 40, 20), volume, GRID)
    assert np.isfinite(logits).all(axis=(0, 1)).sum() == 10
    found = find_lesions(logits, volume, GRID, threshold=0.0)
    assert found.candidates[0].position_mm[2] == 27.0


def test_a_candidate_smaller_than_a_voxel_of_t2_keeps_one() -> None:
    volume = Volume(np.zeros((9, 9, 8), np.float32), np.diag([-11.0, -11.0, 9.0, 1.0]))
    logits = np.full(GRID.image_size, -9.0)
    logits[11, 12, 10] = 3.0
    found = find_lesions(logits, volume, GRID, threshold=0.0)
    assert (found.labels == 1).sum() == 1
    assert len(found.candidates) == len(lesion_candidates(logits, floor_logit=0.0).peaks) == 1


def test_what_cannot_be_packed_is_told_in_a_line(ensemble: Path, lesion_cohort: Path, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"bundle": "prostate"}, "members must all be of the lesions bundle, got one of prostate"),
        ({"manifest_sha256": "0" * 64}, "manifest must be the one that the members were trained with"),
        ({"config_files": {}}, "train.json must be the one that the members were trained with"),
    ]
    for number, (changes, message) in enumerate(cases):
        folder = shutil.copytree(ensemble, tmp_path / str(number))
        config = folder / "member-01" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        with pytest.raises(PackageError, match=message) as caught:
            pack_ensemble(folder, tmp_path / "p.zip", origins=Origins(manifest=lesion_cohort))
        assert "\n" not in str(caught.value)
    copy = tmp_path / lesion_cohort.name
    copy.write_bytes(lesion_cohort.read_bytes())  # the manifest without its volumes
    with pytest.raises(PackageError, match="volumes and lesions of the training studies must lie beside the manifest"):
        pack_ensemble(ensemble, tmp_path / "p.zip", origins=Origins(manifest=copy))


def test_what_goes_back_into_the_study_is_what_the_answer_says(
    result: StudyResult, model: PackedModel, dicom_cohort: Path, positive: str, tmp_path: Path
) -> None:
    answer: Any = result.answer
    assert answer.lesions
    assert result.lesions is not None
    study = dicom_cohort / positive
    files = write_beside(result, model, tmp_path, study_dir=study, kinds=["sr", "saliency"])
    assert sorted(path.suffixes[-2] for path in files) == [".map", ".saliency", ".seg", ".sr"]
    assert not lacks_files(answer, tmp_path, kinds=["sr", "saliency"])
    segments = highdicom.seg.segread(file_beside(answer, tmp_path, "seg"))
    found = segments.get_volume(combine_segments=True)
    counts = np.bincount(result.lesions.labels.ravel(), minlength=len(answer.lesions) + 1)[1:]
    assert np.bincount(found.array.ravel(), minlength=len(counts) + 1)[1:].tolist() == counts.tolist()
    report = highdicom.sr.srread(file_beside(answer, tmp_path, "sr"))
    groups = report.content.get_planar_roi_measurement_groups()
    assert [tuple(group.roi.value[0]) for group in groups] == [
        pytest.approx(one.position_mm, abs=1e-4) for one in answer.lesions
    ]


def test_a_site_is_judged_by_its_cases_and_by_its_candidates(
    model: PackedModel, lesion_cohort: Path, dicom_cohort: Path, capsys: pytest.CaptureFixture[str], pack: Path
) -> None:
    report, scores = evaluate_sites(model, [lesion_cohort])
    (name, figures), found = next(iter(report.sites.items())), scores[lesion_cohort.stem]
    answers = {key: predict_folder(dicom_cohort / key, model).answer for key in found.ids}
    assert found.logits.tolist() == pytest.approx([answer.logit for answer in answers.values()], abs=1e-4)
    target = model.card.default_target_tpr
    point = next(one for one in figures["lesion_points"] if one["target_sensitivity"] == target)
    hits, others = 0, 0
    for study in read_manifest(lesion_cohort).studies:
        if study.id in answers:  # a phantom has one lesion at most
            mask = nib.load(lesion_cohort.parent / study.lesions.path)
            affine_lps = RAS_TO_LPS @ mask.affine
            away_mm = ndimage.distance_transform_edt(np.asarray(mask.dataobj) == 0, sampling=mask.header.get_zooms())
            within = [_at(away_mm, affine_lps, one.position_mm) <= 3 for one in answers[study.id].lesions]
            hits += any(within)
            others += len(within) - any(within)
    assert (point["lesions"], point["sensitivity"]["estimate"]) == (figures["positives"], hits / figures["positives"])
    assert point["false_positives_per_case"] == others / len(answers)
    assert main(["sites", str(pack), str(lesion_cohort)]) == 0
    assert f"{name} (own): candidates find {100 * hits / point['lesions']:.1f} [" in capsys.readouterr().out


def test_a_site_without_drawn_lesions_is_refused(model: PackedModel, cohort: Path) -> None:
    with pytest.raises(SiteError, match="must have lesions that were drawn for a model of lesions, got none of 20"):
        evaluate_sites(model, [cohort])
