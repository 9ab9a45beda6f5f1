"""The node's processes, which outlive whoever starts them.

Each carries in its environment whose node it belongs to, and hands that down to what it starts. So they are
found in /proc, all of them, whatever became of the process that started them: there is no file of process ids
that could be missing or name another process by now.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NODE_VARIABLE, NAME_VARIABLE = "TUNESMITH_TESTBED_NODE", "TUNESMITH_TESTBED_PROCESS"
POLL_SECONDS = 0.02
BORN_SECONDS = 1.0
"""How long a process may take to be seen; one that ends at once never is."""
PROC = Path("/proc")
SESSION, VIRTUAL_SIZE, ENVIRONMENT_END = 6, 23, 51
"""Fields of /proc/PID/stat, counted as proc_pid_stat(5) does."""


@dataclass(frozen=True)
class Running:
    """A process of the node; one that was started by name leads a session of its own."""

    pid: int
    name: str
    leads: bool


@dataclass(frozen=True)
class Processes:
    """Starts, finds and ends them; their logs lie below the node's folder."""

    folder: Path

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        beside: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start one under a name, in a session of its own; it leads one by the time that this returns.

        Args:
            name: of its log, and to find it by.
            command: with its arguments.
            beside: a process whose mounts it shall see.
            environment: variables beyond those of this process.
        """
        into = [] if beside is None else ["nsenter", f"--mount=/proc/{beside}/ns/mnt", "--"]
        marks = {NODE_VARIABLE: str(self.folder), NAME_VARIABLE: name}
        log_path = self.log_path(name)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", *into, *command],
                env={**os.environ, **(environment or {}), **marks},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
            )
        deadline = time.monotonic() + BORN_SECONDS
        while self.pid(name) is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def all(self) -> list[Running]:
        """Those of this node, with what they have started."""
        return [one for folder, one in _marked() if folder == str(self.folder)]

    def pid(self, name: str) -> int | None:
        """Of the one that was started under this name, while it runs."""
        return next((one.pid for one in self.all() if one.leads and one.name == name), None)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM, seconds: float = 10) -> None:
        """Send one a signal and wait for its end; it is killed if that takes too long."""
        pid = self.pid(name)
        if pid is None:
            return
        for each in (number, signal.SIGKILL):
            self._signal(pid, each)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if self.pid(name) != pid:
                    return
                time.sleep(POLL_SECONDS)
        raise TimeoutError(f"{name} (process {pid}) does not end.")

    def kill_all(self, names: Collection[str] | None = None, seconds: float = 20) -> None:
        """Kill all of them, until twice none is found: one may be born where the look has been.

        Args:
            names: only those that were started under these, with what they have started.
            seconds: for all of it.
        """
        deadline = time.monotonic() + seconds
        looks_in_vain = 0
        while looks_in_vain < 2:
            found = [one for one in self.all() if names is None or one.name in names]
            looks_in_vain = 0 if found else looks_in_vain + 1
            for one in found:
                self._signal(one.pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"These processes do not end: {found}")
            time.sleep(POLL_SECONDS)

    def log_path(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def log(self, name: str, characters: int = 3_000) -> str:
        """The end of a process's log."""
        try:
            return self.log_path(name).read_text(errors="replace")[-characters:]
        except FileNotFoundError:
            return ""

    def _signal(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process if it still is the node's; a descriptor names no other by then."""
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            marked = _read(pid)
            if marked is not None and marked[0] == str(self.folder):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _marked() -> Iterator[tuple[str, Running]]:
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (found := _read(int(entry.name))):
            yield found


def _read(pid: int) -> tuple[str, Running] | None:
    try:
        variables = _environment(pid).split(b"\0")
        own = dict(one.split(b"=", 1) for one in variables if one.startswith(b"TUNESMITH_TESTBED_"))
        if NODE_VARIABLE.encode() not in own:
            return None
        session = _stat(pid, SESSION)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    name = own.get(NAME_VARIABLE.encode(), b"")
    return own[NODE_VARIABLE.encode()].decode(), Running(pid, name.decode(), session == pid)


def _environment(pid: int) -> bytes:
    """A process's variables.

    It has none while the system puts another program into it, which lasts as long as a disk takes to bring
    what it starts with; that is waited for.
    """
    path = PROC / str(pid) / "environ"
    while not (variables := path.read_bytes()) and _becomes_another(pid):
        time.sleep(POLL_SECONDS)
    return variables or path.read_bytes()


def _becomes_another(pid: int) -> bool:
    """Whether it lacks variables, but not memory, as the system's own processes and ended ones do."""
    return _stat(pid, VIRTUAL_SIZE) > 0 and _stat(pid, ENVIRONMENT_END) == 0


def _stat(pid: int, field: int) -> int:
    # The second field is a name, which may hold anything; the third is the first after it.
    return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[field - 3])
