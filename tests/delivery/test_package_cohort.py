"""The training studies read once more: thresholds are logits of the packed network, by the transforms of MONAI."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from packs import BUNDLE, EnsembleWriter, validation_of

from prostate_alm.data.manifest import Manifest, read_manifest, write_manifest
from prostate_alm.delivery.package.build import PackLabel, pack_ensemble
from prostate_alm.delivery.package.opened import open_package
from prostate_alm.delivery.package.trained import Origins
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.whole_files import sha256_of_file

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return the manifest of a cohort with volumes, and each training study's image by MONAI's transforms."""
    manifest = write_volumes(tmp_path_factory.mktemp("volumes"))
    return manifest, images_by_monai(manifest)


@pytest.fixture(scope="module")
def with_volumes(
    images: tuple[Path, dict[str, torch.Tensor]],
    make_ensemble: EnsembleWriter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return an ensemble whose training studies have volumes, oblique and of several spacings.

    Its logits are those that the bundle's own transforms and its networks give, rounded as bfloat16 rounds.
    """
    manifest, image_of = images
    folder = tmp_path_factory.mktemp("ensemble") / "bce-alm"
    ensemble = make_ensemble(folder, manifest=manifest, dtype="bfloat16")
    shutil.copytree(manifest.parent / "volumes", ensemble / "volumes")
    shutil.copy(manifest, ensemble / "cohort.json")
    for member in range(3):
        path = ensemble / f"member-{member:02d}"
        network = open_member(path)
        rows = list(csv.DictReader((path / "predictions.csv").read_text().splitlines()))
        with (path / "predictions.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            for row in rows:
                if row["split"] == "validation":
                    logit = network(image_of[row["sample_id"]][None]).item()
                    row["logit"] = repr(torch.tensor(logit).bfloat16().item())
                writer.writerow(row)
    return ensemble


def open_member(path: Path) -> torch.nn.Module:
    network = ConfigParser(ConfigParser.load_config_file(BUNDLE / "train.json")).get_parsed_content("network_def")
    network.load_state_dict(torch.load(path / "model.pt", weights_only=True))
    return network.eval().requires_grad_(False)


def write_volumes(folder: Path) -> Path:
    """Write a cohort of 16 studies, three of four for training; positives have brighter diffusion in the middle."""
    random = np.random.default_rng(0)
    (folder / "volumes").mkdir()
    studies = []
    for number in range(16):
        spacing_mm = (1.5 + number % 3 * 0.25, 1.5 + number % 3 * 0.25, 3.0 + number % 2 * 0.5)
        cosine, sine = np.cos(0.1), np.sin(0.1)
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, :3] = np.array([[-1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ affine[:3, :3]
        label = int(number % 3 == 0)
        t2 = random.gamma(4.0, 100.0, (48, 48, 16)).astype(np.float32)
        dwi = random.gamma(4.0, 50.0, (48, 48, 16, 3)).astype(np.float32)
        dwi[18:30, 18:30, 6:10] *= 1 + 2 * label
        record = {"id": f"PHANTOM-{number:04d}", "patient": f"P{number}", "label": label}
        for kind, voxels in (("t2", t2), ("dwi", dwi)):
            path = folder / "volumes" / f"{number}-{kind}.nii"
            nib.save(nib.Nifti1Image(voxels, affine), path)
            record[kind] = {"path": f"volumes/{path.name}", "sha256": sha256_of_file(path)}
        split = "test" if number % 4 == 1 else "train"
        acquired = [0.0, 800.0] if number % 2 else [100.0, 600.0, 1000.0]
        record |= {"split": split, "b_values_acquired_s_per_mm2": acquired, "b_values_computed": [bool(number % 2)] * 3}
        studies.append(record)
    provenance = {"created_by": "test", "labels_sha256": "0" * 64}
    content = {"name": "small", "b_values_s_per_mm2": [100, 600, 1000], "provenance": provenance, "studies": studies}
    write_manifest(Manifest.model_validate_json(json.dumps(content)), folder / "cohort.json")
    return folder / "cohort.json"


def images_by_monai(manifest: Path) -> dict[str, torch.Tensor]:
    """Return the network's input of each training study by the transforms of the bundle."""
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "train.json"))
    read = Compose(parser.get_parsed_content("read_and_normalise") + parser.get_parsed_content("centre_crop"))
    images = {}
    for study in read_manifest(manifest).studies:
        if study.split == "train":
            paths = {"t2": str(manifest.parent / study.t2.path), "dwi": str(manifest.parent / study.dwi.path)}
            images[study.id] = read({**paths, "label": 0, "sample_id": study.id})["image"]
    return images


def test_thresholds_are_logits_of_the_packed_network(
    with_volumes: Path, images: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    """Recorded logits were rounded to 8 bits; the stored ones are those of float32, by MONAI's transforms."""
    card = pack_ensemble(
        with_volumes,
        tmp_path / "a.zip",
        origins=Origins(manifest=with_volumes / "cohort.json", bundle=BUNDLE),
        label=PackLabel(licence=BUNDLE / "README.md"),
    )
    logits: dict[str, list[float]] = {}
    for member in range(3):
        network = open_member(with_volumes / f"member-{member:02d}")
        for key in validation_of(with_volumes, member):
            logits.setdefault(key, []).append(network(images[1][key][None]).item())
    expected = sorted(float(np.mean(values)) for values in logits.values())
    assert card.validation.logits == pytest.approx(expected, abs=1e-4)
    found = card.training_range
    for (low, high), (least, most) in zip(found.t2_spacing_mm, ((1.5, 2.0), (1.5, 2.0), (3.0, 3.5)), strict=True):
        assert (low, high) == pytest.approx((least, most), abs=1e-5)
    assert found.b_values_acquired_s_per_mm2 == ((0.0, 800.0), (100.0, 600.0, 1000.0))
    assert len(found.intensity_variation) == 4
    assert card.data_is_synthetic  # the manifest names no source, but all ids are those of phantoms
    assert open_package(tmp_path / "a.zip").card == card


def test_weights_that_did_not_make_the_recorded_logits_are_refused(with_volumes: Path, tmp_path: Path) -> None:
    exchanged = shutil.copytree(with_volumes, tmp_path / "bce-alm")
    shutil.copy(exchanged / "member-00" / "model.pt", exchanged / "member-01" / "model.pt")
    with pytest.raises(PackageError, match="validation logits must be those that training recorded"):
        pack_ensemble(exchanged, tmp_path / "a.zip", origins=Origins(manifest=exchanged / "cohort.json", bundle=BUNDLE))
