from pathlib import Path

from paper_experiments import started, write_ensemble

from prostate_alm.experiments.report import write_report


def test_there_is_a_figure_of_the_effect_for_each_pair_and_test_set(whole: Path) -> None:
    figures = {path.name for path in whole.glob("*.png")}
    sets = ("test", "test_draws", "test_all_positives")
    assert figures == {f"effect-{pair}-{name}.png" for pair in ("0-1", "6-7") for name in sets}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in whole.glob("*.png"))


def test_a_figure_of_one_loss_at_one_ratio_can_be_drawn(tmp_path: Path) -> None:
    root = started(tmp_path / "out", pairs=[[0, 1]], ratios=[9], losses={"bce": {}, "msfe": {}}, baseline_only=[])
    for training in ("baseline", "alm"):
        write_ensemble(root, (0, 1), 9, "bce", training)
    assert tmp_path / "report" / "effect-0-1-test.png" in write_report([root], tmp_path / "report")
