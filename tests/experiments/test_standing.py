import logging

import pytest

from prostate_alm.experiments.standing import Clock, Standing, show_standing


def test_the_time_left_is_that_of_the_members_that_ended_here() -> None:
    times = iter([100.0, 160.0])
    clock = Clock(lambda: next(times))
    assert clock.seconds_left(0, 10) is None
    assert clock.seconds_left(4, 10) == 150.0  # 15 s each, however many run at once


def test_without_a_terminal_there_is_a_line_at_the_start_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    show = show_standing("first")
    for done in range(4):
        show(Standing(done, 0, 3, None))
    assert [record.message for record in caplog.records] == ["first: 0 of 3 members", "first: 3 of 3 members"]
    assert str(Standing(1, 2, 9, 7800.0)) == "1 of 9 members, 2 failed, about 2 h 10 min left"
