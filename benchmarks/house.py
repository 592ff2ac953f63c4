"""How the package is built, in figures: python benchmarks/house.py.

Modules, lines, lengths of functions, parameters, errors that name the value, mirrored tests, circles, modules that one
other module imports, repeated passages. It reads `prostate_alm/` and `tests/` beside it and imports neither.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import quantiles

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = ROOT / "prostate_alm", ROOT / "tests"
REPEATED_LINES = 10
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def main() -> None:
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 - documented(node) for node in functions)
    graph = imports()
    importers = Counter(name for names in graph.values() for name in names)
    errors = [named for tree in TREES.values() for named in errors_in(tree)]
    without_tests = [path for path in subjects() if not is_mirrored(path)]
    print(f"modules                        {len(FILES)}")
    print(f"lines                          {sum(map(lines_of, FILES))}")
    print(f"longest file                   {max(map(lines_of, FILES))}")
    print(
        f"functions, median, 90 %, most  {quantiles(lengths)[1]:.0f}, {quantiles(lengths, n=10)[8]:.0f}, {lengths[-1]}"
    )
    print(f"most parameters                {max(map(parameters, functions))}")
    print(f"errors that name the value     {100 * sum(errors) / len(errors):.0f} %")
    print(f"modules with a test file       {100 - 100 * len(without_tests) / len(subjects()):.0f} %")
    print(f"circles                        {circle(graph)}")
    print(f"imported by one other          {sum(count == 1 for count in importers.values())}")
    print(f"passages of {REPEATED_LINES} lines repeated  {sum(1 for _ in repeated())}")


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def documented(node: ast.FunctionDef) -> int:
    """Return how many lines of a function are its docstring."""
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or 0) - first.lineno + 1 if is_text else 0


def parameters(node: ast.FunctionDef) -> int:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return len([one for one in given if one.arg not in ("self", "cls")])


def imports() -> dict[str, set[str]]:
    """Return which modules each one imports, wherever in it; `from package import module` is the module."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        found: set[str] = set()
        for node in ast.walk(TREES[path]):
            if isinstance(node, ast.Import):
                found |= {one.name for one in node.names}
            if isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{one.name}" for one in node.names]
                found |= {one if one in names else node.module for one in whole}
        graph[name] = found & names.keys()
    return graph


def circle(graph: dict[str, set[str]]) -> str:
    try:
        return "none" if list(TopologicalSorter(graph).static_order()) else "no modules"
    except CycleError as error:
        return " -> ".join(error.args[1])


def errors_in(tree: ast.Module) -> Iterator[bool]:
    """Yield for each error of the caller whether its text has something filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            texts = [one for one in node.exc.args if isinstance(one, ast.JoinedStr | ast.Constant | ast.Call)]
            if any(isinstance(one, ast.JoinedStr | ast.Constant) for one in texts):
                yield any(isinstance(one, ast.JoinedStr | ast.Call) for one in texts)


def subjects() -> list[Path]:
    """Return the modules that have something to test: more than a docstring and imports."""
    return [
        path for path in FILES if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in TREES[path].body)
    ]


def is_mirrored(path: Path) -> bool:
    """Return whether `tests/<room>/` has a file named after the module, whatever follows its name."""
    room = path.relative_to(PACKAGE).parent
    names = [f"test_{path.stem}", f"test_{path.parent.name}_{path.stem}"]
    folders = [TESTS / room, *(TESTS / one for one in room.parents)]
    return any(one.stem.startswith(name) for name in names for folder in folders for one in folder.glob("test_*.py"))


def repeated() -> Iterator[str]:
    """Yield each passage of so many lines, without blank ones, comments and imports, that stands twice."""
    seen: dict[str, Path] = {}
    for path in FILES:
        text = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        text = [line for line in text if line and not line.startswith(("#", "from ", "import "))]
        skip = 0
        for at in range(len(text) - REPEATED_LINES + 1):
            passage = "\n".join(text[at : at + REPEATED_LINES])
            if passage in seen and at >= skip:
                skip = at + REPEATED_LINES
                yield f"{path}: {text[at]}"
            seen.setdefault(passage, path)


if __name__ == "__main__":
    main()
