"""Stopping: at once where Python runs, in time where it does not."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

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


def test_descendants_stand_still_for_the_last_chores_and_end_and_nobody_else_does() -> None:
    program = """
import subprocess, sys
from pathlib import Path
from tunesmith_trainer.interruption import end_descendants

PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', %r], stdout=sys.stdout).wait()"
CHILD = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"

def state(process):
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]

child = subprocess.Popen([sys.executable, "-c", PARENT % CHILD], stdout=subprocess.PIPE)
grandchild = int(child.stdout.readline())
seen = []
end_descendants(lambda: seen.extend([state(child.pid), state(grandchild)]))
assert child.wait(30) == -9
child.stdout.read()  # until nobody can write to it any more
sys.exit(seen != ["T", "T"])
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_a_search_that_is_inside_of_ray_when_asked_to_stop_ends_with_our_code_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    program = f"""
import os
from pathlib import Path
from ray import tune
from ray._private.worker import global_worker
from tunesmith_trainer.command import end
from tunesmith_trainer.devices import Device
from tunesmith_trainer.interruption import Stopped, stop_on_signals
from tunesmith_trainer.search.engine import Share, local_ray, report, run

class Endless(tune.Trainable):
    def setup(self, config):
        pass
    def step(self):
        return report(1.0, {{}}, done=False)

class Asks:
    configs = [{{"id": "one"}}]
    def next(self):
        return self.configs.pop() if self.configs else None
    def result(self, trial_id, metrics):
        print("inside", flush=True)
        while True:
            global_worker.core_worker.get_current_task_id()  # as Ray does before nearly everything else
    def ended(self, trial_id, *, failed):
        pass

stop_on_signals(lambda: os._exit(1), grace_seconds=30)
try:
    with local_ray(Device("cpu", 2, 0, None), 1):
        run(Endless, Asks(), Share(1.0, 0.0), parallel=1, scratch=Path({str(tmp_path)!r}))
except Stopped:
    end(75)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"inside\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
        assert not list(Path("/tmp").glob(f"ts-ray-{process.pid}-*"))
        process.stdout.read()  # until the last process that could write to it is gone
