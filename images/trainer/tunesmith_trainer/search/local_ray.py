"""Ray on this machine alone: lean, loopback only, startable early in the background, gone without a trace.

``ray.init`` takes six seconds on two idle cores, and a worker process as long again for its imports. Both can
happen while the trainer itself imports, lists and decodes (``start_early``), and they happen without what one
machine has no use for: the dashboard's API server, the autoscaler's monitor and the log monitor, each of them
a Python process. ``search/README.md`` has the measurements.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_package.processors import allowed_processors
from tunesmith_trainer.interruption import Stopped

OBJECT_STORE_BYTES = 80 * 2**20
"""Only configurations and metrics travel between processes; images and features are read from disk."""
PREFIX = "ts-ray-"
SOCKET_FOLDER_LENGTH = 30
"""Characters that the path of the temporary folder may have: sockets lie 70 deeper, and Unix allows 107."""
UNNEEDED = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of ``ray._private.node.Node`` that start processes for clusters and dashboards, and for which
``ray.init`` has no switch. Should a later Ray rename them, it starts with all its processes, only slower."""
PRELOAD = ("tunesmith_trainer.search.head_trials",)
"""What worker processes import as they start. Heads come first and need nothing else."""
STOP_SECONDS = 4.0
"""How long Ray may take to end; it needs a tenth of that when its processes are still there."""

IDLE_MILLISECONDS = 3_600_000
"""How long a worker process may wait for its next trial."""
LAUNCH_SECONDS = 1.0
"""How long a start waits at most for the processes to run."""
NODE_SECONDS = 30.0
"""How long to ask often; then Ray's own patience begins."""
START_ATTEMPTS = 3
"""How often Ray is started when it does not answer in its time."""


class LocalRay:
    """The Ray of this process. ``start`` returns at once, ``wait`` when Ray is ready.

    Args:
        slots: trials that may run at once, counted as Ray's processors. As many worker processes are started
            ahead of the first trial.
        gpus: GPUs that trials may share; None lets Ray look for them.
        preload: modules that every worker imports as it starts.
    """

    def __init__(self, slots: int, gpus: int | None, preload: Sequence[str] = PRELOAD) -> None:
        self.slots, self.gpus, self.preload = slots, gpus, tuple(preload)
        self._error: Exception | None = None
        self._folder: str | None = None
        self._thread: threading.Thread | None = None
        self._launched, self._ready, self._over = (threading.Event() for _ in range(3))

    def start(self) -> None:
        """Start Ray in a thread. Off the main thread Ray leaves the process's handler of SIGTERM alone.

        Returns when Ray's processes run, which takes a tenth of a second; a caller that imports meanwhile
        would make it half a second.
        """
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)
        self._thread.start()
        self._launched.wait(LAUNCH_SECONDS)

    def wait(self) -> None:
        """Wait until Ray is ready.

        Raises:
            Exception: whatever kept Ray from starting.
        """
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End every process of Ray and remove its files; waits for a start that is under way.

        Ray waits for a minute when somebody else ended its processes (a signal to the whole process group
        does). Nothing is left to wait for then.
        """
        self._over.set()
        if self._thread is not None:
            self._ready.wait()
            self._thread.join(STOP_SECONDS)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self) -> None:
        """Start Ray, and stay: Linux ends Ray's processes when the thread that started them ends."""
        try:
            parent = _temporary_folder()
            remove_leftovers(parent)
            self._folder = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=parent)
            _init(self.slots, self.gpus, self.preload, self._folder, self._launched)
            self._ready.set()
            self._over.wait()
            _shutdown()
        except Exception as error:
            self._error = error
            _shutdown()
        finally:
            self._launched.set()
            self._ready.set()


def _init(
    slots: int, gpus: int | None, preload: Sequence[str], folder: str, launched: threading.Event
) -> None:
    import ray
    from ray._private import utils
    from ray._private.node import Node
    from ray._private.state import GlobalState

    logging.getLogger("ray").setLevel(logging.ERROR)
    with contextlib.ExitStack() as stack:
        stack.enter_context(keeping_handler(signal.SIGTERM))
        for name in UNNEEDED:
            stack.enter_context(_replaced(Node, name, lambda original: lambda *args, **kwargs: None))
        # As if Ray had been installed without its dashboard, which only clusters need: otherwise the agent of
        # this node imports all of that, and so does this process before.
        missing = ImportError("not on one machine")
        stack.enter_context(
            _replaced(utils, "get_dashboard_dependency_error", lambda original: lambda: missing)
        )
        asking = functools.partial(_asking_often, launched)
        stack.enter_context(_replaced(GlobalState, "get_node", asking))
        start = functools.partial(
            ray.init,
            address="local",
            num_cpus=slots,
            num_gpus=gpus,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder,
            _system_config={
                "preload_python_modules": list(preload),
                "enable_metrics_collection": False,
                # Ray would run trials at 15, behind anything else that this machine does.
                "worker_niceness": 0,
                # Workers started ahead are to be there when the first trial comes; Ray gives them a second.
                "idle_worker_killing_time_threshold_ms": IDLE_MILLISECONDS,
                # A worker with a process group of its own that is about to join when the rest is killed waits
                # half a minute for a server that is gone; in the trainer's group it ends with the trainer.
                "process_group_cleanup_enabled": False,
            },
        )
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                start()
                return
            except Exception as error:
                # Ray gives its own server 30 seconds, whatever else the machine has to do, and no setting.
                if attempt == START_ATTEMPTS or "timed out during startup" not in str(error):
                    raise
                ray.shutdown()


