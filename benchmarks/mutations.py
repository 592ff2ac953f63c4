"""Do the tests notice a wrong line? Change lines at random, run the tests: python benchmarks/mutations.py method.

Each change is made in a copy of the repository. Only the tests of the changed file run, up to the first that fails.
"""

import argparse
import ast
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 1200  # a change may make a loop endless

# Tests of a file that are not named test_<file>*.py, by the path inside the room.
TESTS = {
    "method/batch.py": ["test_lagrangian*.py", "test_batch_ranks.py"],
    "method/lagrangian.py": ["test_lagrangian*.py", "test_batch_ranks.py"],
    "imaging/checks.py": ["test_dicom.py", "test_volume.py", "test_study.py"],
    "imaging/files.py": ["test_dicom.py", "test_signal_syntaxes.py"],
    "imaging/geometry.py": ["test_dicom.py", "test_folder.py", "test_volume.py"],
    "imaging/header.py": ["test_dicom.py", "test_kinds.py", "test_signal_syntaxes.py", "test_rules_vendors.py"],
    "imaging/kinds.py": ["test_kinds.py", "test_study.py", "test_rules_vendors.py"],
    "phantom": ["test_*.py"],
    "phantom/dicom.py": ["test_study.py", "test_cohort_version.py"],
    "phantom/protocol.py": ["test_study.py", "test_cohort_version.py"],
    "imaging/folder.py": ["test_folder.py", "../delivery/test_sources.py"],
    "imaging/pixels.py": ["test_pixels.py", "test_volume.py", "test_signal_syntaxes.py", "test_dicom.py"],
    "imaging/rulebook.py": ["test_rulebook.py", "test_study.py"],
    "imaging/rules.py": ["test_study.py", "test_rules_vendors.py", "test_rulebook.py"],
    "imaging/scan.py": ["test_dicom.py", "test_folder.py", "test_signal_syntaxes.py", "test_scan.py"],
    "imaging/selection.py": ["test_study.py", "test_rules_vendors.py"],
    "imaging/signal.py": ["test_pixels.py", "test_volume.py", "test_signal_syntaxes.py", "test_scan.py"],
    "imaging/segmentation.py": ["../data/cohorts/test_mask_files.py"],
    "data/masks.py": ["test_masks.py", "cohorts/test_mask_files.py"],
    "data/cohorts/mask_files.py": ["test_masks.py", "cohorts/test_mask_files.py", "cohorts/test_p*.py"],
    "imaging/study.py": ["test_study.py", "test_rules_vendors.py", "test_rulebook.py"],
    "delivery/answers.py": ["test_answers.py", "test_archive.py", "test_package_inference.py"],
    "parallel.py": ["test_parallel.py", "delivery/test_archive.py"],
    "delivery/beside.py": ["test_archive.py", "test_report.py"],
    "delivery/card.py": ["test_card.py", "test_package*.py"],
    "delivery/sources.py": ["test_sources.py"],
    "delivery/prediction.py": ["test_predict.py", "test_archive.py", "test_report.py"],
    "delivery/unpack.py": ["test_sources.py"],
    "delivery/dicom": ["dicom/test_*.py"],
    "delivery/orthanc": ["test_orthanc*.py"],
    "delivery/package": ["test_package*.py"],
    "delivery/report": ["test_report*.py"],
    "delivery/report/saliency.py": ["test_report_saliency.py"],
}

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One changed place: bytes `start` to `end` of a file become `text`."""

    file: str  # relative to prostate_alm
    line: int
    kind: str
    start: int
    end: int
    old: str
    text: str


def mutants_of(path: Path, file: str) -> Iterator[Mutant]:
    """Yield every change of one file; annotations, docstrings and the words of messages are left alone."""
    source = path.read_bytes()
    lengths = [len(line) for line in source.splitlines(keepends=True)]
    offsets = list(itertools.accumulate(lengths, initial=0))
    for node in _code(ast.parse(source)):
        for kind, text in _changes(node):
            start = offsets[node.lineno - 1] + node.col_offset
            end = offsets[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            old = " ".join(source[start:end].decode().split())
            yield Mutant(file, node.lineno, kind, start, end, old, text)


def _code(tree: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Yield the expressions and statements that act when the program runs."""
    if isinstance(tree, ast.JoinedStr):
        return
    if isinstance(tree, ast.expr | ast.stmt):
        yield tree
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child)


