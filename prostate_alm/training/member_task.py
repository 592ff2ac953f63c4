"""One training of a member as a command of the bundle, and what a process that runs it needs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prostate_alm.shipped import config_files_of

_KEEP_FREED_MEMORY = {
    # glibc gives large buffers back to the system after each layer and gets them again, page by page, for the next:
    # up to a quarter of a step (benchmarks/cifar10_member.py). Other C libraries ignore these names.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}


@dataclass(frozen=True)
class MemberTask:
    """One run of a bundle's training: its config file or overlay, the member's folder, the command's overrides."""

    config_file: Path
    output_dir: Path
    overrides: Mapping[str, Any]

    def arguments(self) -> list[str]:
        """Return what follows `python -m monai.bundle`; a run that was interrupted is resumed."""
        named = {
            "config_file": _files(self.config_file),
            **self.overrides,
            "output_dir": self.output_dir,
            "resume": True,
        }
        pairs = [(f"--{name}", _word(value)) for name, value in named.items()]
        return ["run", "training", *(part for pair in pairs for part in pair)]

    def to_json(self) -> str:
        """Return the task in one line, as `fanout_worker` reads it."""
        return json.dumps({"arguments": self.arguments(), "log_file": str(self.log_file)})

    @property
    def log_file(self) -> Path:
        """File beside the member's folder that holds what the command printed."""
        return self.output_dir.with_name(f"{self.output_dir.name}.log")


@dataclass(frozen=True)
class TaskEnd:
    """How a task ended; `failure` is None when its results are there, else one line that says why not."""

    task: MemberTask
    failure: str | None


def _files(config_file: Path) -> Any:
    """Return the config file as the bundle command takes it: one, or a list where it is an overlay."""
    first, *others = config_files_of(config_file)
    return [str(path) for path in (first, *others)] if others else first


def _word(value: Any) -> str:
    """Return a value as the command line of a bundle takes it: a Python literal, or a word that is none.

    >>> [_word(value) for value in (True, 9, None, "a_fl", "2024", {"gamma": 4})]
    ['True', '9', 'None', 'a_fl', "'2024'", "{'gamma': 4}"]
    """
    text = str(value)
    if not isinstance(value, str | Path):
        return text
    looks_like_a_literal = not text or text[0] in "0123456789+-.'\"([{" or text in ("True", "False", "None")
    return repr(text) if looks_like_a_literal and not text.startswith(("./", "../")) else text


def worker_environment() -> dict[str, str]:
    """Return what the environment of a process that trains members must say, before it starts.

    One thread until a member sets its own number (`threads` of its settings): whatever the machine and the other jobs.
    """
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **_KEEP_FREED_MEMORY}
