"""A process that is asked to end before it has begun."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith_api.reasons import EXIT_CODES, Reason

AS_FIRST = (
    ["unshare", "--pid", "--fork", "--kill-child"],
    ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"],
)
"""Makes a command the first process of a namespace, as in a container; the second is for ordinary users."""


@pytest.fixture(scope="module")
def as_first() -> list[str]:
    for command in AS_FIRST:
        try:
            if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
                return command
        except FileNotFoundError:
            break
    pytest.skip("This machine lets nobody make a namespace of processes (unshare --pid).")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["tunesmith_operator", "tunesmith_predictor", "tunesmith_trainer"])
def test_the_first_process_of_a_container_hears_a_signal_while_it_still_imports(
    module: str, number: signal.Signals, as_first: list[str], tmp_path: Path
) -> None:
    (tmp_path / "argparse.py").write_text("import time\nprint('busy', flush=True)\ntime.sleep(600)\n")
    command = [*as_first, sys.executable, "-m", module]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(tmp_path)}
    ) as outside:
        try:
            assert outside.stdout is not None
            assert outside.stdout.readline() == b"busy\n"
            first = int(Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text())
            os.kill(first, number)
            assert outside.wait(30) == EXIT_CODES[Reason.INTERRUPTED]
        finally:
            outside.kill()
