"""Keys that nothing reads: MONAI adds them to a config without a word, so that `--max_epoch 3` would change nothing."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOT_OVERRIDES = {"run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"}
"""Arguments of `python -m monai.bundle run` itself."""

_RUN_BY_MONAI = {"run", "training", "evaluating", "initialize", "finalize"}
_OF_TRACKING = {"experiment_name", "run_name", "save_execute_config"}
"""What MONAI's own `--tracking` reads besides."""


def unknown_keys(named: Mapping[str, Any]) -> list[str]:
    """Find overrides and keys of overlays that the first config file does not know and nothing refers to.

    Arguments of a component are left to the component, which refuses those that it does not have.

    Args:
        named: arguments of the bundle command, see `settings.named_arguments`.

    Returns:
        One line for each; empty when all are known or no config file is named.
    """
    files = config_files(named.get("config_file", ""))
    if not files:
        return []
    config, *overlays = [read_config(path) for path in files]
    used = {str(named.get(name)) for name in ("run_id", "init_id", "final_id")} | _RUN_BY_MONAI
    used |= {
        name
        for content in (config, *overlays, named)
        for name in re.findall(r"@(\w+)", json.dumps(content, default=str))
    }
    faults = []
    for path, overlay in zip(files[1:], overlays, strict=True):
        faults += [_fault(key, config, f"{key} in {path.name}") for key in overlay if not _is_read(key, config, used)]
        config = config | {key.lstrip("+"): value for key, value in overlay.items() if key.lstrip("+") not in config}
    used |= _OF_TRACKING if "tracking" in named else set()
    overrides = [name for name in named if name not in NOT_OVERRIDES and not _is_read(name, config, used)]
    return faults + [_fault(name, config, f"--{name} in the command line") for name in overrides]


def config_files(value: str | Sequence[str]) -> list[Path]:
    """Read `X.json` or a list as MONAI's command line takes it: `"['X.json','Y.json']"`, or as a list.

    >>> [path.name for path in config_files("['a/X.json','a/Y.json']")]
    ['X.json', 'Y.json']
    """
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
    return [Path(part.strip(" '\"")) for part in parts if part.strip(" '\"")]


def read_config(path: Path) -> dict[str, Any]:
    """Return a JSON or YAML file of a bundle.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a file of keys and values.
    """
    from monai.bundle import ConfigParser  # takes seconds, needed here only

    try:
        content: dict[str, Any] = ConfigParser.load_config_file(path)
    except json.JSONDecodeError as error:
        raise ValueError(f"config file must be JSON, got an error in {path}: {error}. Mend that line.") from error
    return content


def _is_read(key: str, config: Mapping[str, Any], used: set[str]) -> bool:
    top, *_ = _parts(key)
    return top in used if top not in config else _nearest(key, config) is None


def _nearest(key: str, config: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """Return the part of a key that is not there and those that are in its place; None when all are."""
    node: Any = config
    for part in _parts(key):
        if isinstance(node, dict) and ("_target_" in node or not node):
            return None  # arguments of a component, or a setting that is a table
        if isinstance(node, dict) and part not in node:
            return part, sorted(node)
        if not isinstance(node, dict | list):
            return None  # a reference or an expression
        node = (
            node[int(part)]
            if isinstance(node, list) and part.isdigit() and int(part) < len(node)
            else (node[part] if isinstance(node, dict) else None)
        )
    return None


def _parts(key: str) -> list[str]:
    return re.split("#|::", key.lstrip("+"))


def _fault(key: str, config: Mapping[str, Any], given: str) -> str:
    part, available = _nearest(key, config) or (key, sorted(config))
    close = difflib.get_close_matches(part, available, n=1)
    prefix = "--" if given.startswith("--") else ""
    whole = f"{prefix}{key[: key.rindex(part)].lstrip('+')}{close[0]}" if close else ""
    hint = f"Did you mean {whole}?" if close else f"Available: {[name for name in available if name != 'imports']}"
    return f"override must be a key of the config file, got {given}. {hint}"
