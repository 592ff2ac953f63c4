"""The wheel as a user gets it: built from the source distribution, in its own environment, from an empty folder."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from prostate_alm import __version__
from prostate_alm.cli import main
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
        "from prostate_alm.data.recipe import read_recipe\n"
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
    expected = "error: bundle must be a shipped one, got 'lung'. Available: ['cifar10', 'lesions', 'prostate']\n"
    assert capsys.readouterr().err == expected
    assert main(["bundle", "path", "prostate"]) == 0
    assert capsys.readouterr().out == f"{shipped_folder(BUNDLES) / 'prostate'}\n"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
