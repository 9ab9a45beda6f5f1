"""Stopping: at once where Python runs, in time where it does not."""

import signal
import subprocess
import sys
import textwrap

import pytest

BUSY = {
    "in Python": "while True: pass",
    "in code that takes errors for its own": """
        while True:
            try:
                sum(range(1_000))
            except Exception:
                pass
    """,
    "in C code that no signal interrupts": "(1 << 400_000_000) // 3 ** 10_000_000",
}


@pytest.mark.parametrize("what", [pytest.param(code, id=name) for name, code in BUSY.items()])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_asked_to_stop_ends_whatever_it_is_busy_with(what: str, number: signal.Signals) -> None:
    program = f"""
import os
from tunesmith_trainer.interruption import Stopped, stop_on_signals

stop_on_signals(lambda: os._exit(75), grace_seconds=0.5)
try:
    print("busy", flush=True)
{textwrap.indent(textwrap.dedent(what).strip(), "    ")}
except Stopped:
    os._exit(75)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        process.send_signal(number)
        assert process.wait(30) == 75


def test_children_are_ended_and_nobody_else() -> None:
    program = """
import subprocess, sys
from tunesmith_trainer.interruption import end_children

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
end_children()
sys.exit(child.wait() != -9)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
