"""A bar where somebody looks at a terminal, a line of log elsewhere."""

import logging
import sys

import pytest

from prostate_alm.progress import progress_bar, silent


class Terminal:
    """A stream that says it is a terminal, and keeps what is written."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_elsewhere_it_is_a_line_of_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert progress_bar("reading studies") is silent
    assert caplog.messages == ["reading studies ..."]


def test_a_terminal_sees_how_much_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("prostate_alm.progress._DELAY_S", 0)
    show = progress_bar("reading studies", unit="study")
    for done in range(1, 4):
        show(done, 3)
    assert "reading studies" in terminal.text
    assert "3/3" in terminal.text


def test_a_log_without_warnings_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(logging.getLogger("prostate_alm.progress"), "disabled", True)
    assert progress_bar("reading studies") is silent
