"""How the package is built, in figures beside their bars: python benchmarks/house.py [--trace].

Modules, lines, lengths of functions, parameters, errors that name the value, mirrored tests, circles, modules that one
other module imports, repeated passages. It reads `prostate_alm/` and `tests/` beside it and imports neither. With
`--trace` it also answers one study with the model that comes along and trains one epoch, and counts the files entered.
"""

import ast
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import quantiles
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, TESTS = ROOT / "prostate_alm", ROOT / "tests"
REPEATED_LINES = 10
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# What the package could not do when the bars were set, by words of the paths; its modules and lines do not count.
NEW = {
    "lesions": ("lesion", "mask", "segmentation", "map_losses", "candidates", "dicom/frames"),
    "gland": ("gland",),
    "several classes": ("class", "critical.py"),
    "doctor, container, drift": ("doctor", "container", "drift"),
    "signatures, federation": ("trust", "federation"),
}


def main() -> None:
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 - documented(node) for node in functions)
    graph = imports()
    importers = Counter(name for names in graph.values() for name in names)
    errors = [named for tree in TREES.values() for named in errors_in(tree)]
    named, tested = (share(rule) for rule in (is_mirrored, is_tested))
    counted = [path for path in FILES if capability(path) is None]
    row("figure", "found", "bar")
    row("modules", f"{len(counted)} ({len(FILES)})", "140")
    row("lines", f"{sum(map(lines_of, counted))} ({sum(map(lines_of, FILES))})", "23000")
    row("longest file", max(map(lines_of, FILES)), "400")
    row(
        "functions: median, 90 %, longest",
        f"{quantiles(lengths)[1]:.0f}, {quantiles(lengths, n=10)[8]:.0f}, {lengths[-1]}",
        "6, 17, 40",
    )
    row("most parameters", max(map(parameters, functions)), "7")
    row("functions of more than 7", sum(parameters(node) > 7 for node in functions), "0")
    row("errors that name the value, %", f"{100 * sum(errors) / len(errors):.0f}", "90")
    row("modules tested in their room, %", f"{tested:.0f}", "90")
    row("... by a file of their name, %", f"{named:.0f}", "")
    row("circles", circle(graph), "none")
    row("imported by one other", sum(count == 1 for count in importers.values()), "30")
    row(f"passages of {REPEATED_LINES} lines repeated", sum(1 for _ in repeated()), "0")
    if "--trace" in sys.argv:
        row("files entered by one study", entered(one_study), "25")
        row("files entered by one logit", entered(one_epoch), "20")
    print("in brackets: with what is new since the bars were set")
    for name in NEW:
        new = [path for path in FILES if capability(path) == name]
        print(f"  {name}: {len(new)} modules, {sum(map(lines_of, new))} lines")


def row(figure: str, found: object, bar: str) -> None:
    print(f"{figure:34} {found!s:>16} {bar:>10}")


def capability(path: Path) -> str | None:
    """Return the new capability that a module belongs to, if it does."""
    name = path.relative_to(PACKAGE).as_posix()
    return next((what for what, words in NEW.items() if any(word in name for word in words)), None)


def share(rule: Callable[[Path], bool]) -> float:
    return 100 * sum(map(rule, subjects())) / len(subjects())


def entered(action: Callable[[Callable[[], object], Callable[[], object]], object]) -> str:
    """Return how many files of the package are entered between the calls of two functions, and print their names."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            found.add(str(Path(frame.f_code.co_filename).relative_to(PACKAGE)))

    action(lambda: sys.setprofile(note), lambda: sys.setprofile(None))
    print("  " + " ".join(sorted(found)))
    return str(len(found))


def one_study(begin: Callable[[], object], end: Callable[[], object]) -> None:
    """Answer a synthetic study with the model that comes along; everything in this process."""
    from prostate_alm.delivery.package.opened import open_package
    from prostate_alm.delivery.predict import predict_folder
    from prostate_alm.imaging import apart
    from prostate_alm.phantom.cohort import make_study, write_study

    apart._IS_APART = False
    model = open_package(ROOT / "bundles" / "prostate" / "demo.zip")
    with tempfile.TemporaryDirectory() as name:
        folder = write_study(make_study(1), Path(name) / "study")
        begin()
        predict_folder(folder, model)
        end()


def one_epoch(begin: Callable[[], object], end: Callable[[], object]) -> None:
    """Train an epoch of the CIFAR-10 bundle with the constraint, its validation included, on a stand-in."""
    from ignite.engine import Events
    from monai.bundle import ConfigWorkflow

    from prostate_alm.data.cifar10 import write_stand_in

    with tempfile.TemporaryDirectory() as name:
        given = {"dataset_dir": str(write_stand_in(Path(name) / "cifar", images_per_class=60)), "tracking_uri": "none"}
        sizes = {"ratio": 4, "train_majority": 40, "validation_majority": 20, "batch_size": 16}
        config = str(ROOT / "bundles" / "cifar10" / "train.json")
        more = {"pretrain_epochs": 0, "alm_epochs": 1, "output_dir": str(Path(name) / "out")}
        workflow = ConfigWorkflow(
            config_file=config, workflow_type="train", run_id="training", **given, **sizes, **more
        )
        workflow.initialize()
        workflow.trainer.add_event_handler(Events.ITERATION_STARTED(once=1), begin)
        workflow.trainer.add_event_handler(Events.EPOCH_COMPLETED, end)
        workflow.run()


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
    """Yield for each error of the caller whether its text has something filled in, or is given it beside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            given = node.exc.args
            is_text = [isinstance(one, ast.Constant) and isinstance(one.value, str) for one in given]
            if any(is_text) or any(isinstance(one, ast.JoinedStr | ast.Call) for one in given):
                yield any(not isinstance(one, ast.Constant) for one in given)


def subjects() -> list[Path]:
    """Return the modules that have something to test: more than a docstring and imports."""
    return [
        path for path in FILES if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in TREES[path].body)
    ]


def is_mirrored(path: Path) -> bool:
    """Return whether the tests of the room, or those beside it, have a file named after the module."""
    own = path.parent.name if path.stem == "__init__" else path.stem
    names = tuple(f"test_{name}" for name in (own, f"{path.parent.name}_{own}"))
    return any(one.stem.startswith(names) for one in (*tests_of(path), *TESTS.glob("test_*.py")))


def is_tested(path: Path) -> bool:
    """Return whether a test file of the module's room has its name, or imports something of it by name.

    A file that is named after what a user sees (a vendor, a table) covers the modules that it imports.
    """
    return is_mirrored(path) or any(path in imported_by(test) for test in tests_of(path))


def tests_of(path: Path) -> list[Path]:
    """Return the test files of a module's room, `tests/<room>/` and below."""
    room = path.relative_to(PACKAGE).parts[0]
    folder = TESTS / room
    return sorted(folder.rglob("test_*.py")) if folder.is_dir() else sorted(TESTS.glob("test_*.py"))


@cache
def imported_by(test: Path) -> frozenset[Path]:
    found = set()
    for node in ast.walk(ast.parse(test.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prostate_alm"):
            for name in (node.module, *(f"{node.module}.{one.name}" for one in node.names)):
                found.add(ROOT / f"{str(name).replace('.', '/')}.py")
    return frozenset(found)


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
