"""Keys that nothing reads: MONAI adds them to a config without a word, so that `--max_epoch 3` would change nothing."""

import difflib
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prostate_alm.training.command_line import (
    bundle_arguments,
    literal_override,
    named_arguments,
    read_config,
    tell_faults_in_lines,
)

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

NOT_OVERRIDES = {"run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"}
"""Arguments of `python -m monai.bundle run` itself."""

_RUN_BY_MONAI = {"imports", "run", "training", "evaluating", "inference", "initialize", "finalize"}
SET_BY_MONAI = {"run_name", "experiment_name", "save_execute_config", "is_not_rank0"}
"""What MONAI's tracking and its clients of federated learning put into any config."""


def unread_keys(config: Mapping[str, Any], *, read: set[str]) -> list[str]:
    """Find the keys of a config that nothing reads: no reference leads to them, into them or above them.

    What is within a component is left to the component, which refuses arguments that it does not have.

    Args:
        config: as it is evaluated, overlays and overrides merged.
        read: ids that are read from elsewhere, e.g. `training` or `train#trainer`.

    >>> unread_keys({"a": 1, "b": {"c": "$@a + 1", "d": 2}, "run": "@b#c"}, read={"run"})
    ['b#d']
    """
    return list(_unread(config, "", references(config) | read))


def references(content: Any) -> set[str]:
    """Return the ids that a config refers to.

    >>> references({"a": "$@b::c + 1"})
    {'b#c'}
    """
    found = re.findall(r"@([\w#:]+)", json.dumps(content, default=str))
    return {reference.replace("::", "#") for reference in found}


def _unread(section: Mapping[str, Any], above: str, read: set[str]) -> Iterator[str]:
    for name, content in section.items():
        key = above + name
        leads_into = any(one.startswith(f"{key}#") for one in read)
        if key in read or name.startswith("_"):
            continue
        if not leads_into:
            yield key
        elif isinstance(content, Mapping) and "_target_" not in content:
            yield from _unread(content, f"{key}#", read)


def unknown_keys(named: Mapping[str, Any]) -> list[str]:
    """Find what overlays and overrides of a bundle command add to its config that nothing reads.

    Args:
        named: arguments of the command, see `command_line.named_arguments`.

    Returns:
        One line for each; empty when all are read or no config file is named.
    """
    from monai.bundle import ConfigParser  # takes seconds, needed here only

    files = config_files(named.get("config_file", ""))
    if not files:
        return []
    parser, read = ConfigParser(), _read_from_outside(named.get(name) for name in ("run_id", "init_id"))
    for path in files:
        read |= references(read_config(path))  # an override may take the place of what refers to a key
    parser.read_config(files)
    for name, value in _overrides(named).items():
        try:
            parser[name.lstrip("+")] = literal_override(value)
        except (LookupError, ValueError, TypeError):
            return [f"override must be a key of the config file, got --{name} in the command line. Give another."]
    parser.resolve_macro_and_relative_ids()
    return _faults(parser.get(), named, read=read)


def require_read_keys() -> None:
    """Refuse keys that nothing reads in the config that is evaluated now; on a command line faults become single lines.

    Raises:
        ValueError: one line for each such key, and for a base loss that is not named by `loss`.
    """
    tell_faults_in_lines()
    arguments = named_arguments(bundle_arguments())
    faults = _unnamed_losses(arguments) + _faults_of_workflow(arguments)
    if faults:
        raise ValueError("\n".join(faults))


def _faults_of_workflow(arguments: Mapping[str, Any]) -> list[str]:
    workflow = evaluating_workflow()
    if workflow is None:
        return []
    read = _read_from_outside((workflow.run_id, workflow.init_id, workflow.final_id))
    read |= SET_BY_MONAI if "tracking" in arguments else SET_BY_MONAI - set(arguments)
    for path in Path(workflow.config_root_path).glob("*.json"):
        read |= references(read_config(path))  # an override may take the place of what refers to a key
    return _faults(workflow.parser.get(), arguments, read=read)


