"""From an ensemble to a pack: what goes in, against loops and MONAI, and which ensembles are refused."""

import csv
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from prostate_alm.cli import main
from prostate_alm.data.manifest import Manifest, read_manifest, write_manifest
from prostate_alm.delivery.card import StoredOperatingPoint
from prostate_alm.delivery.package.build import PackLabel, pack_ensemble
from prostate_alm.delivery.package.config import read_specs
from prostate_alm.delivery.package.opened import PackedModel, open_package
from prostate_alm.delivery.package.trained import Origins
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.results.run_folder import RunFolder
from prostate_alm.whole_files import sha256_of_file

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "bundles" / "prostate"
LICENCE = REPOSITORY / "LICENSE"

EnsembleWriter = Callable[..., Path]


def pack(folder: Path, output: Path, *more: str) -> int:
    """Run the command as a user does."""
    given = ["--manifest", str(folder / "cohort.json"), "--bundle", str(BUNDLE), *more]
    return main(["pack", str(folder), "--output", str(output), *given])


def validation_of(folder: Path, member: int) -> dict[str, tuple[int, float]]:
    rows = csv.DictReader((folder / f"member-{member:02d}" / "predictions.csv").read_text().splitlines())
    return {row["sample_id"]: (int(row["label"]), float(row["logit"])) for row in rows if row["split"] == "validation"}


def test_each_study_counts_once_with_its_mean_logit(packed_model: PackedModel, ensemble_folder: Path) -> None:
    """The test rows of the fabricated members have logits of a million: one of them would be seen."""
    seen: dict[str, list[tuple[int, float]]] = {}
    for member in range(3):
        for key, value in validation_of(ensemble_folder, member).items():
            seen.setdefault(key, []).append(value)
    assert max(len(values) for values in seen.values()) > 1  # else a pool would be the same
    expected = sorted((sum(logit for _, logit in values) / len(values), values[0][0]) for values in seen.values())
    scores = packed_model.card.validation
    assert sorted(scores.logits) == pytest.approx([logit for logit, _ in expected], abs=1e-4)
    assert list(scores.labels) == [label for _, label in expected]
    for point in packed_model.card.operating_points:
        assert point.positives == sum(label for _, label in expected)
        assert point.positives + point.negatives == len(seen) == packed_model.card.calibration.samples
        assert_is_the_greatest(point, scores.labels, scores.logits)


def assert_is_the_greatest(point: StoredOperatingPoint, labels: tuple[int, ...], logits: tuple[float, ...]) -> None:
    positives = [logit for label, logit in zip(labels, logits, strict=True) if label]
    negatives = [logit for label, logit in zip(labels, logits, strict=True) if not label]
    enough = [t for t in logits if sum(p >= t for p in positives) >= point.target_tpr * len(positives) - 1e-9]
    assert point.threshold == max(enough)
    assert point.fpr == sum(n >= point.threshold for n in negatives) / len(negatives)


