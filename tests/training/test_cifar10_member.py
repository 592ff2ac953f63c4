"""The samples and settings of the CIFAR-10 bundle, on a stand-in in the layout of the data set."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prostate_alm.data.cifar10 import write_stand_in
from prostate_alm.training.cifar10_member import Cifar10Settings, prepare_member
from prostate_alm.training.member import Member
from prostate_alm.training.settings import read_settings


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stand_in(tmp_path_factory.mktemp("cifar"), images_per_class=60)


def settings(images: Path | None, **changes: Any) -> Cifar10Settings:
    values: dict[str, Any] = {
        **dict.fromkeys(("output_dir", "tracking_uri", "parent_run_id")),
        **dict.fromkeys(("alm", "resume", "overwrite"), False),
        **dict.fromkeys(("member", "seed", "majority"), 0),
        **dict.fromkeys(("mu0", "rho", "delta", "learning_rate", "minority"), 1),
        **dict.fromkeys(("pretrain_epochs", "alm_epochs", "batch_size"), 2),
        "dataset_dir": images,
        "ratio": 4,
        "train_majority": 20,
        "validation_majority": 12,
        "loss": "bce",
        "loss_parameters": {},
        "device": "cpu",
        "precision": "auto",
        "threads": 1,
    }
    return read_settings(Cifar10Settings, **values | changes)


def test_a_run_keeps_its_precision_and_its_threads(images: Path, tmp_path: Path) -> None:
    def prepare(**more: Any) -> Member:
        own = {"output_dir": tmp_path / "run", "tracking_uri": "none", "threads": 2}
        return prepare_member(settings(images, **own | more))

    torch.set_num_threads(3)  # by what ran before in this process
    begun = prepare()
    assert torch.get_num_threads() == 2
    other = {"float32": "bfloat16", "bfloat16": "float32"}[begun.config["dtype"]]  # as on another kind of processor
    assert not (tmp_path / "run").exists()  # to prepare is not to begin
    begun.begin().write_json("config.json", begun.config | {"dtype": other})
    resumed = prepare(resume=True)
    assert str(resumed.settings.dtype) == f"torch.{other}"
    assert resumed.config["settings"]["precision"] == "auto"
    with pytest.raises(ValueError, match=r"a resumed run must have the configuration .* got another settings"):
        prepare(resume=True, threads=1)
    torch.set_num_threads(1)


def test_the_images_and_labels_are_those_of_the_files(images: Path) -> None:
    samples = settings(images, majority=3, minority=7).read_samples()
    assert [len(part) for part in (samples.train, samples.validation, samples.test, samples.test_extra)] == [
        25,  # 20 + 20 / 4
        15,  # 12 + 12 / 4
        75,  # 60 + 60 / 4
        45,  # the other positives
    ]
    records = {
        "train": b"".join((images / f"data_batch_{i}.bin").read_bytes() for i in range(1, 6)),
        "test": (images / "test_batch.bin").read_bytes(),
    }
    for sample in [*samples.train, *samples.validation, *samples.test, *samples.test_extra]:
        split, number = sample["sample_id"].split("-")
        record = np.frombuffer(records[split], np.uint8, 3073, offset=int(number) * 3073)
        assert record[0] == (7 if sample["label"] else 3)
        assert np.array_equal(sample["image"].numpy().ravel(), record[1:])
    assert len({sample["sample_id"] for sample in samples.train + samples.validation}) == 40


def test_members_differ_in_training_and_share_the_test_set(images: Path) -> None:
    first, second = (settings(images, member=member).read_samples() for member in (0, 1))
    ids = [[[sample["sample_id"] for sample in part] for part in (s.train, s.test)] for s in (first, second)]
    assert ids[0][0] != ids[1][0]
    assert ids[0][1] == ids[1][1]
    assert first.identity != second.identity


def test_another_copy_of_the_data_set_shows(images: Path, tmp_path: Path) -> None:
    # a JPEG copy has other pixels: here one pixel of one test image
    for file in images.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / "test_batch.bin").read_bytes())
    first_of_class_0 = next(i for i in range(0, len(content), 3073) if content[i] == 0)
    content[first_of_class_0 + 1] ^= 1
    (tmp_path / "test_batch.bin").write_bytes(content)
    assert settings(images).read_samples().identity != settings(tmp_path).read_samples().identity
    samples = settings(images).read_samples()
    digest = hashlib.sha256()
    for sample in [*samples.train, *samples.validation, *samples.test, *samples.test_extra]:
        digest.update(sample["image"].numpy().tobytes())
    assert samples.identity == {"data_sha256": digest.hexdigest()}


def test_names_of_experiment_data_and_ensemble(images: Path) -> None:
    chosen = settings(images, majority="frog", minority="7", ratio=19, loss="a_fl", alm=True)
    assert (chosen.experiment_name, chosen.data_name, chosen.ensemble_name) == ("cifar10-6-7", "1-19", "a_fl-alm")
    assert settings(images, ratio=2.5).data_name == "1-2.5"
    assert settings(images).ensemble_name == "bce-baseline"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"majority": "sheep"}, "majority must be"),
        ({"ratio": 0}, "ratio must be greater than 0, got 0"),
        ({"majority": 1, "minority": "automobile"}, "majority|minority"),
        ({"ratio": 1000}, "ratio must"),
        ({"dataset_dir": "nowhere"}, "nowhere"),
    ],
)
def test_a_fault_of_the_caller_is_one_line(images: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        settings(images, **changes).read_samples()
    assert "\n" not in str(caught.value)
