"""Checks side by side: those that are late or break down stop nobody."""

import threading
import time

from prostate_alm.doctor.findings import Finding, run_checks


def test_late_and_broken_checks_stop_nobody() -> None:
    blocked = threading.Event()

    def fails() -> list[Finding]:
        raise RuntimeError("first\nsecond")

    def waits() -> list[Finding]:
        blocked.wait(60)
        return []

    good = Finding("good", "ok", "here")
    start = time.monotonic()
    found = run_checks({"late": waits, "broken": fails, "good": lambda: [good]}, deadline_s=0.5)
    assert time.monotonic() - start < 5
    blocked.set()
    assert [(one.check, one.level) for one in found] == [("late", "note"), ("broken", "note"), ("good", "ok")]
    assert found[1].found == "could not be checked: RuntimeError: first"