def test_the_same_ensemble_gives_the_same_bytes_wherever_it_lies(
    ensemble_folder: Path, packed_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = shutil.copytree(ensemble_folder, tmp_path / "moved" / "bce-alm")
    for path in elsewhere.rglob("*"):
        path.touch()
    output = tmp_path / "another-name.zip"
    more = ("--name", "prostate", "--license", str(REPOSITORY / "LICENSE"), "--json")
    assert pack(elsewhere, output, *more) == 0
    assert output.read_bytes() == packed_file.read_bytes()
    printed = json.loads(capsys.readouterr().out)
    assert printed["sha256"] == sha256_of_file(output)
    assert [point["target_tpr"] for point in printed["operating_points"]] == [0.9, 0.95, 0.975, 1.0]


def test_no_file_of_the_pack_names_a_study_or_a_place(packed_file: Path, ensemble_folder: Path) -> None:
    manifest = read_manifest(ensemble_folder / "cohort.json")
    secrets = [name for study in manifest.studies for name in (study.id, f'"{study.patient}"')]
    secrets += [str(ensemble_folder), str(REPOSITORY)]
    with zipfile.ZipFile(packed_file) as packed:
        for name in packed.namelist():
            content = packed.read(name).decode("utf-8", "replace")
            assert [secret for secret in secrets if secret in content] == [], name


def test_the_model_card_says_what_the_thresholds_rest_on(packed_file: Path, packed_model: PackedModel) -> None:
    with zipfile.ZipFile(packed_file) as packed:
        text = packed.read("prostate/docs/README.md").decode()
    point = packed_model.card.operating_point()
    for words in (
        "Research use only, not for diagnosis.",
        "The data are synthetic",
        f"chosen on {point.positives} positive and {point.negatives} negative training studies",
        f"| 95 % (default) | {point.threshold:.3f} [",
        "| train | 30 studies, 11 positive |",
        "| AUC | 80.0 % | 60.0 to 95.0 % |",
    ):
        assert words in text, words


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


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"spacing_mm": [1.0, 1.0, 3.0], "image_size": "[32, 32, 16]"},
        {"network_def#features": "[4,8,16]", "network_def::pooling#0": [1, 1, 1]},
        {"network_def#path_channels": "[4]", "cached_size": [44, 46, 22]},
    ],
)
def test_settings_are_read_as_monai_reads_them(overrides: dict[str, object]) -> None:
    network, grid = read_specs(BUNDLE / "train.json", overrides, b_values_s_per_mm2=(0.0, 800.0))
    parser = ConfigParser(ConfigParser.load_config_file(BUNDLE / "train.json"))
    parser.update({key: json.loads(value) if isinstance(value, str) else value for key, value in overrides.items()})
    built = parser.get_parsed_content("network_def")
    assert tuple(built.path_channels) == network.path_channels
    assert [m.out_channels for m in built.paths[0] if hasattr(m, "out_channels")] == list(network.features)
    assert [m.kernel_size for m in built.paths[0] if isinstance(m, torch.nn.MaxPool3d)] == list(network.pooling)
    assert list(grid.spacing_mm) == parser.get_parsed_content("spacing_mm")
    assert list(grid.normalised_size) == parser.get_parsed_content("cached_size")
    assert list(grid.image_size) == parser.get_parsed_content("image_size")
    assert grid.b_values_s_per_mm2 == (0.0, 800.0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"read_and_normalise#2#mode": "nearest"}, "read_and_normalise must be that of bundles/prostate"),
        ({"read_and_normalise#1#axcodes": "RAS"}, "read_and_normalise must be that of bundles/prostate"),
        ({"centre_crop": []}, "centre_crop must be that of bundles/prostate"),
        ({"network_def#_target_": "monai.networks.nets.DenseNet121"}, "network_def must be that of bundles/prostate"),
        ({"image_size": "$[1] * 3"}, "image_size must be valid"),
        ({"image_size": [64, 40, 20]}, "image_size must lie within normalised_size"),
        ({"no_such#key": 1}, "overrides must be of keys that the config has, got no_such#key"),
    ],
)
def test_settings_that_prediction_cannot_repeat_are_refused(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(PackageError, match=message):
        read_specs(BUNDLE / "train.json", overrides, b_values_s_per_mm2=(0.0, 800.0))


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return apply


def relabel(folder: Path) -> None:
    path = folder / "member-01" / "predictions.csv"
    path.write_text(path.read_text().replace("validation,1", "validation,0"))


def turn_round(folder: Path) -> None:
    for path in folder.glob("member-*/predictions.csv"):
        first, *rows = path.read_text().splitlines()
        turned = [f"{start},{-float(logit)}" for start, _, logit in (row.rpartition(",") for row in rows)]
        path.write_text("\n".join([first, *turned]))


WITH_AN_OVERLAY = {"train.json": sha256_of_file(BUNDLE / "train.json"), "mine.json": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("member-01/metrics.json"), "ensemble must have all its 3 members finished, got 2"),
        (edit("ensemble.json", members=10), "ensemble must have all its 10 members finished, got 3"),
        (remove("metrics.json"), "ensemble must be evaluated with its 3 members"),
        (edit("metrics.json", members=[0, 1]), "ensemble must be evaluated with its 3 members"),
        (edit("ensemble.json", bundle="cifar10"), "ensemble must be of the prostate or the lesions bundle, got one"),
        (remove("ensemble.json"), "ensemble must be the folder of a trained one"),
        (edit("member-02/config.json", config_files={}), "train.json must be the one that the members"),
        (edit("member-02/config.json", config_files=WITH_AN_OVERLAY), "got the overlay mine.json in"),
        (edit("member-02/config.json", manifest_sha256="0" * 64), "manifest must be the one that the members"),
        (remove("cohort.json"), "manifest must be a readable file"),
        (relabel, "validation samples must be training studies of the manifest"),
        (turn_round, "logits must rise from negatives to positives to be calibrated"),
        (edit("ensemble.json", overrides={"network_def#features": "[8,16,64]"}), "weights must be those of the"),
        (remove("member-00/model.pt"), "weights must be those of the bundle's network"),
    ],
)  # fmt: skip
def test_what_is_no_finished_ensemble_is_refused_in_a_line(
    make_ensemble: EnsembleWriter,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    message: str,
) -> None:
    folder = make_ensemble(tmp_path / "bce-alm")
    change(folder)
    assert pack(folder, tmp_path / "a.zip") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "a.zip").exists()


