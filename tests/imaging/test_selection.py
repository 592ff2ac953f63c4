"""How a selection is shown, and in which order its volumes are read."""

from prostate_alm.imaging.selection import image_stacks
from prostate_alm.imaging.study import explain_study


def test_a_description_cannot_write_to_the_terminal(build, written):
    study = build.series(2, SeriesDescription="t2\x1b[31m\nred") + build.diffusion(3)
    assert "\x1b" not in explain_study(written(study)).to_text()


def test_stacks_are_t2_and_each_b_value_ascending_with_their_places(build, written):
    images = build.series(2) + build.diffusion(4, b_values=(800.0,)) + build.diffusion(3, b_values=(50.0, 400.0))
    stacks = image_stacks(explain_study(written(images)))
    assert [place for place, _ in stacks] == ["series 2", "series 3, b 50", "series 3, b 400", "series 4, b 800"]
    assert [{one.b_value_s_per_mm2 for one in images} for _, images in stacks] == [{None}, {50.0}, {400.0}, {800.0}]
