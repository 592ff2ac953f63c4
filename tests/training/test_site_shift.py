"""An ensemble on other cohorts: logits by other means, figures by scikit-learn and plain counts, refusals in a line."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, roc_auc_score

from prostate_alm.cli import main
from prostate_alm.data.manifest import Manifest, read_manifest, write_manifest
from prostate_alm.delivery.card import GridSpec
from prostate_alm.delivery.preprocess import network_input
from prostate_alm.imaging.selection import Selection
from prostate_alm.imaging.volume import StudyVolumes, Volume
from prostate_alm.method.calibration import fit_platt
from prostate_alm.training import results
from prostate_alm.training.ensemble import Scores
from prostate_alm.training.networks import CascadeNet
from prostate_alm.training.site_shift import Frozen, figures_of
from prostate_alm.whole_files import sha256_of_file

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "prostate"
MEMBERS = 2
B_VALUES = (100.0, 600.0, 1000.0)
GRID = GridSpec(
    spacing_mm=(2.0, 2.0, 3.0), normalised_size=(46, 46, 22), image_size=(40, 40, 20), b_values_s_per_mm2=B_VALUES
)


@dataclass(frozen=True)
class World:
    """An ensemble with its cohort, and two other cohorts, in one folder."""

    ensemble: Path
    own: Path
    near: Path
    far: Path

    def evaluate(self, *more: object) -> int:
        """Run the command as a user does."""
        given = ["ensemble", "evaluate", self.ensemble, "--bundle", BUNDLE, *more]
        return main([str(value) for value in given])


def write_cohort(
    path: Path, *, seed: int, studies: int, test_every: int, b_values: tuple[float, ...] = B_VALUES
) -> Path:
    """Write a cohort of noise; each third study is positive, each `test_every`-th one a test study."""
    random, records = np.random.default_rng(seed), []
    (path.parent / path.stem).mkdir()
    for number in range(studies):
        record: dict[str, Any] = {"id": f"S{number}", "patient": f"P{number}", "label": int(number % 3 == 0)}
        for kind, shape in (("t2", (40, 40, 16)), ("dwi", (40, 40, 16, 3))):
            file = path.parent / path.stem / f"{number}-{kind}.nii"
            voxels = random.gamma(4.0, 100.0, shape).astype(np.float32)
            nib.save(nib.Nifti1Image(voxels, np.diag([-2.0, -2.0, 3.0, 1.0])), file)
            record[kind] = {"path": f"{path.stem}/{file.name}", "sha256": sha256_of_file(file)}
        record["split"] = "test" if number % test_every == 0 else "train"
        record |= {"b_values_acquired_s_per_mm2": [50, 800], "b_values_computed": [number % 2 == 0] * len(b_values)}
        records.append(record)
    provenance = {"created_by": "test", "labels_sha256": "0" * 64}
    content = {"name": path.stem, "b_values_s_per_mm2": b_values, "provenance": provenance, "studies": records}
    write_manifest(Manifest.model_validate_json(json.dumps(content)), path)
    return path


def write_ensemble(folder: Path, cohort: Path) -> Path:
    """Write members of random weights, as training leaves them, with validation logits that rank well."""
    studies = read_manifest(cohort).studies
    (folder / "ensemble.json").parent.mkdir(parents=True)
    for number in range(MEMBERS):
        member = folder / f"member-{number:02d}"
        member.mkdir()
        config = {
            "bundle": "prostate",
            "settings": {"member": number, "loss": "bce"},
            "overrides": {"network_def#features": "[4, 8, 8]"},
            "config_files": {"train.json": sha256_of_file(BUNDLE / "train.json")},
            "manifest": cohort.name,
            "manifest_sha256": sha256_of_file(cohort),
            "dtype": "float32",
        }
        (member / "config.json").write_text(json.dumps(config))
        random = np.random.default_rng(number)
        rows = [(s.id, "validation", s.label, random.normal(0.1 * s.label, 0.1)) for s in studies if s.split == "train"]
        rows += [(s.id, "test", s.label, random.normal(0.1 * s.label, 0.1)) for s in studies if s.split == "test"]
        with (member / "predictions.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("sample_id", "split", "label", "logit"), *rows])
        torch.manual_seed(number)
        torch.save(random_network().state_dict(), member / "model.pt")
        labels, logits = (np.array([row[at] for row in rows if row[1] == "test"]) for at in (2, 3))
        (member / "metrics.json").write_text(json.dumps({"test": results.summarise(labels, logits)}))
    return folder


def random_network() -> CascadeNet:
    return CascadeNet(3, (1, 3), features=(4, 8, 8), pooling=((2, 2, 1), (2, 2, 2), (2, 2, 2)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a world after `ensemble evaluate --manifest near --manifest far`; a test that alters it copies it."""
    root = tmp_path_factory.mktemp("world")
    own = write_cohort(root / "own.json", seed=0, studies=24, test_every=4)
    near = write_cohort(root / "near.json", seed=1, studies=12, test_every=2)
    far = write_cohort(root / "far.json", seed=2, studies=7, test_every=1)
    found = World(write_ensemble(root / "outputs" / "bce-alm", own), own, near, far)
    assert main(["ensemble", "evaluate", str(found.ensemble)]) == 0
    assert found.evaluate("--manifest", near, "--manifest", far) == 0
    return found