def test_an_ensemble_is_packed_after_its_bundle_has_changed(make_ensemble: EnsembleWriter, tmp_path: Path) -> None:
    """Members keep the config that they were trained with; it is asked before the bundle of today."""
    folder, changed = make_ensemble(tmp_path / "bce-alm"), tmp_path / "bundle"
    shutil.copytree(BUNDLE, changed)
    config = json.loads((BUNDLE / "train.json").read_text())
    (changed / "train.json").write_text(json.dumps(config | {"image_size": [8, 8, 8]}))
    with pytest.raises(PackageError, match=r"train\.json must be the one"):
        pack_ensemble(
            folder,
            tmp_path / "a.zip",
            origins=Origins(manifest=folder / "cohort.json", bundle=changed),
            label=PackLabel(licence=LICENCE),
        )
    RunFolder(folder / "member-00").keep_bundle_files([BUNDLE / "train.json"])
    card = pack_ensemble(
        folder,
        tmp_path / "a.zip",
        origins=Origins(manifest=folder / "cohort.json", bundle=changed),
        label=PackLabel(licence=LICENCE),
    )
    assert list(card.grid.image_size) == config["image_size"] != [8, 8, 8]


@pytest.mark.parametrize("folder", ["data", "data_manifest"])
def test_the_cohort_is_found_where_manifests_are_made(
    ensemble_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """By the checksum that training recorded: another cohort of the same name, in the other folder, hides nothing."""
    for name in ("data", "data_manifest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cohort.json").write_text("{}")
    shutil.copy(ensemble_folder / "cohort.json", tmp_path / folder / "cohort.json")
    monkeypatch.chdir(tmp_path)
    cohort = ensemble_folder / "cohort.json"
    found = pack_ensemble(ensemble_folder, tmp_path / "found.zip", label=PackLabel(name="one"))
    assert found == pack_ensemble(
        ensemble_folder, tmp_path / "given.zip", origins=Origins(manifest=cohort), label=PackLabel(name="one")
    )


def test_a_pack_is_not_overwritten_by_accident(
    ensemble_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a.zip"
    output.write_text("precious")
    assert pack(ensemble_folder, output) == 2
    assert output.read_text() == "precious"
    assert "--overwrite" in capsys.readouterr().err
    assert pack(ensemble_folder, output, "--overwrite", "--target-tpr", "0.9", "1") == 0
    card = open_package(output).card
    assert (card.default_target_tpr, [point.target_tpr for point in card.operating_points]) == (0.9, [0.9, 1.0])
    for wrong in (("--target-tpr", "0"), ("--target-tpr", "0.9", "0.9"), ("--name", "../up"), ("--name", "a b")):
        assert pack(ensemble_folder, tmp_path / "b.zip", *wrong) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
