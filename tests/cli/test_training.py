"""The commands about ensembles: what a bundle takes is listed, and what went elsewhere is an error."""

import pytest
from command_line import the_error

from prostate_alm.cli import main


def test_overrides_of_each_bundle_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["ensemble", "train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("cifar10: --dataset_dir null --majority 0", "lesions:", "--manifest null", '--loss "dice_bce"'):
        assert words in text
    assert "--output_dir" not in text  # the ensemble's own


def test_the_options_that_judged_other_cohorts_went_to_a_command_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["ensemble", "evaluate", "outputs", "--manifest", "theirs.json"])
    assert "unrecognized arguments: --manifest" in the_error(capsys)
    with pytest.raises(SystemExit, match="0"):
        main(["ensemble", "evaluate", "--help"])
    assert "prostate-alm sites" in " ".join(capsys.readouterr().out.split())
