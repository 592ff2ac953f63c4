"""The commands about packed models: nothing is replaced by accident, tables are for a terminal, errors are a line."""

from pathlib import Path

import pytest
from noise import write_noise
from packs import pack

from prostate_alm.cli import main
from prostate_alm.delivery.package.opened import PackedModel, open_package

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")  # MONAI looks for a decoder of GPUs


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


def test_the_table_of_sites_is_for_a_terminal_and_says_the_same_again(
    packed_file: Path, packed_model: PackedModel, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = write_noise(tmp_path / "cohort.json", seed=0, studies=12, test_every=4)
    far = write_noise(tmp_path / "far.json", seed=2, studies=7, test_every=1)
    given = ["sites", str(packed_file), str(own), str(far)]
    assert main(given) == 0
    text = capsys.readouterr().out
    head, *rows = text.splitlines()
    assert f"TPR at {100 * packed_model.card.default_target_tpr:g} %" in head
    assert [row.split("  ")[0].strip() for row in rows] == ["validation", "cohort (own)", "far"]  # one other: no pool
    assert {len(row) for row in rows} == {len(head)}, text
    output = tmp_path / "sites.csv"
    output.write_text("mine")
    assert main([*given, "--output", str(output)]) == 2
    assert "output must be a new file, got" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert main([*given, "--output", str(output), "--overwrite"]) == 0
    assert capsys.readouterr().out == text
    assert output.read_text().startswith("site,sample_id,label,logit,logit_std,probability\ncohort,S0,1,")


def test_what_is_no_pack_has_no_sites(
    packed_file: Path, ensemble_folder: Path, cohort: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model in (ensemble_folder, cohort):
        assert main(["sites", str(model), str(cohort)]) == 2
    assert main(["sites", str(packed_file), str(packed_file)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
