"""Which ensembles can be packed, and where their cohort and their bundle are found."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from packs import BUNDLE, EnsembleWriter, pack, packed

from prostate_alm.delivery.package.build import PackLabel, pack_ensemble
from prostate_alm.delivery.package.trained import Origins
from prostate_alm.delivery.package.zip_files import PackageError
from prostate_alm.results.run_folder import RunFolder
from prostate_alm.whole_files import sha256_of_file

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs


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
        packed(folder, tmp_path / "a.zip", bundle=changed)
    RunFolder(folder / "member-00").keep_bundle_files([BUNDLE / "train.json"])
    card = packed(folder, tmp_path / "a.zip", bundle=changed)
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
