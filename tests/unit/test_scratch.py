"""The folder for temporary files: whose it is, and when it goes."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tunesmith_trainer.scratch import open_scratch

HOLD = """
import sys, time
from pathlib import Path
from tunesmith_trainer.scratch import open_scratch

with open_scratch(Path(sys.argv[1])) as folder:
    (folder / "big").write_bytes(b"checkpoint")
    print(folder, flush=True)
    time.sleep(600)
"""


def hold(cache: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A process that has a scratch folder, and that folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(cache)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().decode().strip())


def test_scratch_is_the_home_of_all_temporary_files_and_gone_afterwards(tmp_path: Path) -> None:
    before = tempfile.gettempdir()
    with open_scratch(tmp_path) as folder, tempfile.NamedTemporaryFile() as file:
        assert Path(file.name).parent == folder
    assert tempfile.gettempdir() == before
    assert not folder.exists()


def test_scratch_of_a_living_process_stays_and_that_of_a_killed_one_goes(tmp_path: Path) -> None:
    process, theirs = hold(tmp_path)
    with process:
        with open_scratch(tmp_path) as ours:
            assert theirs != ours
            assert (theirs / "big").exists()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        with open_scratch(tmp_path):
            assert not theirs.exists()


def test_scratch_of_a_process_killed_before_it_had_its_lock_goes(tmp_path: Path) -> None:
    (tmp_path / "run-abc").mkdir()
    with open_scratch(tmp_path):
        assert not (tmp_path / "run-abc").exists()


def test_scratch_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "run-notes.txt").touch()
    with open_scratch(tmp_path):
        pass
    assert (tmp_path / "runs").is_dir()
    assert (tmp_path / "run-notes.txt").exists()