def _unnamed_losses(named: Mapping[str, Any]) -> list[str]:
    """Find base losses that are put in place behind the back of `--loss`: results would bear another loss's name."""
    overlays = [(f"in {path.name}", read_config(path)) for path in config_files(named.get("config_file", ""))[1:]]
    return [
        f"base loss must be named by --loss, got {key} {where}. Give --loss module.function: docs/tutorials/extend.md"
        for where, content in [*overlays, ("in the command line", named)]
        for key in content
        if key.lstrip("+").replace("::", "#").startswith("loss_function#base")
    ]


def evaluating_workflow() -> "ConfigWorkflow | None":
    """Return MONAI's workflow that evaluates the config which calls this; None outside of one.

    An expression of a config sees what it refers to, and not the config: the workflow is looked for among the callers.
    """
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigWorkflow):
            return caller
        frame = frame.f_back
    return None


def config_files(value: str | Sequence[str]) -> list[Path]:
    """Read `X.json` or a list as MONAI's command line takes it: `"['X.json','Y.json']"`, or as a list.

    >>> [path.name for path in config_files("['a/X.json','a/Y.json']")]
    ['X.json', 'Y.json']
    """
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
    return [Path(part.strip(" '\"")) for part in parts if part.strip(" '\"")]


def _overrides(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if name not in NOT_OVERRIDES}


def _read_from_outside(run: Any) -> set[str]:
    """Return the ids that MONAI reads: those that are run, and the properties of any workflow that it asks for."""
    from monai.bundle.properties import InferProperties, TrainProperties
    from monai.utils import BundlePropertyConfig

    properties = (*TrainProperties.values(), *InferProperties.values())
    ids = {one[BundlePropertyConfig.ID] for one in properties if one.get(BundlePropertyConfig.REF_ID) is None}
    return ids | _RUN_BY_MONAI | {str(name) for name in run if name}


def _faults(config: Mapping[str, Any], named: Mapping[str, Any], *, read: set[str]) -> list[str]:
    unread = list(dict.fromkeys([*unread_keys(config, read=read), *_made_useless(named)]))
    return [_fault(key, config, given=_given(key, named), unread=unread) for key in unread]


def _made_useless(named: Mapping[str, Any]) -> list[str]:
    """Find overrides of what an overlay took the place of the reader of: `--ratio` where there are ten classes."""
    from monai.bundle import ConfigParser

    files = config_files(named.get("config_file", ""))
    if len(files) < 2:
        return []
    parser = ConfigParser()
    parser.read_config(files)
    parser.resolve_macro_and_relative_ids()
    outside = _read_from_outside(named.get(name) for name in ("run_id", "init_id", "final_id"))
    given = {name.lstrip("+").replace("::", "#") for name in _overrides(named)}
    return sorted(given.intersection(unread_keys(parser.get(), read=outside)))


def _fault(key: str, config: Mapping[str, Any], *, given: str, unread: Sequence[str]) -> str:
    *above, last = key.split("#")
    section: Any = config
    for part in above:
        section = section[part]
    place = "".join(f"{part}#" for part in above)
    known = [name for name in section if f"{place}{name}" not in unread and name != "imports" and name[0] != "_"]
    close = difflib.get_close_matches(last, known, n=1)
    prefix = "--" if given.startswith("--") else ""
    hint = f"Did you mean {prefix}{place}{close[0]}?" if close else f"Available: {sorted(known)}"
    return f"override must be a key of the config file, got {given}. {hint}"


def _given(key: str, named: Mapping[str, Any]) -> str:
    """Return how and where a key was given: on the command line, in a file, or by a program."""
    for name in _overrides(named):
        if name.lstrip("+").replace("::", "#") == key:
            return f"--{name} in the command line"
    for path in config_files(named.get("config_file", "")):
        for name in read_config(path):
            if name.lstrip("+").replace("::", "#") == key:
                return f"{name} in {path.name}"
    return key
