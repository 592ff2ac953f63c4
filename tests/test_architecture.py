"""docs/architecture.md is a map: every file, function and class on it exists where it says."""

import ast
import re
import runpy
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "prostate_alm"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
NAME = re.compile(r"(?!.*\.(py|json|md)$)[A-Za-z_]\w*(\.\w+)?")
LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 60
NOT_OF_THE_CODE = {"state_dict", "weights_only"}  # torch's


def located(path: str) -> Path:
    """Return where a path of the page lies: below the package, or below the root."""
    return next((base / path for base in (PACKAGE, ROOT) if (base / path).exists()), PACKAGE / path)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return what a file or the files of a folder define: `function`, `Class`, `Class.method`, `CONSTANT`."""
    found = set()
    for file in [path] if path.is_file() else path.rglob("*.py"):
        for node in tree(file).body if file.suffix == ".py" else []:
            found |= set(defined_by(node))
    return frozenset(found)


def defined_by(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name):
            return [name]
        case ast.ClassDef(name=name, body=body):
            return [name, *(f"{name}.{inner}" for part in body for inner in defined_by(part))]
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def paths_in(text: str) -> list[str]:
    return [word for word in quoted(text) if ("/" in word or word.endswith(".py")) and " " not in word]


def names_of(text: str) -> list[str]:
    return [word for word in quoted(text) if NAME.fullmatch(word) and word not in NOT_OF_THE_CODE]


def lines() -> list[str]:
    return PAGE.read_text(encoding="utf-8").splitlines()


def test_each_path_exists() -> None:
    paths = [path for line in lines() for path in paths_in(line)]
    assert len(paths) > 50
    assert [path for path in paths if not located(path).exists()] == []


def test_each_name_is_defined_in_a_file_of_its_line() -> None:
    """What a function returns, behind `->`, may be defined elsewhere; a line without a file names the whole package."""
    missing = []
    for line in lines():
        before, _, after = line.partition("->") if line.count("->") == 1 else (line, "", "")
        files = [path for path in paths_in(line) if path.endswith(".py")]
        defined = frozenset[str]().union(*(names_in(located(path)) for path in files)) if files else names_in(PACKAGE)
        missing += [name for name in names_of(before) if name not in defined]
        missing += [name for name in names_of(after) if name not in names_in(PACKAGE)]
    assert missing == []


def test_files_and_functions_are_as_short_as_contributing_wants_them() -> None:
    too_long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.read_text(encoding="utf-8").count("\n") >= LINES_OF_A_FILE:
            too_long.append(path.name)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LINES_OF_A_FUNCTION:
                too_long.append(f"{path.name} {node.name}")
    assert too_long == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for types and within functions count, too: a circle is two modules that are one."""
    house = runpy.run_path(str(ROOT / "benchmarks" / "house.py"))
    assert len(house["imports"]()) > 100
    assert house["circle"](house["imports"]()) == "none"
    assert house["circle"]({"a": {"b"}, "b": {"a"}}) in ("a -> b -> a", "b -> a -> b")


def test_the_picture_shows_each_room_and_real_types() -> None:
    drawn = re.findall(r'class="(name|type)"[^>]*>([^<]+)<', PICTURE.read_text(encoding="utf-8"))
    rooms = {text for kind, text in drawn if kind == "name"}
    types = {name for kind, text in drawn if kind == "type" for name in text.replace(",", " ").split()}
    assert rooms == {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} - {"doctor"}
    assert types - names_in(PACKAGE) == set()
