"""What all tests share: calm property tests, two processes side by side, and a list of what was left out."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# A busy machine is slow, not wrong.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


class SideBySide(LoadScopeScheduling):  # type: ignore[misc]
    """Under ``-n 2`` one process plays the tests that share a control plane, the other the rest."""

    def _split_scope(self, nodeid: str) -> str:
        return "controlplane" if nodeid.startswith("tests/controlplane/") else "rest"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SideBySide:
    """Marks for groups would do the same, but xdist 3.8 loses them under pytest 9.2."""
    return SideBySide(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was skipped and why, once for each file and reason."""
    left_out: Counter[tuple[str, str]] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        file, _, reason = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, report.longrepr)
        place = report.nodeid.partition("::")[0] or Path(file).name
        left_out[place, str(reason).removeprefix("Skipped: ")] += 1
    if not left_out:
        terminalreporter.section("Nothing was left out")
        return
    terminalreporter.section("Left out on this machine")
    for (place, reason), count in sorted(left_out.items()):
        terminalreporter.write_line(f"- {place}: {count} {'test' if count == 1 else 'tests'}: {reason}")
