"""Figures that the tests of hardening measure: shown together when the run ends.

Each test has a short form, which runs by default, and a long one, marked `faults`, which
`bash launch/test.sh --faults` runs.  docs/reliability.md holds the table of the long ones.
"""

import pytest


@pytest.fixture
def figure(record_property):
    """`figure("50 kills, 0 steps lost")` -> the line is shown when the run ends."""
    return lambda line: record_property("figure", line)


def pytest_terminal_summary(terminalreporter):
    """Print the figures of all tests that passed or failed."""
    rows = [
        (report.nodeid, line)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for name, line in report.user_properties
        if name == "figure"
    ]
    if rows:
        terminalreporter.section("figures")
        for nodeid, line in sorted(rows):
            terminalreporter.write_line(f"{nodeid.split('::', 1)[-1]}: {line}")
