"""The wheel as a user gets it: built from the source distribution, in its own environment, from an empty folder."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.metadata import distribution, packages_distributions, requires
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from prostate_alm import __version__
from prostate_alm.cli import main
from prostate_alm.doctor.installation import PACKAGE
from prostate_alm.extras import MODULES
from prostate_alm.shipped import BUNDLES, RECIPES, find_bundle, find_plan, find_recipe, shipped_folder

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "prostate_alm", BUNDLES, RECIPES)
SHIPPED_RECIPES = {"README.md", "phantom-400.json"}


class Distributions(NamedTuple):
    source: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build both from a copy of the checkout in which a cohort's manifest lies, too."""
    checkout, output = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout / name)
    (checkout / RECIPES / "mine.json").write_text('{"patients": "of a hospital"}')
    (checkout / RECIPES / "mine").mkdir()
    (checkout / RECIPES / "mine" / "t2.nii.gz").write_bytes(b"voxels")
    build = "import sys; from setuptools import build_meta as hooks; hooks.build_sdist(sys.argv[1])"  # PEP 517
    _quietly(sys.executable, "-c", build, output, cwd=checkout)
    (source,) = output.glob("*.tar.gz")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", output)
    _quietly(sys.executable, "-m", "pip", "wheel", *options, source, cwd=output)
    (wheel,) = output.glob("*.whl")
    return Distributions(source, wheel)


