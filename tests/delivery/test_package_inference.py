"""A packed model as MONAI's own commands take it."""

import json
import zipfile
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from prostate_alm.delivery import package
from prostate_alm.delivery.answers import answer_from_json
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.delivery.predict import predict_folder

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "prostate"
SCHEMA = Path(package.__file__).with_name("bundle_metadata.schema.json")

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),  # MONAI looks for a decoder of GPUs
    pytest.mark.filterwarnings(
        "ignore:parsing config_file"
    ),  # it warns that a config is code, which is why we use ours
    pytest.mark.filterwarnings("ignore:No hash value provided"),
]


@pytest.fixture
def folder(packed_file: Path, tmp_path: Path) -> Path:
    """Return the unpacked model."""
    with zipfile.ZipFile(packed_file) as packed:
        packed.extractall(tmp_path)
    return tmp_path / "prostate"


def test_a_model_as_a_hub_lays_it_out_is_the_model_that_was_packed(folder: Path, packed_model: PackedModel) -> None:
    (folder / ".gitattributes").write_text("*.pt filter=lfs diff=lfs merge=lfs -text\n")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "model.pt.metadata").write_text("etag")
    assert open_package(folder).card == packed_model.card
    (folder / "configs" / "README.md").write_text("one more")
    with pytest.raises(PackageError, match="incomplete_model"):
        open_package(folder)


def test_the_metadata_pass_the_check_of_monai(folder: Path) -> None:
    metadata = folder / "configs" / "metadata.json"
    monai.bundle.verify_metadata(meta_file=str(metadata), filepath=str(SCHEMA))
    content = json.loads(metadata.read_text())
    del content["network_data_format"]["inputs"]["image"]["dtype"]
    metadata.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="'dtype' is a required property"):
        monai.bundle.verify_metadata(meta_file=str(metadata), filepath=str(SCHEMA))


def test_the_network_takes_and_gives_what_the_metadata_say(folder: Path) -> None:
    files = {name: str(folder / "configs" / f"{name}.json") for name in ("metadata", "inference")}
    monai.bundle.verify_net_in_out(
        "network_def", meta_file=files["metadata"], config_file=files["inference"], device="cpu"
    )


def test_monai_loads_the_ensemble(folder: Path, packed_model: PackedModel) -> None:
    network = monai.bundle.load(
        folder.name, bundle_dir=str(folder.parent), workflow_type="inference", source="github", device="cpu"
    )
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 4, 40, 40, 20)).astype(np.float32))
    assert torch.equal(network.eval()(image), packed_model.network(image))


def test_the_inference_of_the_bundle_answers_as_predict_does(
    folder: Path, packed_model: PackedModel, phantom_study: Path, tmp_path: Path
) -> None:
    monai.bundle.run(
        "inference",
        config_file=str(folder / "configs" / "inference.json"),
        bundle_root=str(folder),
        study_dir=str(phantom_study),
        output_dir=str(tmp_path / "answers"),
    )
    (path,) = (tmp_path / "answers").iterdir()
    answer = answer_from_json(path.read_text())
    expected = predict_folder(phantom_study, open_package(folder)).answer
    assert answer == expected
    assert answer.status == "answered"
    assert answer.member_logits == predict_folder(phantom_study, packed_model).answer.member_logits


def inference(folder: Path, **more: object) -> ConfigWorkflow:
    config = str(folder / "configs" / "inference.json")
    return ConfigWorkflow(config_file=config, workflow_type="infer", bundle_root=str(folder), **more)


def test_monai_finds_sets_and_uses_all_properties_of_the_inference(
    folder: Path, phantom_study: Path, tmp_path: Path
) -> None:
    workflow = inference(folder, study_dir="nowhere", output_dir=str(tmp_path / "answers"))
    workflow.dataset_dir = str(phantom_study)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.dataset_data == [{"study": str(phantom_study)}]
    assert not (tmp_path / "answers").exists()
    workflow.evaluator.run()
    (path,) = (tmp_path / "answers").iterdir()
    assert answer_from_json(path.read_text()).status == "answered"


def test_a_refused_study_has_no_logit_that_another_handler_could_write_down(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "text.dcm").write_text("no DICOM")
    workflow = inference(folder, study_dir=str(tmp_path / "study"), output_dir=str(tmp_path / "answers"))
    workflow.initialize()
    workflow.evaluator.run()
    (path,) = (tmp_path / "answers").iterdir()
    assert answer_from_json(path.read_text()) == predict_folder(tmp_path / "study", open_package(folder)).answer
    assert workflow.evaluator.state.output["pred"].isnan().all()


def cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def test_wrong_use_of_the_inference_is_told_and_no_answer_is_replaced(
    folder: Path, phantom_study: Path, tmp_path: Path
) -> None:
    study, output, absent = str(phantom_study), str(tmp_path / "answers"), str(tmp_path / "absent")
    for study_dir, output_dir, message in (
        (None, output, "no_study: study_dir must be a folder, got None. Give --study_dir FOLDER"),
        (absent, output, f"no_study: study_dir must be a folder, got {absent}. Give --study_dir FOLDER"),
        (study, None, "no_study: output_dir must be a folder for the answer, got none. Give --output_dir"),
    ):
        workflow = inference(folder, study_dir=study_dir, output_dir=output_dir)
        workflow.initialize()
        with pytest.raises(RuntimeError) as caught:
            workflow.run()
        assert cause(caught.value) == message
    with pytest.raises(RuntimeError) as caught:
        inference(folder, study_dir=study, output_dir=output, target_tprr=0.9).initialize()
    assert cause(caught.value) == (
        "override must be a key of the config file, got target_tprr. Did you mean target_tpr?"
    )
    assert not Path(output).exists()
    for _ in range(2):  # the same answer may come again
        workflow = inference(folder, study_dir=study, output_dir=output, run_id="inference")
        workflow.initialize()
        workflow.run()
    (path,) = Path(output).iterdir()
    path.write_text("another answer")
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    assert cause(caught.value).startswith("no_study: output_dir must hold no other answer to the study, got ")
    assert path.read_text() == "another answer"


def test_the_inference_of_the_source_bundle_says_what_it_lacks() -> None:
    workflow = ConfigWorkflow(config_file=str(BUNDLE / "inference.json"), workflow_type="infer", logging_file=False)
    with pytest.raises(RuntimeError) as caught:
        workflow.parser.get_parsed_content("network_def")
    assert "must be that of a packed model, got metadata without a card" in cause(caught.value)


def test_a_member_is_exported_as_a_graph(packed_model: PackedModel) -> None:
    member = packed_model.network.members[0]
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 4, 40, 40, 20)).astype(np.float32))
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(member, (image,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(exported.module()(image[:1]), member(image[:1]), atol=1e-4, rtol=0)
