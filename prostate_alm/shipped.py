"""Bundles, plans and recipes that come with the package, found from any folder; a user's own file goes first."""

import json
from pathlib import Path
from typing import Any

BUNDLES, RECIPES = "bundles", "data_manifest"
TRAINING_CONFIG = "train.json"
"""The file that makes a folder a bundle."""

SET_BY_THE_ENSEMBLE = ("member", "output_dir", "resume", "overwrite", "parent_run_id")
"""Settings of a bundle that belong to one member of an ensemble."""

_PLANS = "experiments"


def shipped_folder(name: str) -> Path:
    """Return the folder of shipped files of one kind: inside an installed package, at the top of a checkout.

    Args:
        name: `bundles` or `data_manifest`.

    Raises:
        FileNotFoundError: the installation lacks it.

    >>> sorted(path.name for path in shipped_folder(BUNDLES).iterdir() if path.is_dir())
    ['cifar10', 'gland', 'lesions', 'prostate']
    """
    package = Path(__file__).parent
    for parent in (package, package.parent):
        if (parent / name).is_dir():
            return parent / name
    raise FileNotFoundError(
        f"package must be installed with its {name}, got none in {package}. Install it again from its wheel."
    )


def bundle_names() -> list[str]:
    """Return the names of the shipped bundles, sorted."""
    return sorted(path.parent.name for path in shipped_folder(BUNDLES).glob(f"*/{TRAINING_CONFIG}"))


def shipped_bundle(name: str) -> Path:
    """Return the folder of a shipped bundle.

    Raises:
        ValueError: there is none of that name.

    >>> shipped_bundle("prostate").name
    'prostate'
    """
    if name not in bundle_names():
        raise ValueError(f"bundle must be a shipped one, got {name!r}. Available: {bundle_names()}")
    return shipped_folder(BUNDLES) / name


def overrides_of(name: str) -> dict[str, Any]:
    """Return the settings of a shipped bundle that a command for an ensemble takes, with their defaults.

    None of a bundle that trains no members, as that of the gland.

    >>> overrides_of("cifar10")["ratio"]
    2
    """
    config = json.loads((shipped_bundle(name) / TRAINING_CONFIG).read_text(encoding="utf-8"))
    return {
        key: config[key] for key in config.get("given_settings", ()) if key in config and key not in SET_BY_THE_ENSEMBLE
    }


def find_bundle(given: str) -> Path:
    """Return the bundle that a user names.

    Args:
        given: a folder with `train.json`, a config file, an overlay beside its `train.json`, or the name of a shipped
            bundle or overlay, `bundles/` before it or not.

    Returns:
        The path as it was given when it is there or nothing of that name is shipped; else that of the shipped bundle.

    >>> find_bundle("cifar10").name, find_bundle("no/such/bundle").as_posix()
    ('cifar10', 'no/such/bundle')
    """
    path = Path(given)
    if path.is_file() or (path / TRAINING_CONFIG).is_file():
        return path
    inside = _relative_to(path, BUNDLES)
    overlay = shipped_folder(BUNDLES) / inside
    if inside.as_posix() in bundle_names() or (not inside.is_absolute() and overlay.is_file()):
        return overlay
    return path


def config_files_of(config_file: Path) -> list[Path]:
    """Return the config files that the bundle command takes for one of them: an overlay lies over its `train.json`.

    Args:
        config_file: a config of a training, or an overlay, which does not say itself what `training` is.

    >>> [path.name for path in config_files_of(shipped_bundle("cifar10") / "long_tailed.json")]
    ['train.json', 'long_tailed.json']
    """
    below = config_file.with_name(TRAINING_CONFIG)
    if config_file.name == TRAINING_CONFIG or not below.is_file():
        return [config_file]
    content = json.loads(config_file.read_text(encoding="utf-8"))
    return [config_file] if "training" in content else [below, config_file]


def find_plan(given: str) -> Path:
    """Return the plan of an experiment that a user names.

    Args:
        given: a file, its place in the shipped bundles, or bundle and name of a shipped plan, e.g. `cifar10/first`.

    Returns:
        The path as it was given when it is there or nothing of that name is shipped; else that of the shipped plan.

    >>> find_plan("cifar10/first").name, find_plan("bundles/prostate/experiments/default.json").parent.name
    ('first.json', 'experiments')
    """
    path = Path(given)
    inside = _relative_to(path, BUNDLES)
    for candidate in (inside, inside.parent / _PLANS / f"{inside.name}.json"):
        shipped = shipped_folder(BUNDLES) / candidate
        if not path.is_file() and not inside.is_absolute() and shipped.is_file():
            return shipped
    return path


def find_recipe(given: Path) -> Path:
    """Return a recipe of a synthetic cohort: the file itself when it is there, else the shipped one of that place.

    >>> find_recipe(Path("data_manifest/phantom-400.json")).name, find_recipe(Path("mine.json")).as_posix()
    ('phantom-400.json', 'mine.json')
    """
    inside = _relative_to(given, RECIPES)
    shipped = shipped_folder(RECIPES) / inside
    return shipped if inside != given and not given.is_file() and shipped.is_file() else given


def _relative_to(path: Path, folder: str) -> Path:
    """Return what follows `folder` in a relative path that starts with it, else the path."""
    return path.relative_to(folder) if path.parts[:1] == (folder,) else path