def _asking_often(
    launched: threading.Event, original: Callable[[Any, str], Any]
) -> Callable[[Any, str], Any]:
    """Ray's ``GlobalState.get_node``, noticing soon that the node is there.

    Ray asks once, as a rule a moment too early, and then sleeps for a second. Its processes run by then.
    """

    def get_node(state: Any, node: str) -> Any:
        launched.set()
        last = time.monotonic() + NODE_SECONDS
        while all(one["NodeID"] != node for one in state.node_table()) and time.monotonic() < last:
            time.sleep(0.02)
        return original(state, node)

    return get_node


@contextlib.contextmanager
def keeping_handler(number: signal.Signals) -> Iterator[None]:
    """Put the process's own handler of a signal back after the block, from whatever thread.

    Ray's C++ installs one for SIGTERM that prints a stack and sets an alarm, which aborts the process three
    seconds later however well it was ending (absl's ``alarm_on_failure_secs``).
    """
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype = put.restype = ctypes.c_void_p
    put.argtypes = [ctypes.c_int, ctypes.c_void_p]
    handler = get(number)
    try:
        yield
    finally:
        put(number, handler)


def _shutdown() -> None:
    import ray
    from ray._private import worker

    node = worker._global_node
    infos: dict[str, list[Any]] = {} if node is None else node.all_processes
    started = [one.process for each in infos.values() for one in each]
    ray.shutdown()
    for process in started:  # Ray itself waits for a second each, which a busy machine can exceed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS / 2)


@contextlib.contextmanager
def _replaced(owner: object, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Have a method or function be ``make`` of it for the duration of the block, if there is such a one."""
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def _temporary_folder() -> Path:
    """The system's temporary folder, or ``/tmp`` where that one's path is too long for sockets."""
    folder, short = Path(tempfile.gettempdir()), Path("/tmp")
    usable = short.is_dir() and os.access(short, os.W_OK | os.X_OK)
    return short if len(str(folder)) > SOCKET_FOLDER_LENGTH and usable else folder


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of trainers that were killed before they could do it themselves."""
    processes = Path("/proc")
    if not (processes / "self").exists():
        return
    for folder in parent.glob(f"{PREFIX}*"):
        owner = folder.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not (processes / owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def remove_own_folders() -> None:
    """Remove this process's folders, whose processes somebody else has ended."""
    for folder in _temporary_folder().glob(f"{PREFIX}{os.getpid()}-*"):
        shutil.rmtree(folder, ignore_errors=True)


_early: LocalRay | None = None


def trial_slots(spec: TrainingJobSpec) -> int:
    """How many trials run at once at most: one batch of heads, then ``parallelTrials`` fine-tunings.

    No more than there are processors: each slot is a process of some hundred megabytes, and a network as well
    when it trains.
    """
    search = spec.search
    if "FineTune" not in spec.transfer.strategies:
        return 1
    wanted = min(search.parallel_trials, search.max_fine_tune_trials, search.num_trials)
    return max(1, min(wanted, allowed_processors()))


def start_early(slots: int, gpus: int | None, preload: Sequence[str] = PRELOAD) -> None:
    """Start Ray in the background, for ``local_ray`` to find it ready."""
    global _early
    if _early is None:
        # Here, because two threads that import take longer than one after the other.
        import ray  # noqa: F401

        _early = LocalRay(slots, gpus, preload)
        _early.start()


def stop_early() -> None:
    """End a Ray that was started early and that nobody came to use."""
    global _early
    running, _early = _early, None
    if running is not None:
        running.stop()


@contextlib.contextmanager
def local_ray(slots: int, gpus: int | None, preload: Sequence[str] = PRELOAD) -> Iterator[None]:
    """Ray for the duration of the block: the one that was started early, or else one of its own.

    When the process was asked to stop, Ray is left as it is, for the end of the process to take it along
    (``interruption.end_descendants``): whoever uses Ray in another thread while it shuts down has it end the
    process, with an exit code of Ray's choice.
    """
    global _early
    running, _early = _early, None
    if running is None:
        running = LocalRay(slots, gpus, preload)
        running.start()
    try:
        running.wait()
        yield
    except Stopped:
        raise
    except BaseException:
        running.stop()
        raise
    running.stop()
