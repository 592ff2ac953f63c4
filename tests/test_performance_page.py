"""docs/performance.md lists what other pages claim: each figure stands on the page it names, each script exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def claims() -> list[list[str]]:
    """Return the rows of the table of claims as cells: claim, figure, command, machine and date, page."""
    table = PAGE.read_text(encoding="utf-8").split("## Claims\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]


def test_each_claim_is_a_figure_a_command_and_a_date() -> None:
    for claim, figure, command, measured, _ in claims():
        assert claim
        assert figure
        assert re.fullmatch(r"`[^`]+`", command), claim
        assert re.search(r"20\d\d-\d\d-\d\d$", measured), claim


def test_each_figure_stands_on_the_page_it_names() -> None:
    linked = [(row[1], target) for row in claims() for target in re.findall(r"\]\(([^)#]+)", row[4])]
    assert len(linked) > 10
    for figure, target in linked:
        numbers = set(NUMBER.findall((PAGE.parent / target).read_text(encoding="utf-8")))
        assert set(NUMBER.findall(figure)) <= numbers, f"{figure} in {target}"


def test_each_script_of_the_page_exists_and_each_benchmark_is_on_it() -> None:
    named = set(re.findall(r"benchmarks/(\w+\.py)", PAGE.read_text(encoding="utf-8")))
    assert named == {path.name for path in (ROOT / "benchmarks").glob("*.py")}