def _changes(node: ast.expr | ast.stmt) -> Iterator[tuple[str, str]]:
    match node:
        case ast.Compare(left, [operator], [right]):
            yield "comparison", _text(ast.Compare(left, [COMPARISONS[type(operator)]()], [right]))
        case ast.Compare(left, [low, high], values):
            yield "comparison", _text(ast.Compare(left, [COMPARISONS[type(low)](), high], values))
            yield "comparison", _text(ast.Compare(left, [low, COMPARISONS[type(high)]()], values))
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield "operator", _text(ast.BinOp(left, OPERATORS[type(operator)](), right))
        case ast.BoolOp(operator, values):
            other = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield "boolean", _text(ast.BoolOp(other, values))
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield "boolean" if isinstance(node.op, ast.Not) else "operator", _text(operand)
        case ast.IfExp(test, body, orelse):
            yield "boolean", _text(ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse))
        case ast.Constant(bool() as value):
            yield "boolean", str(not value)
        case ast.Constant(int() | float() as value):
            yield "constant", repr(value + 1)
        case ast.Subscript(value, ast.Slice(lower, upper, step)) if upper is not None:
            later = ast.Slice(lower, ast.BinOp(upper, ast.Add(), ast.Constant(1)), step)
            yield "slice", _text(ast.Subscript(value, later, ast.Load()))
        case ast.Return(value) if value is not None:
            yield "return", "return None"
        case ast.Expr(value) if not isinstance(value, ast.Constant):
            yield "deleted statement", "pass"
        case ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield "deleted statement", "pass"
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield "deleted statement", "pass"


def _text(node: ast.expr) -> str:
    return f"({ast.unparse(ast.fix_missing_locations(node))})"


def copy_of_repository(folder: Path) -> Path:
    """Copy what git knows or would add, and link the data beside the repository."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.decode()
    copy = folder / "repository"
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    if (shared := ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to(shared)
    return copy


def tests_of(copy: Path, file: str) -> list[str]:
    """Return the test files of a file of the package; there must be one."""
    room = file.split("/")[0] if "/" in file else ""
    patterns = TESTS.get(file) or TESTS.get(str(Path(file).parent)) or [f"test_{Path(file).stem}*.py"]
    found = [str(path) for pattern in patterns for path in sorted((copy / "tests" / room).glob(pattern))]
    if not found:
        raise FileNotFoundError(f"a file must have tests, got none of {patterns} in tests/{room} for {file}.")
    return found


def outcome(copy: Path, file: str) -> tuple[str, str]:
    """Run the tests of one file, then its doctests: caught or survived, and the test that failed."""
    source = copy / "prostate_alm" / file
    for cached in source.parent.glob(f"__pycache__/{source.stem}.*.pyc"):
        cached.unlink()
    failed = first_failure(copy, tests_of(copy, file))
    if not any(source.parent.glob(f"__pycache__/{source.stem}.*.pyc")):
        raise RuntimeError(f"the tests must import the changed {file}, got another copy. Look at PYTHONPATH.")
    failed = failed or first_failure(copy, [str(source)])
    return ("caught", failed) if failed else ("survived", "")


def first_failure(copy: Path, paths: list[str]) -> str:
    """Return the first test below the paths that fails, '' where all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *paths]
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the cache shows which copy was imported
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=copy, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"stopped after {LIMIT_S} s"
        log.seek(0)
        lines = log.read().splitlines()
    if code in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return ""
    failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR ")) and "::" in line]
    return failed[0] if failed else lines[-1]


def draw(rooms: list[str], *, number: int, seed: int) -> list[Mutant]:
    """Return so many changes of the files under the paths, each as likely as any other, in the order drawn."""
    package = ROOT / "prostate_alm"
    paths = [path for room in rooms for path in sorted((package / room).rglob("*.py")) or [package / room]]
    every = [mutant for path in paths for mutant in mutants_of(path, path.relative_to(package).as_posix())]
    return random.Random(seed).sample(every, min(number, len(every)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "paths", nargs="+", help="rooms or files in prostate_alm, for example method or method/metrics.py"
    )
    parser.add_argument("--number", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="run these of the drawn ones again, counted from 1")
    arguments = parser.parse_args()
    mutants = draw(arguments.paths, number=arguments.number, seed=arguments.seed)
    caught = total = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        copy = copy_of_repository(Path(folder))
        for number, mutant in enumerate(mutants, 1):
            if arguments.only and number not in arguments.only:
                continue
            path, start = copy / "prostate_alm" / mutant.file, time.perf_counter()
            source = path.read_bytes()
            path.write_bytes(source[: mutant.start] + mutant.text.encode() + source[mutant.end :])
            result, by = outcome(copy, mutant.file)
            path.write_bytes(source)
            caught, total = caught + (result == "caught"), total + 1
            took = time.perf_counter() - start
            print(f"{number:>3} {result:<8} {took:4.0f} s  {mutant.file}:{mutant.line}  {mutant.kind}", flush=True)
            print(f"      {mutant.old}  ->  {mutant.text}\n      {by.replace(f'{copy}/', '')}", flush=True)
    print(f"{caught} of {total} caught")


if __name__ == "__main__":
    main()