@pytest.fixture
def own_world(world: World, tmp_path: Path) -> World:
    """Return a copy of the world to alter."""
    root = shutil.copytree(world.own.parent, tmp_path / "world")
    return World(root / "outputs" / "bce-alm", root / "own.json", root / "near.json", root / "far.json")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def volumes_of(manifest: Path, name: str) -> StudyVolumes:
    t2 = nib.load(manifest.parent / manifest.stem / f"{name.removeprefix('S')}-t2.nii")
    dwi = nib.load(manifest.parent / manifest.stem / f"{name.removeprefix('S')}-dwi.nii")
    signal = dwi.get_fdata(dtype=np.float32)
    parts = tuple(Volume(signal[..., index], dwi.affine) for index in range(3))
    nothing = Selection(None, (), None, ())
    return StudyVolumes(
        Volume(t2.get_fdata(dtype=np.float32), t2.affine), parts, B_VALUES, B_VALUES, (False,) * 3, nothing
    )


def test_logits_are_those_of_a_reader_without_monai(world: World) -> None:
    rows = rows_of(world.ensemble / "sites" / "far" / "predictions.csv")
    assert [row["sample_id"] for row in rows] == [f"S{number}" for number in range(7)]
    for row in (rows[0], rows[4]):
        image = network_input(volumes_of(world.far, row["sample_id"]), GRID)
        logits = []
        for member in range(MEMBERS):
            network = random_network()
            network.load_state_dict(torch.load(world.ensemble / f"member-{member:02d}" / "model.pt", weights_only=True))
            with torch.inference_mode():
                logits.append(network(image[None]).item())
        assert float(row["logit"]) == pytest.approx(np.mean(logits), abs=1e-4)
        assert float(row["logit_std"]) == pytest.approx(np.std(logits, ddof=1), abs=1e-4)


