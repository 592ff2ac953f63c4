"""What a check says, and checks side by side until a deadline."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Literal

Level = Literal["ok", "note", "problem"]
"""A problem keeps something needed from working; a note is worth knowing."""


@dataclass(frozen=True)
class Finding:
    """What a check found, in words, and what to do about it; `advice` may be empty."""

    check: str
    level: Level
    found: str
    advice: str = ""


Check = Callable[[], Sequence[Finding]]


def run_checks(checks: Mapping[str, Check], *, deadline_s: float) -> list[Finding]:
    """Run checks side by side and return what they found, in the order of the checks.

    A check that takes longer or breaks down is a note: neither stops the others.

    Args:
        checks: by name.
        deadline_s: after which a check is left to itself, in seconds from now.
    """
    results: dict[str, Sequence[Finding]] = {}

    def run(name: str, check: Check) -> None:
        try:
            results[name] = check()
        except Exception as error:  # whatever it is, the other checks still help
            first = (str(error).splitlines() or [""])[0]
            results[name] = [Finding(name, "note", f"could not be checked: {type(error).__name__}: {first}")]

    # daemons: a file system or a name server that hangs must not keep the process from its end
    threads = [threading.Thread(target=run, args=item, daemon=True) for item in checks.items()]
    end = monotonic() + deadline_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
    late = f"no answer within {deadline_s:g} s"
    advice = "Run it again when the machine is less busy."
    return [one for name in checks for one in results.get(name, [Finding(name, "note", late, advice)])]
