"""A packed model as MONAI's own commands take it."""

import json
import zipfile
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch

from prostate_alm.delivery import package
from prostate_alm.delivery.answers import answer_from_json
from prostate_alm.delivery.package.inference import answer_study
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.predict import predict_folder

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


def test_wrong_use_of_the_inference_is_one_line_and_no_answer_is_replaced(
    folder: Path, phantom_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, output, absent = str(phantom_study), str(tmp_path / "answers"), str(tmp_path / "absent")
    for study_dir, output_dir in ((None, output), (absent, output), (study, None)):
        with pytest.raises(SystemExit, match="2"):
            answer_study(str(folder), study_dir=study_dir, output_dir=output_dir)
        assert capsys.readouterr().err == (
            "error: no_study: study_dir and output_dir must be folders, got none. Give --study_dir, --output_dir\n"
        )
    assert not Path(output).exists()
    path = answer_study(str(folder), study_dir=study, output_dir=output)
    assert answer_study(str(folder), study_dir=study, output_dir=output) == path  # the same answer may come again
    path.write_text("another answer")
    with pytest.raises(SystemExit, match="2"):
        answer_study(str(folder), study_dir=study, output_dir=output)
    error = capsys.readouterr().err
    assert error.startswith("error: no_study: output_dir must hold no other answer to the study, got ")
    assert error.count("\n") == 1
    assert path.read_text() == "another answer"


def test_a_member_is_exported_as_a_graph(packed_model: PackedModel) -> None:
    member = packed_model.network.members[0]
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 4, 40, 40, 20)).astype(np.float32))
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(member, (image,), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(exported.module()(image[:1]), member(image[:1]), atol=1e-4, rtol=0)
