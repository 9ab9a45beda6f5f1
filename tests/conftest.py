"""What all tests share: calm property tests, two processes side by side, and a list of what was left out."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent

# A busy machine is slow, not wrong.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under ``-n 2 --dist loadgroup`` one process plays what shares a control plane, the other the rest."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        group = "controlplane" if folder == "controlplane" else "rest"
        item.add_marker(pytest.mark.xdist_group(group))


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
