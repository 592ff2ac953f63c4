import csv
import json
import re
from pathlib import Path
from statistics import fmean

import pytest

from prostate_alm.experiments.paper_tables import RATE_COLUMNS, Key, loss_names, paper_effects, paper_table
from prostate_alm.experiments.plan import in_numbers

GOLDEN = Path(__file__).parents[1] / "golden"
EFFECTS = json.loads((GOLDEN / "paper_effects.json").read_text(encoding="utf-8"))
CODE_NAMES = {name: loss for loss, name in loss_names().items()}


def test_single_figures_are_those_printed_in_the_paper() -> None:
    with (GOLDEN / "paper_spots.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            key = Key(int(row["class_ratio"][2:]), row["loss"], row["training"], row["column"])
            assert paper_table(row["table"])[key] == float(row["paper"]), row


@pytest.mark.parametrize("name", ["table2", "table4", "table5", "table6"])
def test_every_figure_is_that_of_the_papers_table(shared: Path, name: str) -> None:
    with (shared / "paper" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    figures = {
        Key(int(ratio[2:]), CODE_NAMES[loss], training, column): float(figure)
        for ratio, loss, training, *own in rows
        for column, figure in zip(header[3:], own, strict=True)
    }
    assert paper_table(name) == figures


SYMBOLS = {
    "m": "margin",
    "g": "gamma",
    "c": "weight",
    r"\beta": "beta",
    r"\mu": "mu0",
    r"\rho": "rho",
    r"\delta": "delta",
}


def test_the_chosen_parameters_are_those_of_the_papers_text(shared: Path) -> None:
    text = (shared / "paper" / "paper.txt").read_text(encoding="utf-8")
    part = text[text.index("Table 8. Best") : text.index("References", text.index("Table 8. Best"))]
    found: dict[Key, float] = {}
    ratios, trainings = iter([2, 2, 9, 9, 19, 19]), iter(["baseline", "alm"] * 3)
    ratio, training = 0, ""
    for name, words in re.findall(r"^(?:ALM with)?\t?([A-Z-]+)\t(.*)$", part, flags=re.MULTILINE):
        if name == "BCE":  # the first of each block
            ratio, training = next(ratios), next(trainings)
        for symbol, value in re.findall(r"(\\?\w+) = ([\w./]+)", words):
            number = in_numbers(value if "N" in value else float(value), ratio)
            found[Key(ratio, CODE_NAMES[name], training, SYMBOLS[symbol])] = number
    assert paper_table("table8") == found


@pytest.mark.parametrize("ratio", [2, 9, 19])
def test_the_mean_effect_of_table_2_is_the_one_that_the_project_aims_at(ratio: int) -> None:
    for column, expected in zip(RATE_COLUMNS, EFFECTS["table2"][str(ratio)], strict=True):
        digits = 2 if column == "test_auc" else 1
        effects = paper_effects("table2", ratio, column)
        assert len(effects) == 8
        assert fmean(effects.values()) == pytest.approx(expected, abs=0.55 * 10**-digits)


@pytest.mark.parametrize("ratio", [2, 9, 19])
def test_the_mean_effect_of_table_5_is_the_one_that_the_project_aims_at(ratio: int) -> None:
    effects = paper_effects("table5", ratio, "test_auc")
    assert fmean(effects.values()) == pytest.approx(EFFECTS["table5_auc"][str(ratio)], abs=0.0055)


@pytest.mark.parametrize("table", ["table2", "table5"])
def test_the_auc_rises_in_as_many_cells_as_in_the_paper(table: str) -> None:
    effects = [effect for ratio in (2, 9, 19) for effect in paper_effects(table, ratio, "test_auc").values()]
    assert (sum(effect > 0 for effect in effects), len(effects)) == (EFFECTS["auc_rises"][table], 24)


def test_a_ratio_that_the_paper_does_not_have_has_no_effects() -> None:
    assert paper_effects("table2", 5, "test_auc") == {}
