"""From an ensemble to a pack: what goes in, against loops and MONAI, and which ensembles are refused."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from packs import LICENCE, REPOSITORY, pack, validation_of

from prostate_alm.data.manifest import read_manifest
from prostate_alm.delivery.card import StoredOperatingPoint
from prostate_alm.delivery.package.opened import PackedModel
from prostate_alm.whole_files import sha256_of_file

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs


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
    more = ("--name", "prostate", "--license", str(LICENCE), "--json")
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
