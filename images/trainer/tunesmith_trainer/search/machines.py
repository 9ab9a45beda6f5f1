"""Where trials run: this machine alone, or every node of the Ray cluster that it is one of."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from tunesmith_api.reasons import SpecInvalid
from tunesmith_trainer.devices import Device

ADDRESS = "RAY_ADDRESS"
"""Ray's own variable; Ray sets it for a job that was submitted to a cluster."""
JOIN_SECONDS = 120.0
"""How long to wait for the other nodes; whoever comes later is used too."""
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Machines:
    """What there is to run trials on.

    Attributes:
        count: of machines.
        threads: processors of the smallest, as Ray counts them; 0 on one machine, which counts its own.
        here: the resource that Ray gives to this node alone; empty on one machine.
    """

    count: int = 1
    threads: int = 0
    here: str = ""

    @property
    def first(self) -> Self:
        """This machine alone."""
        return replace(self, count=1)

    def slots(self, device: Device) -> int:
        """How many trials may run at once: no more than there are processors."""
        return self.count * (self.threads or device.threads)


@dataclass(frozen=True)
class Share:
    """What one running trial may use of its machine.

    Attributes:
        cpus: threads.
        gpus: GPUs or a part of one.
        slots: the processors that Ray counts for it. On one machine Ray counts trials, one slot each.
        node: the resource of the only node it may run on; empty for any.
    """

    cpus: float
    gpus: float
    slots: float = 1.0
    node: str = ""

    @property
    def resources(self) -> dict[str, float]:
        """The same as Ray Tune wants it."""
        place = {self.node: 0.001} if self.node else {}
        return {"cpu": self.slots, "gpu": self.gpus, **place}


def trial_share(
    device: Device, parallel: int, gpus_per_trial: float | None, machines: Machines | None = None
) -> Share:
    """Divide the machines among ``parallel`` trials, so that together they fit."""
    machines = machines or Machines()
    beside = math.ceil(parallel / machines.count)
    gpus = 0.0
    if device.gpus:
        # More than the machine has would wait for ever, and beyond one Ray knows whole GPUs only.
        gpus = min(gpus_per_trial or device.gpus / beside, float(device.gpus))
        gpus = gpus if gpus < 1 else float(int(gpus))
    cpus = max(1.0, (machines.threads or device.threads) // beside)
    if not machines.here:
        return Share(cpus, gpus)
    return Share(cpus, gpus, slots=cpus, node=machines.here if machines.count == 1 else "")


def require_cluster() -> None:
    """See that there is a cluster to join.

    Raises:
        SpecInvalid: this process was not started on a node of one.
    """
    if not os.environ.get(ADDRESS):
        raise SpecInvalid(
            "compute.workers asks for several machines, and this runs on one.",
            "Set spec.compute.workers to 0, or submit the job to a cluster that has KubeRay.",
        )


@contextlib.contextmanager
def ray_cluster(nodes: int, note: Callable[[str], None]) -> Iterator[Machines]:
    """The Ray cluster that this process was started on, for the duration of the block.

    Args:
        nodes: how many it should have.
        note: told when some of them do not come.
    """
    import ray

    _in_thread(_join)
    try:
        yield _machines(nodes, note)
    finally:
        ray.shutdown()


def _join() -> None:
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(address=os.environ[ADDRESS], log_to_driver=False, configure_logging=False)


def _in_thread(work: Callable[[], None]) -> None:
    """Off the main thread Ray leaves the process's handler of SIGTERM alone; its C++ does not."""
    from tunesmith_trainer.search.local_ray import keeping_handler

    caught: list[BaseException] = []

    def run() -> None:
        try:
            with keeping_handler(signal.SIGTERM):
                work()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run, name="ray", daemon=True)
    thread.start()
    thread.join()
    for error in caught:
        raise error


def _machines(nodes: int, note: Callable[[str], None]) -> Machines:
    import ray

    deadline = time.monotonic() + JOIN_SECONDS
    while len(alive := _alive()) < nodes and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if len(alive) < nodes:
        note(f"{len(alive)} of {nodes} pods have joined; the search begins without the others.")
    here = ray.get_runtime_context().get_node_id()
    (own,) = [one for one in alive if one["NodeID"] == here]
    threads = min(int(one["Resources"].get("CPU", 1)) for one in alive)
    # With others to come the share of a trial is that of all of them.
    return Machines(max(nodes, len(alive)), max(1, threads), f"node:{own['NodeManagerAddress']}")


def _alive() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [one for one in nodes if one["Alive"]]