@pytest.fixture(scope="module")
def environment(built: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment that has the wheel, and of this one what the wheel needs."""
    folder = tmp_path_factory.mktemp("environment")
    _quietly(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    install = ("install", "--no-deps", "--no-index", "--no-compile", built.wheel)
    _quietly(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # a path in a .pth file is searched, but its own .pth files are not read: the checkout stays out
    (packages / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def method_only(built: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment that has the wheel, and what `pip install prostate-alm` brings with it."""
    folder = tmp_path_factory.mktemp("method")
    _quietly(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    install = ("install", "--no-deps", "--no-index", "--no-compile", built.wheel)
    _quietly(sys.executable, "-m", "pip", "--python", folder / "bin" / "python", *install, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in _needed(PACKAGE):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(found.locate_file(top)))
    return folder / "bin"


def _needed(name: str) -> set[str]:
    """Return the names of what a package needs here without extras, and what that needs."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for one in map(Requirement, requires(waiting.pop()) or ()):
            if one.name not in found and (one.marker is None or one.marker.evaluate({"extra": ""})):
                found.add(one.name)
                waiting.append(one.name)
    return found


def _quietly(*command: object, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_code_the_bundles_and_the_recipe_and_nothing_else(built: Distributions) -> None:
    expected = {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / "prostate_alm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {f"prostate_alm/{path.relative_to(REPOSITORY)}" for path in _files(REPOSITORY / BUNDLES)}
    expected |= {f"prostate_alm/{RECIPES}/{name}" for name in SHIPPED_RECIPES}
    with zipfile.ZipFile(built.wheel) as wheel:
        assert {name for name in wheel.namelist() if ".dist-info/" not in name} == expected


def test_a_cohort_beside_the_recipe_is_in_neither_distribution(built: Distributions) -> None:
    with tarfile.open(built.source) as source:
        names = source.getnames()
    assert sum(name.endswith("phantom-400.json") for name in names) == 1
    assert [name for name in names if "mine" in name] == []


def test_the_installed_program_finds_its_bundles_from_anywhere(environment: Path, tmp_path: Path) -> None:
    program = environment / "prostate-alm"
    assert _quietly(program, "--version", cwd=tmp_path) == f"prostate-alm {__version__}\n"
    for name in ("prostate", "cifar10"):
        folder = Path(_quietly(program, "bundle", "path", name, cwd=tmp_path).strip())
        assert folder.is_relative_to(environment.parent)
        for file in _files(REPOSITORY / BUNDLES / name):
            assert (folder / file.relative_to(REPOSITORY / BUNDLES / name)).read_bytes() == file.read_bytes()


def test_installed_names_of_plans_and_recipes_hold_in_any_folder(environment: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from prostate_alm.data.synthetic import read_recipe\n"
        "from prostate_alm.shipped import find_plan, find_recipe\n"
        "from prostate_alm.experiments.plan import read_plan\n"
        "for given in ('prostate/default', 'bundles/cifar10/experiments/first.json'):\n"
        "    print(read_plan(find_plan(given)).bundle)\n"
        "recipe = read_plan(find_plan('prostate/default')).settings['recipe']\n"
        "print(read_recipe(find_recipe(Path(recipe))).cohort.studies)\n"
    )
    *bundles, studies = _quietly(environment / "python", "-c", code, cwd=tmp_path).splitlines()
    assert [Path(line).parts[-3:] for line in bundles] == [
        (BUNDLES, name, "train.json") for name in ("prostate", "cifar10")
    ]
    assert all(Path(line).is_relative_to(environment.parent) for line in bundles)
    assert studies == "400"


FIVE_LINES = """
import torch
from prostate_alm import AugmentedLagrangian, ConstrainedLoss

ids, logits = ["a", "b", "c"], torch.zeros(3, requires_grad=True)
term = AugmentedLagrangian(ids)
loss = ConstrainedLoss(torch.nn.BCEWithLogitsLoss(), term)
loss(logits, torch.tensor([1.0, 0.0, 0.0]), ids).backward()
term.update_multipliers()
term.observe_validation(0.7)
print(logits.grad[0] < 0 < logits.grad[1])
"""


def test_the_method_needs_no_extra(method_only: Path, tmp_path: Path) -> None:
    assert _quietly(method_only / "python", "-c", FIVE_LINES, cwd=tmp_path) == "tensor(True)\n"
    assert "predict" in _quietly(method_only / "prostate-alm", "--help", cwd=tmp_path)
    found = json.loads(_quietly(method_only / "prostate-alm", "doctor", "--json", cwd=tmp_path))
    told = {one["check"]: one for one in found["findings"]}
    assert {"tracking", "orthanc"}.isdisjoint(told)
    assert told["torch"]["level"] == "ok" or "no answer within" in told["torch"]["found"]
    assert "pip install 'prostate-alm[dicom]'" in told["extra dicom"]["advice"]


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("dicom", ("study", "explain", "x")),
        ("serve", ("predict", "x", "--model", "m.zip", "--output", "o")),
        ("train", ("ensemble", "train", "prostate")),
        ("train", ("track", "sync")),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(
    method_only: Path, tmp_path: Path, extra: str, command: tuple[str, ...]
) -> None:
    program = [str(method_only / "prostate-alm"), *command]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: prostate_alm.")
    assert line.endswith(f"Install them: pip install 'prostate-alm[{extra}]'")
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])


def test_a_room_without_its_extra_cannot_be_imported(method_only: Path, tmp_path: Path) -> None:
    code = """
for room in ("imaging", "phantom", "data", "training", "experiments", "tracking", "delivery"):
    try:
        __import__(f"prostate_alm.{room}")
    except ImportError as error:
        print(error)
"""
    lines = _quietly(method_only / "python", "-c", code, cwd=tmp_path).splitlines()
    assert len(lines) == 7
    assert all(" must have the packages of the extra " in line for line in lines)


def test_the_names_that_are_imported_are_those_that_an_extra_installs() -> None:
    providers = {name: set(map(canonicalize_name, found)) for name, found in packages_distributions().items()}
    for extra, names in MODULES.items():
        declared = [one for one in map(Requirement, requires(PACKAGE) or ()) if f'"{extra}"' in str(one.marker)]
        installed = {canonicalize_name(one.name) for one in declared} - {PACKAGE, "filelock"}  # torch brings that one
        assert all(providers[name] & installed for name in names)
        assert all(any(one in providers[name] for name in names) for one in installed)


def test_a_file_of_the_user_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_bundle("cifar10") == find_bundle("bundles/cifar10") == REPOSITORY / BUNDLES / "cifar10"
    Path("cifar10").mkdir()  # a folder of results, say
    assert find_bundle("cifar10") == REPOSITORY / BUNDLES / "cifar10"
    assert find_bundle("cifar10/long_tailed.json") == REPOSITORY / BUNDLES / "cifar10" / "long_tailed.json"
    assert find_plan("cifar10/first") == REPOSITORY / BUNDLES / "cifar10" / "experiments" / "first.json"
    assert find_recipe(Path("data_manifest/phantom-400.json")) == REPOSITORY / RECIPES / "phantom-400.json"
    Path(RECIPES).mkdir()
    for name in ("cifar10/train.json", "cifar10/first", "data_manifest/phantom-400.json"):
        Path(name).touch()
    assert find_bundle("cifar10") == Path("cifar10")
    assert find_plan("cifar10/first") == Path("cifar10/first")
    assert find_recipe(Path("data_manifest/phantom-400.json")) == Path("data_manifest/phantom-400.json")
    for given in ("no", "../bundles/cifar10", str(tmp_path / "cifar10" / "no"), ".", ""):
        assert find_bundle(given) == Path(given)
        assert find_plan(given) == Path(given)


def test_a_bundle_that_is_not_shipped_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "path", "lung"]) == 2
    expected = (
        "error: bundle must be a shipped one, got 'lung'. Available: ['cifar10', 'gland', 'lesions', 'prostate']\n"
    )
    assert capsys.readouterr().err == expected
    assert main(["bundle", "path", "prostate"]) == 0
    assert capsys.readouterr().out == f"{shipped_folder(BUNDLES) / 'prostate'}\n"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