def out_of_fold(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and mean validation logits, one a study, by a plain loop."""
    logits: dict[str, list[float]] = {}
    labels: dict[str, int] = {}
    for member in range(MEMBERS):
        for row in rows_of(world.ensemble / f"member-{member:02d}" / "predictions.csv"):
            if row["split"] == "validation":
                logits.setdefault(row["sample_id"], []).append(float(row["logit"]))
                labels[row["sample_id"]] = int(row["label"])
    keys = sorted(logits)
    return np.array([labels[key] for key in keys]), np.array([round(np.mean(logits[key]), 4) for key in keys])


@pytest.mark.parametrize("site", ["near", "far"])
def test_figures_are_counts_at_the_threshold_of_validation(world: World, site: str) -> None:
    metrics = json.loads((world.ensemble / "sites" / site / "metrics.json").read_text())
    rows = rows_of(world.ensemble / "sites" / site / "predictions.csv")
    labels, logits = np.array([int(r["label"]) for r in rows]), np.array([float(r["logit"]) for r in rows])
    truth, validation = out_of_fold(world)
    assert metrics["auc"]["estimate"] == pytest.approx(roc_auc_score(labels, logits))
    for point in metrics["operating_points"]:
        positives = sorted(validation[truth == 1])
        missed = int((1 - point["target_tpr"]) * len(positives) + 1e-9)
        assert point["threshold"] == positives[missed]
        assert point["tpr"]["estimate"] == np.mean(logits[labels == 1] >= positives[missed])
        assert point["fpr"]["estimate"] == np.mean(logits[labels == 0] >= positives[missed])
    probability = fit_platt(truth, validation).probability(logits)
    assert metrics["calibration"]["brier"] == pytest.approx(brier_score_loss(labels, probability))


def test_only_test_studies_count_and_the_rest_is_said(world: World) -> None:
    near, far = (json.loads((world.ensemble / "sites" / s / "metrics.json").read_text()) for s in ("near", "far"))
    assert (near["studies"], near["training_studies_left_out"]) == (6, 6)
    assert (near["positives"], near["negatives"]) == (2, 4)  # 0 2 4 6 8 10: multiples of 3 are positive
    assert (far["studies"], far["training_studies_left_out"]) == (7, 0)
    assert (near["studies_with_computed_b_values"], far["studies_with_computed_b_values"]) == (6, 4)  # even numbers


def test_pooled_figures_are_those_of_all_studies_in_one_list(world: World) -> None:
    pooled = json.loads((world.ensemble / "sites" / "pooled.json").read_text())
    rows = [row for s in ("near", "far") for row in rows_of(world.ensemble / "sites" / s / "predictions.csv")]
    expected = roc_auc_score([int(row["label"]) for row in rows], [float(row["logit"]) for row in rows])
    assert pooled["auc"]["estimate"] == pytest.approx(expected)
    assert pooled["sites"] == ["near", "far"]
    assert pooled["positives"] + pooled["negatives"] == len(rows)


def test_again_gives_the_same_and_leaves_the_results_of_the_ensemble(
    own_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [path for path in own_world.ensemble.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    capsys.readouterr()
    assert own_world.evaluate("--manifest", own_world.far, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {path: path.read_bytes() for path in own_world.ensemble.rglob("*") if path.is_file()} == before
    assert list(report["sites"]) == ["far"]
    assert report["pooled"] is None
    own = rows_of(own_world.ensemble / "predictions.csv")
    area = roc_auc_score([int(row["label"]) for row in own], [float(row["logit"]) for row in own])
    assert report["trained_on"]["auc"]["estimate"] == pytest.approx(area)


def test_an_ensemble_that_ranks_at_random_has_no_calibration() -> None:
    scores = Scores(["a", "b"], ["test"] * 2, np.array([0.0, 1.0]), np.array([[0.0, 1.0]]))
    assert figures_of(Frozen({95: 0.5}, None), scores)["calibration"] is None


def edited(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


def other_b_values(world: World) -> Path:
    return edited(world.far, b_values_s_per_mm2=[50.0, 400.0, 800.0])


def one_class(world: World) -> Path:
    studies = json.loads(world.far.read_text())["studies"]
    return edited(world.far, studies=[study | {"label": 0} for study in studies])


def leaked(world: World) -> Path:
    """Return a site whose test studies are training studies of the ensemble under other names."""
    training = [study for study in json.loads(world.own.read_text())["studies"] if study["split"] == "train"]
    studies = [study | {"id": f"X{at}", "patient": f"X{at}", "split": "test"} for at, study in enumerate(training)]
    return edited(shutil.copy(world.own, world.own.with_name("other.json")), name="other", studies=studies)


def changed_file(world: World) -> Path:
    next((world.far.parent / "far").iterdir()).write_bytes(b"changed")
    return world.far


def replaced_manifest(world: World) -> Path:
    return edited(world.far, refused=[{"id": "X", "code": "no_t2", "reason": "none"}])


def without_own_cohort(world: World) -> Path:
    world.own.unlink()
    return world.far


def without_members(world: World) -> Path:
    for member in world.ensemble.glob("member-*"):
        shutil.rmtree(member)
    return world.far


def not_evaluated(world: World) -> Path:
    (world.ensemble / "metrics.json").unlink()
    return world.far


def other_weights(world: World) -> Path:
    torch.save({"w": torch.zeros(1)}, world.ensemble / "member-01" / "model.pt")
    return world.far


def other_bundle(world: World) -> Path:
    edited(world.ensemble / "ensemble.json", bundle="cifar10")
    return world.far


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda world: world.own, "manifest must be another one than that of the training"),
        (lambda world: world.own / "absent.json", "manifest must be a readable file"),
        (other_b_values, "must be that of the training, [b 100 s/mm2, b 600 s/mm2, b 1000 s/mm2], got [b 50 s/mm2, "),
        (one_class, "test studies of a site must be of both classes, got 0 positive of 7"),
        (leaked, "must not be training studies of the ensemble, got 18 of 18"),
        (changed_file, "must have the manifest's SHA-256"),
        (replaced_manifest, "results of a site must not replace those of another manifest"),
        (without_own_cohort, "manifest of the training must be at hand, got no own.json"),
        (without_members, "ensemble must be the folder of a trained one"),
        (not_evaluated, "ensemble must be evaluated with its 2 finished members, got 0"),
        (other_weights, "weights must be those of the bundle's network"),
        (other_bundle, "ensemble must be of the prostate bundle to be applied to manifests, got one of cifar10"),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_refused_in_a_line(
    own_world: World, capsys: pytest.CaptureFixture[str], change: Callable[[World], Path], message: str
) -> None:
    path = change(own_world)
    sites = {file: file.read_bytes() for file in (own_world.ensemble / "sites").rglob("*") if file.is_file()}
    capsys.readouterr()
    assert own_world.evaluate("--manifest", path) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {f: f.read_bytes() for f in (own_world.ensemble / "sites").rglob("*") if f.is_file()} == sites


def test_options_that_do_not_go_together_are_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.evaluate() == 2  # --bundle alone
    assert world.evaluate("--manifest", world.far, "--manifest", world.far) == 2
    assert world.evaluate("--manifest", world.far, "--baseline", world.ensemble) == 2
    errors = capsys.readouterr().err.splitlines()
    assert ["must come with --manifest" in errors[0], "got far twice" in errors[1]] == [True, True]
    assert "--baseline must be given without --manifest" in errors[2]
