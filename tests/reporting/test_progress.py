"""Progress: a bar on a terminal, lines elsewhere."""

import io
import logging
import sys
import time

import pytest

from tpgdiff_jax.reporting import progress
from tpgdiff_jax.reporting.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is told otherwise."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_half_minute_and_at_the_end(caplog, clock):
    with (
        caplog.at_level(logging.INFO, logger="absl"),
        Progress(100, "scoring", initial=10) as shown,
    ):
        for _ in range(9):
            clock[0] += 10
            shown.advance(10)
    assert caplog.messages == [
        "scoring: 50 of 100 images of this process, 1.00/s, 00:50 left",
        "scoring: 90 of 100 images of this process, 1.00/s, 00:10 left",
        "scoring: 100 of 100 images of this process, 1.00/s, 00:00 left",
    ]


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with (
        caplog.at_level(logging.INFO, logger="absl"),
        Progress(2, "degrading", unit="pair") as shown,
    ):
        shown.advance()
        shown.show(loss="0.5")
        shown.advance()
    said = terminal.getvalue()
    assert "degrading" in said
    assert "2/2" in said
    assert "loss=0.5" in said
    assert not caplog.messages


def test_a_bar_shows_time_passing_while_one_unit_takes_long(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_TICK_SECONDS", 0.01)
    with Progress(1, "restoring") as shown:
        drawn = len(terminal.getvalue())
        end = time.monotonic() + 20
        while len(terminal.getvalue()) == drawn:
            assert time.monotonic() < end
            time.sleep(0.01)
        shown.advance()
    said = terminal.getvalue()
    time.sleep(0.05)
    assert terminal.getvalue() == said  # nothing is drawn over what follows
    assert said.rstrip().endswith("]")


@pytest.mark.parametrize("silent", [{"speaks": False}, {"lines": False}])
def test_who_is_told_not_to_speak_says_nothing(caplog, silent):
    with caplog.at_level(logging.INFO, logger="absl"), Progress(1, "scoring", **silent) as shown:
        shown.advance()
    assert not caplog.messages


def test_only_process_0_speaks(monkeypatch, caplog):
    monkeypatch.setattr(progress.jax, "process_index", lambda: 1)
    with caplog.at_level(logging.INFO, logger="absl"), Progress(1, "scoring") as shown:
        shown.advance()
    assert not caplog.messages
